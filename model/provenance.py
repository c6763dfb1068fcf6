"""Which documents a range of training tokens comes from, with their URLs.

Token shards hold documents in a fixed order, with the number of tokens of each. So a position in the corpus
(model/loader.py) leads to a row, the row to a ``doc_id``, and the text part that holds the document to its URL. Shards
are in the order of hashes, so text parts are searched one by one. This reads 20 bytes per document of the whole corpus,
and the URLs of the parts that have one. It takes seconds: good for a report, not for training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.lake.names import base_snapshot
from data.lake.store import Lake


@dataclass(frozen=True)
class SourceDocument:
    """A document of a corpus and its place in it."""

    snapshot: str
    part: str  # train/part-00012.parquet
    doc_id: str  # in hexadecimal
    start: int  # its first token's position among the split's tokens
    n_tokens: int
    url: str | None = None  # None: its text is not in the lake


def find_documents(
    lake: Lake, snapshots: Sequence[str], spans: Iterable[tuple[int, int]], split: str = "train"
) -> list[SourceDocument]:
    """The documents that the token ranges ``[first, end)`` of a corpus touch, each once, in corpus order.

    Raises InputError if a snapshot is missing or a range is outside the corpus.
    """
    wanted = sorted(spans)
    found: list[SourceDocument] = []
    end = 0
    for snapshot, part, n_tokens in _shards(lake, snapshots, split):
        ends = end + np.cumsum(n_tokens, dtype=np.int64)
        rows = _touched(wanted, ends - n_tokens, ends)
        if rows:
            ids = lake.dataset("tokens", snapshot).read(part, ["doc_id"]).column("doc_id")
            found += [
                SourceDocument(
                    snapshot, part, ids[row].as_py().hex(), int(ends[row] - n_tokens[row]), int(n_tokens[row])
                )
                for row in rows
            ]
        end = int(ends[-1]) if len(ends) else end
    outside = [span for span in wanted if span[0] < 0 or span[1] > end]
    if outside:
        raise InputError(f"tokens {outside[0][0]} to {outside[0][1]}: {','.join(snapshots)} has {end}")
    by_snapshot = {
        name: _urls(lake, name, [bytes.fromhex(one.doc_id) for one in found if one.snapshot == name])
        for name in dict.fromkeys(snapshots)
    }
    return [dataclasses.replace(one, url=by_snapshot[one.snapshot].get(one.doc_id)) for one in found]


def _shards(lake: Lake, snapshots: Sequence[str], split: str) -> Iterator[tuple[str, str, npt.NDArray[np.int64]]]:
    """Snapshot, file and the lengths of its documents, in corpus order."""
    for snapshot in snapshots:
        dataset = lake.dataset("tokens", snapshot)
        for file in dataset.require().files_in(split):
            column = dataset.read(file.path, ["n_tokens"]).column("n_tokens")
            yield snapshot, file.path, column.to_numpy().astype(np.int64)


def _touched(spans: Sequence[tuple[int, int]], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[int]:
    """The rows whose tokens ``[start, end)`` overlap any span, ascending."""
    rows: set[int] = set()
    for first, end in spans:
        low = np.searchsorted(ends, first, "right")
        high = np.searchsorted(starts, end, "left")
        rows.update(range(int(low), int(high)))
    return sorted(rows)


def _urls(lake: Lake, snapshot: str, doc_ids: Sequence[bytes]) -> dict[str, str]:
    """URLs by doc_id in hexadecimal. A document whose text is not in the lake is left out."""
    text = lake.dataset("text", base_snapshot(snapshot))
    manifest = text.manifest()
    wanted = pa.array(sorted(set(doc_ids)), pa.binary(16))
    urls: dict[str, str] = {}
    for part in manifest.parts if manifest else ():
        if len(urls) == len(wanted):
            break
        ids = text.read(f"{part.name}.parquet", ["doc_id"]).column("doc_id")
        rows = pc.indices_nonzero(pc.is_in(ids, value_set=wanted))
        if len(rows):
            found = text.read(f"{part.name}.parquet", ["url"]).column("url").take(rows)
            urls |= zip((one.hex() for one in ids.take(rows).to_pylist()), found.to_pylist(), strict=True)
    return urls
