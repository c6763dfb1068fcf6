"""Links: from submission dumps to one row per distinct outbound URL, with its karma and what became of it.

Two rounds. The first reads each source as a stream; submissions with an outbound link are written sorted by the hash of
their registrable domain (an external sort: runs of ``spill_rows``, then ranges of the hash). The second makes the link
parts: part k of 2**b holds the domains whose hash starts with the b bits of k, so whole domains, and reads only the row
groups of its range. It merges the submissions of a canonical URL, as WebText did (the paper, section 2.1): the karma
of a URL is the highest score any of its submissions got.

    source-00000.parquet          SUBMISSIONS with an outbound link
    source-00000.malformed.json   how many lines were malformed, and number and reason of the first NAMED_LINES
    part-00000.parquet            columns of schema.LINKS, sorted by canonical_url

Every line is counted once: in its source, or, if it has an outbound link, in the part of its domain.

About 20,000 lines a second and core, JSON and both rounds included. Memory: ``spill_rows`` submissions, or those of the
largest domain of a source where that is more; a part's submissions as Arrow columns. The order in which the sources are
given does not matter.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.config import LinksConfig
from data.lake import Dataset, Lake, part_name, write_parquet
from data.manifest import Part
from data.merge import merged_links
from data.schema import LinkStatus
from data.sources import MAX_LINE_BYTES, Source, find_sources, read_lines
from data.stage import Mapper, Outcome, in_turn, run_stage
from data.submissions import Rejected, Submission, parse_dump_line, parse_url_line
from data.urls import canonical_url, check_rules, domain_of, partition_of

SUBMISSIONS = pa.schema(
    [
        ("partition", pa.uint64()),  # urls.partition_of(domain)
        ("site", pa.string()),
        ("id", pa.string()),
        ("subreddit", pa.string()),
        ("url", pa.string()),
        ("canonical_url", pa.string()),
        ("domain", pa.string()),
        ("score", pa.int64()),
        ("created", pa.timestamp("ms", tz="UTC")),
        ("observed_at", pa.timestamp("ms", tz="UTC")),
        ("is_listed", pa.bool_()),
        ("source", pa.string()),
    ]
)
NAMED_LINES = 100
"""Malformed lines of a source whose number and reason are kept; all are counted."""

_ROW_GROUP = 10_000


def run(lake: Lake, snapshot: str, sources: Sequence[str], config: LinksConfig, mapper: Mapper = in_turn) -> Outcome:
    """Read ``sources`` (paths of dumps, ``urls:FILE``) into ``links/<snapshot>``.

    Raises InputError for bad settings and for a source that is missing, empty, damaged or of an unknown kind; then
    nothing is published, and what was sealed before stays.
    """
    check_rules(config)
    found = find_sources(sources)
    dataset = lake.dataset("links", snapshot)

    def rounds() -> Iterator[list[str]]:
        yield [_source_name(index) for index in range(len(found))]
        yield [part_name(index) for index in range(_n_parts(dataset, len(found), config))]

    if dataset.manifest() is None and not lake.names(*dataset.names("_parts")):
        lake.remove(
            *dataset.names("_begun.json")
        )  # nothing was made: a mended source, which has another hash, may begin
    return run_stage(
        dataset,
        config,
        {f"source:{source.label}": source.sha256 for source in found},
        rounds,
        functools.partial(make_part, lake.root, snapshot, config, tuple(found)),
        mapper,
    )


def make_part(lake_root: str, snapshot: str, config: LinksConfig, sources: tuple[Source, ...], name: str) -> Part:
    """Make and seal one part: a source's submissions, or the links of a range of domains."""
    dataset = Lake(lake_root).dataset("links", snapshot)
    kind, _, index = name.partition("-")
    if kind == "source":
        return _make_source(dataset, sources[int(index)], config, name)
    return _make_links(dataset, len(sources), config, int(index))


def find_link(lake: Lake, snapshot: str, url: str) -> dict[str, Any] | None:
    """The row of schema.LINKS of a URL, in any spelling; None if no source had it.

    Raises ValueError for what is no URL of a link, InputError if the links are not published.
    """
    canonical = canonical_url(url)
    dataset = lake.dataset("links", snapshot)
    n_parts = sum(part.name.startswith("part-") for part in dataset.require().parts)
    index = partition_of(domain_of(canonical)) * n_parts >> 64
    table = dataset.read(f"{part_name(index)}.parquet")
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["canonical_url"], canonical)).to_pylist()
    return rows[0] if rows else None


def _source_name(index: int) -> str:
    return f"source-{index:05d}"


def _n_parts(dataset: Dataset, n_sources: int, config: LinksConfig) -> int:
    """The smallest power of two that gives parts of at most ``part_links`` submissions on average."""
    names = (f"{_source_name(index)}.json" for index in range(n_sources))
    outbound: int = sum(dataset.lake.read_json(*dataset.names("_parts", name))["extra"]["outbound"] for name in names)
    return 1 << (max(0, outbound - 1) // config.part_links).bit_length()


def _make_source(dataset: Dataset, source: Source, config: LinksConfig, name: str) -> Part:
    """The first round: one source's lines, judged; those with an outbound link are sorted and kept."""
    parse = parse_url_line if source.is_url_list else parse_dump_line
    counts: Counter[LinkStatus] = Counter()
    malformed: list[dict[str, int | str]] = []
    blank = outbound = 0
    with dataset.lake.scratch() as folder:
        runs = _Runs(folder, config.spill_rows, source.label)
        for line in read_lines(source):
            if line.body is None:
                found: Submission | Rejected = Rejected(
                    LinkStatus.MALFORMED_LINE, f"longer than {MAX_LINE_BYTES:,} bytes"
                )
            elif not line.body.strip():
                blank += 1
                continue
            else:
                found = parse(line.body)
            if isinstance(found, Submission):
                outbound += 1
                runs.add(found)
                continue
            counts[found.status] += 1
            if found.status is LinkStatus.MALFORMED_LINE and len(malformed) < NAMED_LINES:
                malformed.append({"line": line.number, "reason": found.reason})
        files = {f"{name}.parquet": folder / "submissions.parquet", f"{name}.malformed.json": folder / "malformed.json"}
        runs.write_sorted(files[f"{name}.parquet"])
        report = {"source": source.label, "malformed_lines": counts[LinkStatus.MALFORMED_LINE], "first": malformed}
        files[f"{name}.malformed.json"].write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
        # The rows follow from the source, whose hash is among the inputs: the counts stand for them in the digest.
        kept = sorted([("outbound", outbound), *((str(status), n) for status, n in counts.items())])
        return dataset.seal(
            name,
            files,
            pa.table({"what": [what for what, _ in kept], "lines": [n for _, n in kept]}),
            counts={str(status): n for status, n in counts.items()},
            rows={f"{name}.parquet": outbound},
            extra={"lines": sum(counts.values()) + outbound, "blank_lines": blank, "outbound": outbound},
        )


class _Runs:
    """An external sort of submissions by partition; equal ones keep their order. Runs are memory-mapped Arrow files."""

    def __init__(self, folder: Path, spill_rows: int, label: str) -> None:
        self.folder, self.spill_rows, self.label = folder, spill_rows, label
        self.rows: list[Submission] = []
        self.paths: list[Path] = []
        self.n_rows = 0

    def add(self, row: Submission) -> None:
        self.rows.append(row)
        if len(self.rows) >= self.spill_rows:
            self._spill()

    def write_sorted(self, path: Path) -> None:
        """All rows as one Parquet file, row groups of at most ``_ROW_GROUP``."""
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

    def _spill(self) -> None:
        if not self.rows:
            return
        columns = dict(zip(Submission._fields, zip(*self.rows, strict=True), strict=True))
        columns["created"], columns["observed_at"] = columns.pop("created_ms"), columns.pop("observed_ms")
        columns["partition"] = tuple(partition_of(domain) for domain in columns["domain"])
        columns["source"] = (self.label,) * len(self.rows)
        table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in SUBMISSIONS})
        path = self.folder / f"run-{len(self.paths):05d}.arrow"
        with pa.ipc.new_file(str(path), SUBMISSIONS) as writer:
            writer.write_table(_sorted_by_partition(table))
        self.paths.append(path)
        self.n_rows += len(self.rows)
        self.rows = []


def _sorted_by_partition(table: pa.Table) -> pa.Table:
    return table.take(np.argsort(table["partition"].to_numpy(), kind="stable"))


def _cuts(partitions: Any, ranges: int) -> list[int]:
    """Where each of ``ranges`` (a power of two) equal ranges of the hash begins in a sorted column, and its end."""
    starts = np.array([_range_start(index, ranges) for index in range(ranges)], dtype=np.uint64)
    return [*np.searchsorted(partitions, starts).tolist(), len(partitions)]


def _range_start(index: int, ranges: int) -> int:
    return (index << 64) // ranges


def _make_links(dataset: Dataset, n_sources: int, config: LinksConfig, index: int) -> Part:
    """The second round: the submissions of the part's domains, merged by canonical URL."""
    name = part_name(index)
    n_parts = _n_parts(dataset, n_sources, config)
    first, last = _range_start(index, n_parts), _range_start(index + 1, n_parts) - 1
    key = pc.field("partition")
    within = (key >= pa.scalar(first, pa.uint64())) & (key <= pa.scalar(last, pa.uint64()))
    tables = []
    for source in range(n_sources):
        with dataset.lake.open(*dataset.names(f"{_source_name(source)}.parquet")) as file:
            tables.append(pq.read_table(file, filters=within))
    submissions = pa.concat_tables(tables)
    table = merged_links(submissions, config)
    counts = Counter(table["status"].to_pylist())
    counts[LinkStatus.MERGED] += len(submissions) - len(table)
    with dataset.lake.scratch() as folder:
        write_parquet(table, folder / "links.parquet")
        return dataset.seal(
            name,
            {f"{name}.parquet": folder / "links.parquet"},
            table,
            counts=dict(counts),
            rows={f"{name}.parquet": len(table)},
        )
