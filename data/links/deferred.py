"""Links that an earlier snapshot deferred, as a source of the next one.

A links dataset claims them when it is begun: ``deferred:<snapshot>`` among its inputs, with the digest of that
snapshot's pages. No later snapshot takes them again. Removing the dataset that claimed them frees them.

Their submissions come from the links dataset of the snapshot that deferred them. They are merged with new submissions
of the same URL as if all had come at once. A deferred link counts as one line, however many submissions it has.

Memory: 8 bytes per deferred link, and one row group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import InputError
from data.lake.store import Dataset, Lake
from data.links.records import SUBMISSIONS, LinkRecords
from data.links.sources import Reading, Unsliced
from data.schema import PageStatus
from data.urls.canonical import partition_of

KEY = "deferred:"
_BATCH = 10_000


@dataclass(frozen=True)
class DeferredLinks(Unsliced):
    """The links that ``pages/<snapshot>`` of a lake has with status ``deferred``."""

    lake_root: str
    snapshot: str
    pages_digest: str

    @property
    def label(self) -> str:
        return f"{KEY}{self.snapshot}"

    @property
    def inputs(self) -> tuple[str, str]:
        return self.label, self.pages_digest

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:  # noqa: ARG002
        lake = Lake(self.lake_root)
        links = lake.dataset("links", self.snapshot)
        pages = lake.dataset("pages", self.snapshot)
        wanted = _deferred(pages)
        found: set[int] = set()
        for part in links.require().parts:
            for file in part.files:
                if not file.path.startswith("source-") or not file.path.endswith(".parquet"):
                    continue
                for batch in _batches(links, file.path):
                    keys = _keys(batch["canonical_url"])
                    kept = batch.filter(pa.array(_is_in(keys, wanted)))
                    if len(kept) == 0:
                        continue
                    new = set(_keys(kept["canonical_url"]).tolist()) - found
                    found |= new
                    yield LinkRecords(_deferred_from(kept, self.snapshot), len(new), Counter())
        if len(found) != len(wanted):
            raise InputError(
                f"{pages.label}: {len(wanted):,} links are deferred, {len(found):,} of them are in {links.label}; one "
                "of the two was made again: remove the pages and all later stages, and run that snapshot again"
            )


def unclaimed(lake: Lake, snapshot: str) -> dict[str, str]:
    """The other published snapshots whose deferred links nobody has claimed, with the digests of their pages."""
    claimed = set()
    for name in lake.datasets("links"):
        begun = lake.dataset("links", name).begun() if name != snapshot else None
        claimed |= {key.removeprefix(KEY) for key in (begun or {}).get("inputs", {}) if key.startswith(KEY)}
    found = {}
    for name in lake.snapshots("pages"):
        if name != snapshot and name not in claimed:
            manifest = lake.dataset("pages", name).require()
            if manifest.counts.get(str(PageStatus.DEFERRED), 0):
                found[name] = manifest.digest
    return found


def _deferred(pages: Dataset) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """64-bit hashes of the canonical URLs, sorted."""
    keys = [np.empty(0, np.uint64)]
    for part in pages.require().parts:
        table = pages.read(f"{part.name}.parquet", ["canonical_url", "status"])
        deferred = table.filter(pc.equal(table["status"], str(PageStatus.DEFERRED)))
        keys.append(_keys(deferred["canonical_url"]))
    return np.unique(np.concatenate(keys))


def _keys(urls: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([partition_of(url) for url in urls.to_pylist()], np.uint64)


def _is_in(
    keys: np.ndarray[tuple[int], np.dtype[np.uint64]], wanted: np.ndarray[tuple[int], np.dtype[np.uint64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if len(wanted) == 0:
        return np.zeros(len(keys), np.bool_)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]]
    found = wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys
    return found


def _batches(links: Dataset, file: str) -> Iterator[pa.Table]:
    with links.lake.open(*links.names(file)) as opened:
        reader = pq.ParquetFile(opened, pre_buffer=False)
        for batch in reader.iter_batches(_BATCH, use_threads=False):
            yield pa.Table.from_batches([batch])


def _deferred_from(table: pa.Table, snapshot: str) -> pa.Table:
    column = pa.repeat(pa.scalar(snapshot), len(table))
    at = table.schema.get_field_index("deferred_from")
    return table.set_column(at, "deferred_from", column).select(SUBMISSIONS.names).cast(SUBMISSIONS)
