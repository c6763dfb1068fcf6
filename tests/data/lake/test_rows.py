from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import InputError
from data.lake.rows import read_row, rows_with
from data.lake.store import Lake, write_parquet


def test_a_row_is_found_and_read_in_any_row_group(lake: Lake) -> None:
    dataset = lake.dataset("text", "s")
    names = [f"{n:05d}" for n in range(25_000)]
    names[3] = names[24_000]
    table = pa.table({"name": [None if n == "00005" else n for n in names], "n": range(25_000)})
    with lake.scratch() as folder:
        write_parquet(table, folder / "rows")
        lake.publish(folder / "rows", *dataset.names("part.parquet"))
    assert rows_with(dataset, "part.parquet", "name", "24000") == [3, 24_000]
    assert rows_with(dataset, "part.parquet", "name", "10000") == [10_000]
    assert (
        rows_with(dataset, "part.parquet", "name", "99999") == rows_with(dataset, "part.parquet", "name", "00005") == []
    )
    for number in (0, 9_999, 10_000, 24_999):
        assert read_row(dataset, "part.parquet", number, ["n"]) == {"n": number}
    assert read_row(dataset, "part.parquet", 5) == {"name": None, "n": 5}


def test_a_row_group_whose_statistics_exclude_the_value_is_not_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    dataset = lake.dataset("text", "s")
    (tmp_path / "text" / "s").mkdir(parents=True)
    path = tmp_path / "text" / "s" / "part.parquet"
    write_parquet(pa.table({"name": [f"{n:05d}" for n in range(30_000)]}), path)
    first = pq.read_metadata(path).row_group(0).column(0)
    body = bytearray(path.read_bytes())
    start = first.dictionary_page_offset or first.data_page_offset
    body[start : start + first.total_compressed_size] = bytes(first.total_compressed_size)
    path.write_bytes(body)
    assert rows_with(dataset, "part.parquet", "name", "20000") == [20_000]
    with pytest.raises(InputError, match=r"part\.parquet: not readable as Parquet"):
        rows_with(dataset, "part.parquet", "name", "00001")
