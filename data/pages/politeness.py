"""What a failure means for its host: how long the crawl leaves it alone, and when it gives it up.

    Retry-After          honoured, in seconds or as a date (RFC 9110, section 10.2.3), up to max_retry_after_s
    429, 5xx, lost       the link is fetched again after back-off: backoff_s x 2**n x a random 0.5 to 1.5
    breaker_failures     failures in a row open the host's breaker (data/http/breaker.py): no request for
                         breaker_pause_s, then one link; if that fails too, the host is given up

The lake keeps what a host demanded, so that a restart honours it: see HostMemory.

Sources: RFC 9110; the back-off of crawlee, the politeness of Apache Nutch and StormCrawler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from data.config import PagesConfig
from data.errors import InputError
from data.http.breaker import BreakerState
from data.lake.store import Lake
from data.pages.frontier import Host
from data.schema import PageStatus

_WEIGHTS = {
    PageStatus.CONNECT_FAILURE: 1,
    PageStatus.TLS_FAILURE: 1,
    PageStatus.PROTOCOL_ERROR: 1,
    PageStatus.RATE_LIMITED: 1,
    PageStatus.SERVER_ERROR: 1,
    PageStatus.TIMEOUT: 2,  # occupies a connection for long
    PageStatus.TOO_SLOW: 2,
}
"""Failures of the host rather than of a page, and how much each counts towards breaker_failures."""

_MEMORY_FLUSH_S = 0.2  # changes within this time share one write
_LONGEST_MEMORY_S = 30 * 86_400.0


def note_failure(host: Host, status: PageStatus, config: PagesConfig) -> BreakerState:
    """Count a failure at the host's breaker. A failure of a single page counts as a success of the host."""
    weight = _WEIGHTS.get(status, 0)
    if not weight:
        host.breaker.succeed()
        return "closed"
    return host.breaker.fail(config.breaker_failures, weight)


class HostMemory:
    """The pauses and delays that hosts demanded, in ``state/hosts/<snapshot>/<part>.json`` of the lake.

        {"www.example.com": {"until": 1795000000.0, "wait_s": 120.0, "delay_s": 5.0}}

    A wait is never longer than ``wait_s``, even if the machine's clock was set back since.
    """

    def __init__(self, lake: Lake, snapshot: str, part: str, now: Callable[[], float]) -> None:
        self.lake = lake
        self.names = ("state", "hosts", snapshot, f"{part}.json")
        self.now = now
        self.own: dict[str, dict[str, float]] = {}
        self.others: dict[str, dict[str, float]] = {}
        self._flush: asyncio.Task[None] | None = None
        for folder in lake.names("state", "hosts"):
            for file in lake.names("state", "hosts", folder):
                known = self._read("state", "hosts", folder, file)
                if (folder, file) == (snapshot, f"{part}.json"):
                    self.own = known
                else:
                    for host, entry in known.items():
                        if self._left_s(entry) > self._left_s(self.others.get(host, {})):
                            self.others[host] = entry

    def wait_s(self, host: str) -> float:
        """How long the crawl must still leave a host alone."""
        return max(self._left_s(self.own.get(host, {})), self._left_s(self.others.get(host, {})))

    def delay_s(self, host: str) -> float:
        """The Crawl-delay that an earlier run of this task found."""
        return self.own.get(host, {}).get("delay_s", 0.0)

    def note_delay(self, host: str, delay_s: float) -> None:
        """Remember a Crawl-delay. It is written in the background."""
        if self.own.get(host, {}).get("delay_s") != delay_s:
            self.own.setdefault(host, {})["delay_s"] = delay_s
            self._start()

    async def note_wait(self, host: str, wait_s: float) -> None:
        """Remember a pause. Returns when it is durable."""
        wait_s = min(wait_s, _LONGEST_MEMORY_S)
        self.own.setdefault(host, {}).update(until=self.now() + wait_s, wait_s=wait_s)
        await asyncio.shield(self._start())

    async def close(self) -> None:
        """The task is done: keep only the waits that are not over."""
        if self._flush is not None:
            await self._flush
        self.own = {
            host: {name: value for name, value in entry.items() if name != "delay_s"}
            for host, entry in self.own.items()
            if self._left_s(entry) > 0
        }
        if self.own:
            await asyncio.to_thread(self.lake.publish_json, self.own, *self.names)
        else:
            await asyncio.to_thread(self.lake.remove, *self.names)

    def _start(self) -> asyncio.Task[None]:
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._write())
        return self._flush

    async def _write(self) -> None:
        await asyncio.sleep(_MEMORY_FLUSH_S)
        while True:
            body = orjson.dumps(self.own)
            await asyncio.to_thread(self.lake.publish_json, orjson.loads(body), *self.names)
            if orjson.dumps(self.own) == body:
                return

    def _left_s(self, entry: dict[str, float]) -> float:
        if "until" not in entry:
            return 0.0
        return max(0.0, min(entry["until"] - self.now(), entry["wait_s"]))

    def _read(self, *names: str) -> dict[str, dict[str, float]]:
        value: Any = self.lake.read_json(*names)
        try:
            found = {str(host): {str(k): float(v) for k, v in entry.items()} for host, entry in value.items()}
            if any(("until" in entry) != ("wait_s" in entry) for entry in found.values()):
                raise ValueError("until and wait_s belong together")
            return found
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{self.lake.path(*names)}: damaged ({error}); remove it and run again") from error
