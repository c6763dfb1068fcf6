"""The pages stage: fetches every kept link, which ends in one row.

    links/<snapshot>/part-00007.parquet  ->  pages/<snapshot>/part-00007.parquet           one row per settled link
                                                              part-00007-00000.warc.gz ..   the pages received whole
                                                              handoff/part-00007.parquet    links gone to another domain
                                                              dead/part-00007.parquet       links for the archives

Links are partitioned by registrable domain. So only one part sends requests to a domain, and politeness needs no shared
state. A redirect to another domain therefore leaves its part: it is handed off to the next round, whose parts
(``part-1-00000`` ...) are partitioned by the targets' domains. At most ``max_redirects`` such rounds follow. If
archives are configured, a last round looks dead links up. Over all rounds each link has exactly one row, so ``rows_in``
of pages equals ``rows_out`` of links.

A part consists of segments, which survive a kill (data/pages/segments.py). The byte budget is divided among the parts
by their number of links, so parts need not know of each other.

Cost: see docs/benchmarks.md. A part of a later round reads all handoffs of the round before it, file by file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.http.guard import Guard
from data.lake.manifest import Manifest, Part
from data.lake.names import is_part_name, parse_part_name, part_name
from data.lake.store import Dataset, Lake
from data.pages.answers import Known, WhyBlocked
from data.pages.crawl import fetch_links
from data.pages.crawllog import CrawlLog, CrawlStats
from data.pages.frontier import Link
from data.pages.job import Budget, Job
from data.pages.known import earlier_pages, known_pages
from data.pages.politeness import HostMemory
from data.pages.revive import LOOKED_UP, look_up
from data.pages.segments import Segments, remove_segments
from data.stage import Mapper, StageResult, in_turn, run_stage
from data.urls.canonical import block_reason, domain_of, part_of

ROUND_PART_LINKS = 20_000  # links per part of a later round; LinksConfig.part_links is the same for the first round


def run(
    lake: Lake,
    snapshot: str,
    config: PagesConfig,
    mapper: Mapper = in_turn,
    *,
    history: Sequence[str] | None = None,
    log: Path | None = None,
) -> StageResult:
    """Fetch the links of a snapshot. Raises InputError if there are none, or for an invalid setting.

    ``history`` names earlier snapshots whose pages are requested with conditions; None: see known.earlier_pages.
    ``log`` is a file to which every crawl task appends JSON lines.
    """
    Guard.of(config)
    links = lake.dataset("links", snapshot).require()
    dataset = lake.dataset("pages", snapshot)
    deadline_at = None if config.deadline_s is None else time.time() + config.deadline_s
    earlier = earlier_pages(lake, snapshot, history)

    def rounds() -> Iterator[list[str]]:
        yield _link_parts(links)
        for round_ in range(1, config.max_redirects + 1):
            yield [part_name(index, round_) for index in range(_n_parts(_parts_of_round(dataset, round_ - 1)))]
        for name in _archive_parts(dataset, config):
            yield [name]  # one at a time: an archive is one host
        parts = _parts(dataset)
        n_rows = sum(part.rows_in for part in parts)
        if n_rows != links.rows_out:
            raise InputError(
                f"{dataset.label}: {n_rows} rows for {links.rows_out} links; an earlier part was lost and fetched anew "
                f"after later ones were made from it; remove {dataset.label} and run again"
            )

    with lake.lock("crawl"):  # one crawl at a time, because two snapshots may have the same hosts
        outcome = run_stage(
            dataset,
            config,
            {"links": links.digest, **{f"known:{manifest.snapshot}": manifest.digest for manifest in earlier}},
            rounds,
            partial(make_part, lake.root, snapshot, config, deadline_at, tuple(m.snapshot for m in earlier), log),
            mapper,
        )
    if not outcome.skipped:
        _tidy(dataset, outcome.manifest)
    return outcome


def _tidy(dataset: Dataset, manifest: Manifest) -> None:
    """Remove what killed runs left: records and rows of segments, WARC files of segments that were never recorded."""
    remove_segments(dataset, [part for name, part in dataset.sealed().items() if not is_part_name(name)])
    dataset.lake.remove(*dataset.names("segments"))
    named = {file.path for part in manifest.parts for file in part.files}
    for name in dataset.lake.names(*dataset.names()):
        if name.endswith(".warc.gz") and name not in named:
            dataset.lake.remove(*dataset.names(name))


def make_part(
    lake_root: str,
    snapshot: str,
    config: PagesConfig,
    deadline_at: float | None,
    earlier: tuple[str, ...],
    log: Path | None,
    name: str,
) -> Part:
    """Fetch and seal one part; ``deadline_at`` is in seconds since the epoch. May run in any thread or process."""
    lake = Lake(lake_root)
    dataset, links = lake.dataset("pages", snapshot), lake.dataset("links", snapshot)
    manifest = links.require()
    with (
        lake.scratch() as scratch,
        CrawlLog(log, snapshot) as crawl_log,
        Segments(dataset, name, scratch, config) as segments,
    ):
        settled = segments.settled_urls()
        is_archive_round = parse_part_name(name)[0] > config.max_redirects
        dead = [] if not is_archive_round else _dead_rows(dataset, config, name)
        tasks, n_parts, share = ([], 1, 1.0) if is_archive_round else _tasks(dataset, manifest, name)
        known: dict[str, Known] = {}
        if earlier:
            domains = {domain_of(link.url) for link in tasks}
            known = known_pages(lake, earlier, domains, parse_part_name(name)[1], n_parts)
        job = Job(
            config=config,
            scratch=scratch,
            segments=segments,
            memory=HostMemory(lake, snapshot, name, time.time),
            stats=CrawlStats(name),
            log=crawl_log,
            block_reason=_block_reason(manifest),
            budget=_budget(dataset, config, deadline_at, name, share, segments.wire_bytes),
            known=known,
        )
        if is_archive_round:
            rows = [row for row in dead if row["canonical_url"] not in settled]
            look_up(rows, _submitted(dataset, rows), job)
            return segments.finish()
        left = (link for link in tasks if link.canonical_url not in settled)
        del tasks  # so that settled links free their memory, which the table of a long part needs
        fetch_links(left, job)
        return segments.finish(LOOKED_UP if config.archives else frozenset())


def _tasks(dataset: Dataset, links: Manifest, name: str) -> tuple[list[Link], int, float]:
    """The links of a part in order, the number of parts in its round, and the part's share of the round's links.

    Links that an earlier refresh deferred come first, then links with higher karma.
    """
    round_, index = parse_part_name(name)
    if not round_:
        source = dataset.lake.dataset("links", dataset.snapshot)
        table = source.read(f"{name}.parquet", ["canonical_url", "karma", "deferred_from", "status"])
        table = table.filter(pc.equal(table["status"], "ok"))
        table = table.append_column("is_new", pc.is_null(table["deferred_from"]))
        table = table.sort_by([("is_new", "ascending"), ("karma", "descending"), ("canonical_url", "ascending")])
        urls, karma = table["canonical_url"].to_pylist(), table["karma"].to_pylist()
        found = [Link(url, url, k) for url, k in zip(urls, karma, strict=True)]
        return found, len(_link_parts(links)), len(found) / max(1, links.rows_out)
    sources = _parts_of_round(dataset, round_ - 1)
    n_parts = _n_parts(sources)
    found = []
    for part in sources:
        for row in dataset.read(f"handoff/{part.name}.parquet").to_pylist():
            if part_of(domain_of(row["target_url"]), n_parts) == index:
                found.append(Link(row["canonical_url"], row["target_url"], row["karma"], tuple(row["seen"])))
    found.sort(key=lambda link: (-(link.karma or 0), link.canonical_url))
    return found, n_parts, len(found) / max(1, sum(part.extra["handed_off"] for part in sources))


def _archive_parts(dataset: Dataset, config: PagesConfig) -> list[str]:
    """The parts of the archive round, which follows all rounds of redirects."""
    n_dead = sum(part.extra["dead"] for part in _parts(dataset)) if config.archives else 0
    return [part_name(index, config.max_redirects + 1) for index in range(-(-n_dead // ROUND_PART_LINKS))]


def _dead_rows(dataset: Dataset, config: PagesConfig, name: str) -> list[dict[str, Any]]:
    """The rows that a part of the archive round looks up, those with higher karma first."""
    index, n_parts = parse_part_name(name)[1], len(_archive_parts(dataset, config))
    rows = []
    for part in _parts(dataset):
        if parse_part_name(part.name)[0] <= config.max_redirects and part.extra["dead"]:
            found = dataset.read(f"dead/{part.name}.parquet").to_pylist()
            rows += [row for row in found if part_of(domain_of(row["canonical_url"]), n_parts) == index]
    return sorted(rows, key=lambda row: (-(row["karma"] or 0), row["canonical_url"]))


def _submitted(dataset: Dataset, rows: list[dict[str, Any]]) -> dict[str, datetime]:
    """The known times at which the rows' links were first submitted, by canonical URL."""
    links = dataset.lake.dataset("links", dataset.snapshot)
    names = _link_parts(links.require())
    wanted = {part_of(domain_of(row["canonical_url"]), len(names)) for row in rows}
    urls = pa.array([row["canonical_url"] for row in rows], pa.string())
    found: dict[str, datetime] = {}
    for index in sorted(wanted):
        table = links.read(f"{names[index]}.parquet", ["canonical_url", "submitted_at"])
        table = table.filter(pc.and_(pc.is_in(table["canonical_url"], urls), pc.is_valid(table["submitted_at"])))
        found.update(zip(table["canonical_url"].to_pylist(), table["submitted_at"].to_pylist(), strict=True))
    return found


def _link_parts(links: Manifest) -> list[str]:
    """The parts of links with rows to fetch. The others hold the counts of the sources."""
    return [part.name for part in links.parts if is_part_name(part.name)]


def _parts(dataset: Dataset) -> list[Part]:
    """The sealed parts in order of their names, without segments."""
    return [part for _, part in sorted(dataset.sealed(is_part_name).items())]


def _parts_of_round(dataset: Dataset, round_: int) -> list[Part]:
    return [part for part in _parts(dataset) if parse_part_name(part.name)[0] == round_]


def _n_parts(sources: list[Part]) -> int:
    """How many parts a later round has, from the parts of the round before it."""
    return -(-sum(part.extra["handed_off"] for part in sources) // ROUND_PART_LINKS)


def _budget(
    dataset: Dataset, config: PagesConfig, deadline_at: float | None, name: str, share: float, spent: int
) -> Budget:
    """The budget of this part: all the time left, and its share of the bytes that earlier rounds have left.

    ``spent``: bytes that earlier runs of this part have received.
    """
    left_s = None
    if deadline_at is not None and config.deadline_s is not None:  # the clock may have been set back meanwhile
        left_s = min(config.deadline_s, max(0.0, deadline_at - time.time()))
    if config.max_bytes is None:
        return Budget(left_s)
    round_ = parse_part_name(name)[0]
    earlier = [part for part in _parts(dataset) if parse_part_name(part.name)[0] < round_]
    left = max(0, config.max_bytes - sum(part.extra["wire_bytes"] for part in earlier))
    return Budget(left_s, max(0, int(left * share) - spent))


def _block_reason(links: Manifest) -> WhyBlocked:
    """The block rules of the links, for the targets of their redirects."""
    settings = links.settings
    rules = LinksConfig(profile=settings["profile"], block_domains=tuple(settings["block_domains"]))
    return lambda url: block_reason(url, rules)
