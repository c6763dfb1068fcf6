"""Single rows of a Parquet file of a dataset: which have a value, and what is in one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.lake.store import Dataset

_BATCH = 64  # rows decoded at once to find one


def rows_with(dataset: Dataset, file: str, column: str, value: str | bytes) -> list[int]:
    """The rows of the file that have the value, ascending. Reads one column of the row groups that may."""
    found: list[int] = []
    with dataset.parquet(file) as opened:
        start = 0
        for group in range(opened.num_row_groups):
            about = opened.metadata.row_group(group)
            if _may_hold(about, column, value):
                values = opened.read_row_group(group, columns=[column], use_threads=False)[column]
                is_equal = pc.equal(values, _scalar(value, values.type))
                found += [start + row for row in pc.indices_nonzero(is_equal).to_pylist()]
            start += about.num_rows
    return found


def read_row(dataset: Dataset, file: str, number: int, columns: list[str] | None = None) -> dict[str, Any]:
    """One row of the file. Decodes the columns of its row group up to the row."""
    with dataset.parquet(file) as opened:
        group = 0
        while number >= opened.metadata.row_group(group).num_rows:
            number -= opened.metadata.row_group(group).num_rows
            group += 1
        for batch in opened.iter_batches(_BATCH, row_groups=[group], columns=columns, use_threads=False):
            if number < len(batch):
                row: dict[str, Any] = batch.slice(number, 1).to_pylist()[0]
                return row
            number -= len(batch)
    raise AssertionError("unreachable")


def _scalar(value: str | bytes, kind: pa.DataType) -> pa.Scalar:
    """As ``pa.scalar``, which imports pandas: that takes longer than the search of a million rows."""
    content = value.encode() if isinstance(value, str) else value
    offsets = [] if pa.types.is_fixed_size_binary(kind) else [pa.py_buffer(np.array([0, len(content)], np.int32))]
    return pa.Array.from_buffers(kind, 1, [None, *offsets, pa.py_buffer(content)])[0]


def _may_hold(group: pq.RowGroupMetaData, column: str, value: str | bytes) -> bool:
    """Whether the statistics of a row group allow the value."""
    chunks = map(group.column, range(group.num_columns))
    about = next((chunk.statistics for chunk in chunks if chunk.path_in_schema == column), None)
    if about is None:
        return True
    if about.has_null_count and about.null_count == group.num_rows:
        return False
    return not about.has_min_max or bool(about.min <= value <= about.max)
