"""What fetching one part needs, its budget, and how an exchange fails."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp.abc import AbstractResolver

from data.config import PagesConfig
from data.pages.answers import BlockReason, Known
from data.pages.crawllog import CrawlLog, CrawlStats
from data.pages.outage import UNREACHED
from data.pages.politeness import HostMemory
from data.pages.robots import Robots
from data.pages.segments import Segments
from data.schema import PageStatus


@dataclass(frozen=True)
class Budget:
    """When to stop asking: links whose turn has not come by then are deferred."""

    deadline_s: float | None = None  # from the start of the part
    wire_bytes: int | None = None


@dataclass(frozen=True)
class Job:
    """What fetching one part needs. ``resolver``, ``now`` and ``rng`` are for tests."""

    config: PagesConfig
    scratch: Path
    segments: Segments
    memory: HostMemory
    stats: CrawlStats
    log: CrawlLog
    block_reason: BlockReason
    budget: Budget = Budget()
    known: Mapping[str, Known] = field(default_factory=dict)  # by the URL that was asked for
    resolver: AbstractResolver | None = None
    now: Any = lambda: datetime.now(UTC)
    rng: random.Random = field(default_factory=random.Random)


class Failure(NamedTuple):
    """Why an exchange gave nothing to keep."""

    status: PageStatus
    reason: str
    http_status: int | None = None
    lost: bool = False
    retry_after: str | None = None
    robots: Robots | None = None  # set where it was robots.txt that was asked for
    origin: str = ""
    at: float = 0.0  # time.monotonic() of the failure

    @property
    def is_unreached(self) -> bool:
        """Whether it may be our own network that failed."""
        is_robots_timeout = self.robots is not None and self.reason.endswith(PageStatus.TIMEOUT)
        return self.status in UNREACHED or self.lost or is_robots_timeout
