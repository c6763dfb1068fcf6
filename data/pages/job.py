"""The job of settling one part's links: what it needs, its budget, and where its rows go."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aiohttp.abc import AbstractResolver

from data.config import PagesConfig
from data.pages.answers import Known, WhyBlocked
from data.pages.crawllog import CrawlLog, CrawlStats
from data.pages.frontier import Link
from data.pages.politeness import HostMemory
from data.pages.segments import PageRow, Segments
from data.schema import PageStatus


@dataclass(frozen=True)
class Budget:
    """When to send no more requests. Links that are still in line then are deferred."""

    deadline_s: float | None = None  # from the start of the part
    wire_bytes: int | None = None

    def what_is_over(self, elapsed_s: float, wire_bytes: int) -> str:
        """The limit that was reached, as rows name it in their reason; empty if there is budget left."""
        if self.deadline_s is not None and elapsed_s >= self.deadline_s:
            return "the deadline"
        return "max_bytes" if self.wire_bytes is not None and wire_bytes >= self.wire_bytes else ""


@dataclass(frozen=True)
class Job:
    """What it takes to settle one part's links. ``resolver``, ``now`` and ``rng`` are for tests."""

    config: PagesConfig
    scratch: Path
    segments: Segments
    memory: HostMemory
    stats: CrawlStats
    log: CrawlLog
    block_reason: WhyBlocked
    budget: Budget = Budget()
    known: Mapping[str, Known] = field(default_factory=dict)  # by the URL that was requested
    resolver: AbstractResolver | None = None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    rng: random.Random = field(default_factory=random.Random)

    def settle(self, row: PageRow) -> None:
        """End a link with its row."""
        self.segments.settle(row)
        stats = self.stats
        status = row["status"]
        stats.settled += 1
        stats.pages += status == PageStatus.OK
        stats.by_status[status] += 1

    def hand_off(self, link: Link) -> None:
        """End a link here: the part that holds its target's domain goes on with it."""
        self.segments.hand_off(link)
        self.stats.settled += 1
