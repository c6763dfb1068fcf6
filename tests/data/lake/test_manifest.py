"""Digests of rows: which changes affect them and which must not."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.config import LinksConfig, SelectConfig, content_settings, operational_settings
from data.errors import InputError
from data.lake.manifest import File, Manifest, Part, add_counts, corpus_digest, json_digest, rows_digest, settings_diff
from data.schema import STAGES, STATUSES

ROWS = {
    "text": pa.array(["a", None, "", "bc"]),
    "ids": pa.array([[1, 2], None, [], [3]], pa.list_(pa.uint16())),
    "names": pa.array([["x"], ["", "y"], [], None], pa.list_(pa.string())),
    "key": pa.array([b"0" * 16, b"1" * 16, None, b"2" * 16], pa.binary(16)),
    "number": pa.array([1, None, 3, 4], pa.int32()),
    "share": pa.array([0.5, None, 1.0, 2.0], pa.float32()),
    "at": pa.array(
        [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), None, None, None], pa.timestamp("ms", tz="UTC")
    ),
    "flag": pa.array([True, False, None, True]),
}


def test_chunks_slices_and_files_do_not_affect_the_digest(tmp_path) -> None:
    table = pa.table(ROWS)
    digest = rows_digest(table)
    assert rows_digest(pa.concat_tables([table.slice(0, 1), table.slice(1)])) == digest
    assert rows_digest(pa.concat_tables([table, table]).slice(4)) == digest
    pq.write_table(table, tmp_path / "t.parquet", compression="gzip", row_group_size=2)
    assert rows_digest(pq.read_table(tmp_path / "t.parquet")) == digest
    assert rows_digest(table.slice(0, 0)) != digest


@pytest.mark.parametrize("column", list(ROWS))
def test_every_column_affects_the_digest(column: str) -> None:
    table = pa.table(ROWS)
    index = table.column_names.index(column)
    values = table.column(column).to_pylist()
    other = pa.array(values[::-1], table.column(column).type)
    assert rows_digest(table.set_column(index, column, other)) != rows_digest(table)


def test_moving_text_between_strings_changes_the_digest() -> None:
    assert rows_digest(pa.table({"a": ["ab", "c"]})) != rows_digest(pa.table({"a": ["a", "bc"]}))
    assert rows_digest(pa.table({"a": [["ab"], ["c"]]})) != rows_digest(pa.table({"a": [["ab", "c"], []]}))
    assert rows_digest(pa.table({"a": [None]}, pa.schema([("a", pa.string())]))) != rows_digest(pa.table({"a": [""]}))


def test_volatile_columns_do_not_affect_the_digest() -> None:
    one = pa.table({"url": ["u"], "warc_offset": [1], "warc_file": ["a"]})
    two = pa.table({"url": ["u"], "warc_offset": [2], "warc_file": ["b"]})
    assert rows_digest(one) == rows_digest(two)


def test_a_part_whose_counts_do_not_add_up_is_refused() -> None:
    with pytest.raises(AssertionError, match="part-00000"):
        Part("part-00000", 3, {"ok": 1, "empty": 1}, "d", ())


def test_content_and_operational_settings_are_separate() -> None:
    content = content_settings(LinksConfig())
    operational = operational_settings(LinksConfig())
    assert content["min_karma"] == 3
    assert operational == {
        "spill_rows": 200_000,
        "workers": 0,
        "max_download_bytes": 200_000_000_000,
        "hn_items_url": "https://hacker-news.firebaseio.com/v0",
        "hn_search_url": "https://hn.algolia.com/api/v1",
        "reddit_url": "https://www.reddit.com",
    }
    assert not content.keys() & operational.keys()
    assert content_settings(SelectConfig())["drop_domains"] == ["wikipedia.org"]
    with pytest.raises(InputError, match="bands x rows must equal permutations, got 3 x 8 != 112"):
        SelectConfig(bands=3)


def manifest(digest: str, *paths: str) -> Manifest:
    parts = tuple(Part(path, 0, {}, "d", (File(path, 0, 0, "s"), File(f"{path}.log", 0, 0, "s"))) for path in paths)
    return Manifest("tokens", "s", {}, {}, {}, parts, 0, {}, {}, digest, "1", 0.0, "now")


def test_files_in_a_folder_follow_the_order_of_the_parts() -> None:
    found = manifest("d", "train/b", "val/b", "train/a", "training", "train2/c")
    assert [file.path for file in found.files_in("train")] == ["train/b", "train/b.log", "train/a", "train/a.log"]
    assert found.files_in("test") == []


def test_the_digest_of_a_corpus_depends_on_its_datasets_and_their_order() -> None:
    one = manifest("1")
    two = manifest("2")
    assert corpus_digest([one, two]) == json_digest(["1", "2"])
    assert len({corpus_digest(some) for some in ([one], [two], [one, two], [two, one])}) == 4


def test_helpers() -> None:
    assert add_counts([{"b": 1, "a": 2}, {"b": 3}]) == {"a": 2, "b": 4}
    assert settings_diff({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == "b: 2 -> 3, c: '(none)' -> 4"


def test_statuses_are_words_with_an_explanation() -> None:
    assert tuple(STATUSES) == STAGES
    for statuses in STATUSES.values():
        assert statuses("ok").value == "ok"
        for status in statuses:
            assert status.value.isidentifier()
            assert len(str(status.__doc__)) > 10
            assert f"{status}" == status.value
