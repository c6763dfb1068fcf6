"""Links: from submissions to one row per distinct outbound URL, with its karma and its status.

There are three rounds. The first fetches the slices of live sources and seals them. The second reads each source as a
stream and writes the submissions with an outbound link, sorted by the hash of their registrable domain (an external
sort: runs of ``spill_rows``, then ranges of the hash). The third makes the link parts. Part k of 2**b holds the domains
whose hash starts with the b bits of k, so it holds whole domains and reads only the row groups of its range. It merges
the submissions of a canonical URL (data/links/merge.py).

    live-00001-00000.*            a slice of source 1, or a dump by URL
    source-00000.parquet          columns of records.SUBMISSIONS: submissions with an outbound link
    source-00000.malformed.json   the number of malformed lines; number and reason of the first NAMED_LINES
    part-00000.parquet            columns of schema.LINKS, sorted by canonical_url
    part-00000.consumed.json      files of a pattern that an earlier snapshot has read, if there are any

Every line is counted once: in the part of its domain if it has an outbound link, else in its source. A deferred link of
an earlier snapshot is one line.

Cost: benchmarks/links.py. Memory: ``spill_rows`` submissions, or the submissions of a source's largest domain if they
are more; a part's submissions as Arrow columns; data/links/workers.py. The order of the sources does not matter.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.config import PUBLIC_SUFFIX_LIST, LinksConfig, PagesConfig
from data.lake.manifest import Part
from data.lake.names import is_part_name, part_name
from data.lake.store import Dataset, Lake, write_parquet
from data.links import watermarks
from data.links.merge import merged_links, n_lines
from data.links.plan import Plan, make_plan
from data.links.records import NAMED_LINES, SUBMISSIONS, LinkRecords, Malformed
from data.links.sources import LinkSource, Reading
from data.schema import LinkStatus
from data.stage import Mapper, StageResult, in_turn, run_stage
from data.urls.canonical import canonical_url, check_rules, domain_of, part_of, unwrapped
from data.urls.copies import COPY_PATTERN

_ROW_GROUP = 10_000


def run(
    lake: Lake,
    snapshot: str,
    sources: Sequence[str],
    config: LinksConfig,
    mapper: Mapper = in_turn,
    *,
    network: PagesConfig = PagesConfig(),  # noqa: B008 - frozen
    state: Lake | None = None,
    clock: Callable[[], float] = time.time,
) -> StageResult:
    """Read ``sources`` (see data/links/plan.py) and what earlier snapshots deferred into ``links/<snapshot>``.

    ``network`` has the settings for live sources. Their watermarks advance when the dataset is published. ``state`` is
    the lake whose earlier snapshots and watermarks count, by default ``lake``; another one is only read (dry runs).
    ``clock`` returns seconds since 1970. Raises InputError for bad settings and for a source that is missing, empty,
    damaged, misspelt, or does not answer. Then nothing is published, and sealed parts stay.
    """
    check_rules(config)
    dataset = lake.dataset("links", snapshot)
    if dataset.manifest() is None and not lake.names(*dataset.names("_parts")):
        lake.remove(*dataset.names("_begun.json"))  # nothing was made, so a repaired source with another hash may begin
    with lake.scratch() as scratch:
        reading = Reading(dataset, scratch, config, network, clock)
        plan = make_plan(sources, state or lake, reading, watermarks.read(state or lake))

    def rounds() -> Iterator[list[str]]:
        for index, source in enumerate(plan.sources):  # one by one: a service gets one request at a time
            for name in _slice_names(index, source):
                yield [name]
        yield [_source_name(index) for index in range(len(plan.sources))]
        yield [part_name(index) for index in range(_n_parts(dataset, len(plan.sources), config))]

    make = functools.partial(make_part, lake.root, snapshot, config, network, clock, plan)
    outcome = run_stage(dataset, config, plan.inputs, rounds, make, mapper)
    if state is None:
        watermarks.advance(lake, snapshot, plan.marks)
    return outcome


def make_part(
    lake_root: str,
    snapshot: str,
    config: LinksConfig,
    network: PagesConfig,
    clock: Callable[[], float],
    plan: Plan,
    name: str,
) -> Part:
    """Make and seal one part: a slice, the submissions of a source, or the links of a range of domains."""
    dataset = Lake(lake_root).dataset("links", snapshot)
    kind, _, rest = name.partition("-")
    if kind == "part":
        return _make_links(dataset, plan, config, int(rest))
    with dataset.lake.scratch() as scratch:
        reading = Reading(dataset, scratch, config, network, clock)
        index, _, slice_ = rest.partition("-")
        source = plan.sources[int(index)]
        if kind == "live":
            return source.make_slice(reading, name, int(slice_))
        return _make_source(reading, source, _slice_names(int(index), source), name)


def find_link(lake: Lake, snapshot: str, url: str) -> dict[str, Any] | None:
    """The row of schema.LINKS of a URL, in any spelling; None if no source had it.

    Reads the one part that holds the URL's domain. Where the links were made with another public suffix list, domains
    may differ, so it reads every part.

    Raises ValueError for a URL that cannot be a link, InputError if the links are not published.
    """
    canonical = canonical_url(url)
    dataset = lake.dataset("links", snapshot)
    manifest = dataset.require()
    names = [part.name for part in manifest.parts if is_part_name(part.name)]
    if manifest.settings["public_suffix_list"] == PUBLIC_SUFFIX_LIST:
        names = [names[part_of(domain_of(canonical), len(names))]]
    for name in names:
        urls = dataset.read(f"{name}.parquet", ["canonical_url"])["canonical_url"]
        index = pc.index(urls, canonical).as_py()
        if index >= 0:
            row: dict[str, Any] = dataset.read(f"{name}.parquet").slice(index, 1).to_pylist()[0]
            return row
    return None


def _source_name(index: int) -> str:
    return f"source-{index:05d}"


def _n_parts(dataset: Dataset, n_sources: int, config: LinksConfig) -> int:
    """The smallest power of two for which parts have at most ``part_links`` submissions on average."""
    names = (f"{_source_name(index)}.json" for index in range(n_sources))
    outbound: int = sum(dataset.lake.read_json(*dataset.names("_parts", name))["extra"]["outbound"] for name in names)
    return 1 << (max(0, outbound - 1) // config.part_links).bit_length()


def _slice_names(index: int, source: LinkSource) -> list[str]:
    return [f"live-{index:05d}-{slice_:05d}" for slice_ in range(source.n_slices)]


def _make_source(reading: Reading, source: LinkSource, slices: list[str], name: str) -> Part:
    """Classify the lines of a source, and keep those with an outbound link, sorted."""
    counts: Counter[LinkStatus] = Counter()
    malformed: list[Malformed] = []
    blank = outbound = n_unwrapped = 0
    folder = reading.scratch
    runs = _Runs(folder, reading.config.spill_rows)
    for records in source.records(reading, slices):
        runs.add(records)
        counts.update(records.counts)
        malformed += records.malformed[: NAMED_LINES - len(malformed)]
        blank += records.blank
        outbound += records.outbound
        n_unwrapped += _n_unwrapped(records.table)
    files = {f"{name}.parquet": folder / "submissions.parquet", f"{name}.malformed.json": folder / "malformed.json"}
    n_rows = runs.write_sorted(files[f"{name}.parquet"])
    first = [line._asdict() for line in malformed]
    report = {"source": source.label, "malformed_lines": counts[LinkStatus.MALFORMED_LINE], "first": first}
    files[f"{name}.malformed.json"].write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    # The rows follow from the source, whose hash or slices are in the digest already, so the counts suffice.
    kept = sorted([("outbound", outbound), *((str(status), n) for status, n in counts.items())])
    return reading.dataset.seal(
        name,
        files,
        pa.table({"what": [what for what, _ in kept], "lines": [n for _, n in kept]}),
        counts={str(status): n for status, n in counts.items()},
        rows={f"{name}.parquet": n_rows},
        extra={"lines": counts.total() + outbound, "blank_lines": blank, "outbound": outbound}
        | ({"unwrapped": n_unwrapped} if n_unwrapped else {}),
    )


def _n_unwrapped(submissions: pa.Table) -> int:
    """How many name an archived, cached or translated copy, and got the canonical URL of its original."""
    found = submissions.filter(pc.match_substring_regex(submissions["url"], COPY_PATTERN))
    return sum(unwrapped(url) is not None for url in found["url"].to_pylist())


class _Runs:
    """An external sort of submissions by partition; equal ones keep their order. Runs are memory-mapped Arrow files."""

    def __init__(self, folder: Path, spill_rows: int) -> None:
        self.folder = folder
        self.spill_rows = spill_rows
        self.tables: list[pa.Table] = []
        self.paths: list[Path] = []
        self.held = 0
        self.n_rows = 0

    def add(self, records: LinkRecords) -> None:
        for start in range(0, len(records.table), self.spill_rows):
            table = records.table.slice(start, self.spill_rows)
            if self.held + len(table) > self.spill_rows:
                self._spill()
            self.tables.append(table)
            self.held += len(table)

    def write_sorted(self, path: Path) -> int:
        """All rows as one Parquet file, row groups of at most ``_ROW_GROUP``; returns their number."""
        self._spill()
        ranges = 1 << (self.n_rows // self.spill_rows).bit_length()
        with pq.ParquetWriter(path, SUBMISSIONS, compression="zstd") as writer:
            runs = [pa.ipc.open_file(pa.memory_map(str(run))).read_all() for run in self.paths]
            cuts = [_cuts(run["partition"].to_numpy(), ranges) for run in runs]
            for index in range(ranges):
                pieces = [
                    run.slice(cut[index], cut[index + 1] - cut[index]) for run, cut in zip(runs, cuts, strict=True)
                ]
                table = pa.concat_tables(pieces) if pieces else SUBMISSIONS.empty_table()
                writer.write_table(_sorted_by_partition(table), row_group_size=_ROW_GROUP)
        return self.n_rows

    def _spill(self) -> None:
        if not self.held:
            return
        path = self.folder / f"run-{len(self.paths):05d}.arrow"
        with pa.ipc.new_file(str(path), SUBMISSIONS) as writer:
            writer.write_table(_sorted_by_partition(pa.concat_tables(self.tables)))
        self.paths.append(path)
        self.n_rows += self.held
        self.tables = []
        self.held = 0


def _sorted_by_partition(table: pa.Table) -> pa.Table:
    return table.take(np.argsort(table["partition"].to_numpy(), kind="stable"))


def _cuts(partitions: Any, ranges: int) -> list[int]:
    """Where each of ``ranges`` (a power of two) equal ranges of the hash begins in a sorted column, and its end."""
    starts = np.array([_range_start(index, ranges) for index in range(ranges)], dtype=np.uint64)
    return [*np.searchsorted(partitions, starts).tolist(), len(partitions)]


def _range_start(index: int, ranges: int) -> int:
    return (index << 64) // ranges


def _make_links(dataset: Dataset, plan: Plan, config: LinksConfig, index: int) -> Part:
    """The submissions of the part's domains, merged by canonical URL."""
    name = part_name(index)
    n_sources = len(plan.sources)
    n_parts = _n_parts(dataset, n_sources, config)
    first = _range_start(index, n_parts)
    last = _range_start(index + 1, n_parts) - 1
    key = pc.field("partition")
    within = (key >= pa.scalar(first, pa.uint64())) & (key <= pa.scalar(last, pa.uint64()))
    tables = []
    for source in range(n_sources):
        with dataset.lake.open(*dataset.names(f"{_source_name(source)}.parquet")) as file:
            tables.append(pq.read_table(file, filters=within))
    submissions = pa.concat_tables(tables) if tables else SUBMISSIONS.empty_table()
    table = merged_links(submissions, config)
    counts = Counter(table["status"].to_pylist())
    counts[LinkStatus.MERGED] += n_lines(submissions) - len(table)
    extra = {}
    with dataset.lake.scratch() as folder:
        files = {f"{name}.parquet": folder / "links.parquet"}
        write_parquet(table, files[f"{name}.parquet"])
        if plan.consumed and index == 0:
            files[f"{name}.consumed.json"] = folder / "consumed.json"
            listed = [dataclasses.asdict(file) for file in plan.consumed]
            files[f"{name}.consumed.json"].write_bytes(orjson.dumps(listed, option=orjson.OPT_INDENT_2))
            extra["consumed_files"] = len(listed)
        return dataset.seal(name, files, table, counts=dict(counts), rows={f"{name}.parquet": len(table)}, extra=extra)
