"""The documents that select compares: this snapshot's candidates and what earlier snapshots kept, file by file.

Every document has a rank, its place in the survivor order of all: the candidates of the earliest snapshot come first,
then those of the next one, and in a snapshot those with the higher karma (minhash.survivor_order). Ranks depend on
nothing else, so everything that is computed from them is the same for any order of the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.lake.store import Dataset
from data.select.minhash import U32

Ids = npt.NDArray[np.void]
"""16 bytes per document."""


@dataclass(frozen=True)
class Source:
    """The documents that come from one part of a text dataset.

    Columns: ``row`` in the text part, ``doc_id``, ``karma``, ``exact_hash``, ``signature``, ``band_00`` .. and
    ``rank``. A candidate has ``copy_of``, too: the rank of the first document with the same exact hash, which may be
    its own.
    """

    select: Dataset
    text: Dataset
    part: str
    base: int  # documents of earlier snapshots: add it to `rank`
    is_new: bool
    rows: int

    def columns(self, *names: str) -> list[Any]:
        """The columns as numpy arrays; ``rank`` with its base; 16 bytes as ``V16``."""
        files: dict[str, list[str]] = {}
        for name in names:
            files.setdefault(self._file(name), []).append(name)
        found = {}
        for file, some in files.items():
            table = self.select.read(f"{file}/{self.part}.parquet", some)
            for name in some:
                found[name] = plain(table.column(name))
        if "rank" in found:
            found["rank"] = found["rank"] + np.uint32(self.base)
        return [found[name] for name in names]

    def _file(self, column: str) -> str:
        if self.is_new:
            return "order" if column in ("rank", "copy_of") else "candidates"
        return "bands" if column.startswith("band_") or column == "rank" else "sig"


def plain(column: pa.ChunkedArray) -> Any:
    """The column, without nulls, as a numpy array; ``V<n>`` for values of n bytes."""
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        pieces = [
            np.frombuffer(chunk.buffers()[1], dtype=f"V{width}", count=len(chunk), offset=chunk.offset * width)
            for chunk in column.chunks
            if len(chunk)
        ]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=f"V{width}")
    return column.to_numpy()


def halves(values: Ids) -> npt.NDArray[np.uint64]:
    """Two numbers [n, 2] per 16 bytes, which sort as the bytes do."""
    return np.ascontiguousarray(values).view(">u8").astype(np.uint64).reshape(-1, 2)


def find(sources: Iterable[Source], wanted: U32, column: str) -> Any:
    """The column's values for the documents with these ranks, which are ascending; each exists once."""
    found: Any = None
    for source in sources:
        (ranks,) = source.columns("rank")
        at, rows = places(wanted, ranks)
        if len(rows):
            (values,) = source.columns(column)
            if found is None:
                found = np.empty(len(wanted), dtype=values.dtype)
            found[at] = values[rows]
    return found


def places(wanted: U32, ranks: U32) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which ``ranks`` are wanted: their indexes in ``wanted``, which is ascending, and their indexes in ``ranks``."""
    if not len(wanted):
        return np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
    at = np.searchsorted(wanted, ranks)
    at[at == len(wanted)] = 0
    rows = np.flatnonzero(wanted[at] == ranks)
    return at[rows], rows
