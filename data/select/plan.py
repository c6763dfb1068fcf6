"""What the rounds that find duplicates know in common: where the documents are, and how the work is divided."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.config import SelectConfig
from data.lake.manifest import Part
from data.lake.names import base_snapshot
from data.lake.store import Dataset, Lake, write_parquet
from data.select.sources import Source

ORDER = "order"
BUCKETS = "buckets-"
COMPARE = "compare-"
SHINGLES = "shingles-"
VERIFY = "verify-"
JUDGEMENT = "judgement"

RANGE = 4_000_000  # new documents whose hashes of a band are in memory at once
PER_PART = 4_000_000  # band hashes, pairs or members of crowds that a part handles
PER_SHINGLES_PART = 500_000  # documents whose texts a part may have to read


def band_names(config: SelectConfig) -> list[str]:
    return [f"band_{k:02d}" for k in range(config.bands)]


@dataclass(frozen=True)
class Plan:
    """One snapshot that is compared with its history. The division depends on the numbers of documents alone."""

    lake: Lake
    snapshot: str
    config: SelectConfig
    history: list[str] = field(default_factory=list)  # earliest first

    @property
    def dataset(self) -> Dataset:
        return self.lake.dataset("select", self.snapshot)

    @functools.cached_property
    def kept(self) -> list[Source]:
        """What the history kept."""
        sources = []
        base = 0
        for name in self.history:
            select = self.lake.dataset("select", name)
            manifest = select.require()
            text = self.lake.dataset("text", base_snapshot(name))
            for file in manifest.files_in("sig"):
                part = file.path.removeprefix("sig/").removesuffix(".parquet")
                sources.append(Source(select, text, part, base, is_new=False, rows=file.rows))
            base += manifest.extra["candidates"]
        return sources

    @functools.cached_property
    def n_before(self) -> int:
        """The lowest rank of a candidate."""
        return sum(self.lake.dataset("select", name).require().extra["candidates"] for name in self.history)

    @functools.cached_property
    def new(self) -> list[Source]:
        """The candidates. Their ``rank`` and ``copy_of`` are known once the part ``order`` is sealed."""
        text = self.lake.dataset("text", base_snapshot(self.snapshot))
        return [
            Source(self.dataset, text, part.name, self.n_before, is_new=True, rows=self._rows[part.name])
            for part in text.require().parts
        ]

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        """Candidates by part."""
        sealed = self.dataset.sealed(lambda name: name == ORDER)
        if not sealed:  # only the part `order` itself, which does not look at them
            return {part.name: 0 for part in self.lake.dataset("text", base_snapshot(self.snapshot)).require().parts}
        return {file.path.removeprefix("order/").removesuffix(".parquet"): file.rows for file in sealed[ORDER].files}

    @functools.cached_property
    def n_new(self) -> int:
        return sum(self._rows.values())

    # ------------------------------------------------------------------------------------------ the division

    def cells(self) -> list[tuple[str, int]]:
        """The bands and ranges of hashes."""
        return [(band, k) for band in band_names(self.config) for k in range(self.n_ranges())]

    def n_ranges(self) -> int:
        return -(-max(1, self.n_new) // RANGE)

    def n_bucket_parts(self) -> int:
        n_documents = self.n_new + sum(source.rows for source in self.kept)
        return min(len(self.cells()), -(-max(1, n_documents * self.config.bands) // PER_PART))

    def n_compare_parts(self) -> int:
        sealed = self.dataset.sealed(lambda name: name.startswith(BUCKETS))
        return -(-max(1, sum(file.rows for part in sealed.values() for file in part.files)) // PER_PART)

    def groups(self) -> list[list[Source]]:
        """The sources, as many at a time as make one part of the round `shingles`."""
        groups: list[list[Source]] = []
        n = 0
        for source in [*self.kept, *self.new]:
            if not groups or n + source.rows > PER_SHINGLES_PART:
                groups.append([])
                n = 0
            groups[-1].append(source)
            n += source.rows
        return groups

    def parts(self, prefix: str) -> list[str]:
        """What follows the prefix in the names of the sealed parts."""
        return sorted(name.removeprefix(prefix) for name in self.dataset.sealed(lambda name: name.startswith(prefix)))

    def seal(self, name: str, tables: dict[str, pa.Table], **options: Any) -> Part:
        return seal(self.dataset, name, tables, **options)


def seal(
    dataset: Dataset,
    name: str,
    tables: dict[str, pa.Table],
    *,
    counts: dict[str, int] | None = None,
    extra: dict[str, int] | None = None,
    files: dict[str, Path] | None = None,
    digested: list[pa.Table] | None = None,
) -> Part:
    """Write the tables as Parquet and seal the part. ``digested`` stands for the content of the other ``files``."""
    with dataset.lake.scratch() as folder:
        written = {path: folder / path.replace("/", "-") for path in tables}
        for path, table in tables.items():
            write_parquet(table, written[path])
        rows = {path: len(table) for path, table in tables.items()}
        every = [*tables.values(), *(digested or [])]
        return dataset.seal(
            name, {**written, **(files or {})}, every, counts=counts or {}, rows=rows, extra=extra or {}
        )
