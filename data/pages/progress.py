"""What the crawl and the archive look-up of a part have in common: budget, counters, log lines and full segments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from data.http.exchange import Traffic
from data.pages.job import Job

TICK_S = 1.0


class Progress:
    """Watches over one part while its links are settled. ``measure`` brings the other counters of the job up to date.

    The part's time begins when the object is created.
    """

    def __init__(self, job: Job, traffic: Traffic, measure: Callable[[], None] = lambda: None) -> None:
        self.job = job
        self.traffic = traffic
        self.measure = measure
        self.started = time.monotonic()

    def what_is_over(self) -> str:
        """The limit of the budget that was reached; empty if there is budget left."""
        return self.job.budget.what_is_over(time.monotonic() - self.started, self.traffic.wire_bytes)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Log begin and end, and tick in between. Yields a group for tasks, and waits for them at the end."""
        self._event("begin")
        async with asyncio.TaskGroup() as group:
            ticker = group.create_task(self._tick())
            yield group
            ticker.cancel()
        self._event("end")

    def seal_if_due(self) -> None:
        """Begin a new segment if the open one is full or old. The full one is sealed in the background."""
        if self.job.segments.is_due():
            self.count()
            self.job.log.event(self.job.stats, "seal", segment=self.job.segments.rotate())

    def count(self) -> None:
        """Bring the counters up to date."""
        self.measure()
        stats = self.job.stats
        requests = self.traffic.requests - stats.requests
        wire_bytes = self.traffic.wire_bytes - stats.wire_bytes
        if requests or wire_bytes:
            self.job.segments.count(requests, wire_bytes)
            stats.requests += requests
            stats.wire_bytes += wire_bytes

    async def _tick(self) -> None:
        while True:
            self.count()
            self.job.log.progress(self.job.stats)
            self.seal_if_due()
            await self.job.segments.check()
            await asyncio.sleep(TICK_S)

    def _event(self, what: str) -> None:
        self.count()
        self.job.log.event(self.job.stats, what)
