"""Fetching links from the hostile server, as a part of a lake of its own."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.config import PagesConfig
from data.lake.manifest import Manifest
from data.lake.names import part_name
from data.lake.store import Lake, write_parquet
from data.pages.crawl import fetch_links
from data.pages.crawllog import CrawlLog, CrawlStats
from data.pages.frontier import Link
from data.pages.job import Budget, Job
from data.pages.politeness import HostMemory
from data.pages.segments import Segments
from data.schema import LINKS
from data.warc import read_payload
from tests.data.http.hostile import NET, Handler, Names, Web

FAST = {"host_delay_s": 0.0, "backoff_s": 0.0, "breaker_pause_s": 0.0, "total_timeout_s": 20.0, "read_timeout_s": 10.0}
SHORT = {"total_timeout_s": 1.5, "read_timeout_s": 0.8}
URL = "http://www.site.example/page"


class Steady(random.Random):
    """No randomness: pauses equal their values before the random factor."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


@dataclass
class Fetched:
    """The outcome of a part, sorted by link."""

    rows: list[dict[str, Any]]
    handoffs: list[dict[str, Any]]
    stats: CrawlStats

    def statuses(self) -> list[str]:
        return [row["status"] for row in self.rows]

    def by_status(self) -> dict[str, list[str]]:
        """The paths of the links, by status."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            found.setdefault(row["status"], []).append("/" + row["canonical_url"].split("/", 3)[3])
        return found


@dataclass
class Crawler:
    """Fetches links from the server; every call is one part."""

    web: Web
    folder: Path
    n_parts: int = 0

    def __post_init__(self) -> None:
        self.lake = Lake(self.folder / "lake")
        self.dataset = self.lake.dataset("pages", "s1")

    def __call__(
        self,
        *urls: str | Link,
        budget: Budget | None = None,
        resolver: Names | None = None,
        known: dict[str, Any] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.time,
        log: Path | None = None,
        part: str | None = None,
        **settings: Any,
    ) -> Fetched:
        config = PagesConfig(**(FAST | {"allow_net": (NET,)} | settings))
        links = [url if isinstance(url, Link) else Link(url, url, karma=3) for url in urls]
        name = part or f"part-{self.n_parts:05d}"
        self.n_parts += 1
        stats = CrawlStats(name)
        with (
            self.lake.scratch() as scratch,
            CrawlLog(log, "s1") as crawl_log,
            Segments(self.dataset, name, scratch, config) as segments,
        ):
            job = Job(
                config=config,
                scratch=scratch,
                segments=segments,
                memory=HostMemory(self.lake, "s1", name, clock),
                stats=stats,
                log=crawl_log,
                block_reason=lambda url: "blocked_domain" if "//blocked.example" in url else None,
                budget=budget or Budget(),
                known=known or {},
                resolver=resolver or Names(self.web),
                now=now,
                rng=Steady(0),
            )
            fetch_links(links, job)
            segments.finish()
        rows = self.dataset.read(f"{name}.parquet").to_pylist()
        return Fetched(rows, self.dataset.read(f"handoff/{name}.parquet").to_pylist(), stats)

    def one(self, url: str | Link = URL, **settings: Any) -> dict[str, Any]:
        fetched = self(url, **settings)
        assert len(fetched.rows) == 1
        return fetched.rows[0]

    def end(self, url: str, **settings: Any) -> dict[str, Any]:
        """The row of a link that may be handed off to other domains."""
        fetched = self(url, **settings)
        while fetched.handoffs:
            fetched = self(as_link(fetched.handoffs[0]), **settings)
        return fetched.rows[0]

    def body(self, row: dict[str, Any]) -> bytes:
        with self.lake.open("pages", "s1", row["warc_file"]) as file:
            return read_payload(file, row["warc_offset"])[1]


def as_link(handoff: dict[str, Any]) -> Link:
    return Link(handoff["canonical_url"], handoff["target_url"], handoff["karma"], tuple(handoff["seen"]))


LINK_SETTINGS = {"profile": "webtext", "block_domains": ["blocked.example"], "min_karma": 3}


def publish_links(lake: Lake, parts: Sequence[Sequence[str]], snapshot: str = "s1") -> Manifest:
    """A published links dataset: the URLs of each part with status ok, one dropped link, and a part of a source."""
    dataset = lake.dataset("links", snapshot)
    dataset.begin(LINK_SETTINGS, {})
    with lake.scratch() as folder:
        names = []
        for index, urls in enumerate(parts):
            names.append(part_name(index))
            ok = [{"canonical_url": url, "karma": 3 + n, "status": "ok"} for n, url in enumerate(sorted(urls))]
            dropped = {"canonical_url": f"http://dropped{index}.example/", "karma": 1, "status": "low_karma"}
            table = pa.Table.from_pylist([*ok, dropped], schema=LINKS)
            write_parquet(table, folder / "x")
            counts = {"ok": len(ok), "low_karma": 1}
            dataset.seal(names[-1], {f"{names[-1]}.parquet": folder / "x"}, table, counts=counts)
        dataset.seal("source-00000", {}, pa.table({}), counts={"self_post": 2})
    return dataset.finish([*names, "source-00000"], {}, 0.0)


def host_urls(*hosts: str, n: int = 1) -> list[str]:
    """URLs /0, /1, ... of each host."""
    return [f"http://{host}/{k}" for host in hosts for k in range(n)]


def fill(web: Web, urls: Sequence[str], handler: Handler) -> Sequence[str]:
    """Serve the same answer for all of them."""
    for url in urls:
        web[url] = handler
    return urls


@dataclass(frozen=True)
class Case:
    """What the server serves (by URL, or by path on the URL's host), and the expected outcome of `url`."""

    name: str
    pages: dict[str, Handler]
    status: str
    http_status: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    url: str = URL
    body: bytes | None = None  # the page that is kept; None: any
