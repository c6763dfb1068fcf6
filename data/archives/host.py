"""One host of a web archive, treated like a host of the crawl: one request at a time, delays, back-off and a breaker.

The caller passes the clock and the sleep, so that tests need not wait.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from multidict import CIMultiDictProxy

from data.archives.cdx import CaptureError
from data.config import PagesConfig
from data.http.breaker import Breaker
from data.http.client import Client
from data.http.exchange import FetchError, Limits, Wants
from data.http.retry import backoff_s, retry_after_s
from data.schema import PageStatus

_BLOCKED_SITE = "AccessControlException"  # the Wayback Machine's word for a site whose owner keeps it out


class Fault(StrEnum):
    """Why an archive has no page for us."""

    UNREACHABLE = "unreachable"  # no connection, or no whole answer
    BUSY = "busy"  # 429 or 5xx at every attempt
    REFUSED = "refused"  # another answer that is neither 200 nor "no capture"
    GIVEN_UP = "given_up"  # it failed too often in this run and gets no more requests
    NOT_CDX = "not_cdx"  # its index does not speak CDX
    BAD_CAPTURE = "bad_capture"  # none of its captures is usable


class ArchiveUnavailable(Exception):  # noqa: N818
    """An archive failed to answer, or has no usable capture. The text consists of fixed words."""

    def __init__(self, archive: str, fault: Fault, detail: str) -> None:
        super().__init__(f"{archive}: {fault} ({detail})")
        self.archive = archive
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True)
class Reply:
    """An archive's answer. The body is empty if ``wants`` declined it."""

    http_status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def is_blocked_site(self) -> bool:
        return self.http_status == 403 and _BLOCKED_SITE in self.headers.get("X-Archive-Wayback-Runtime-Error", "")

    def is_failure(self) -> bool:
        """Whether the archive itself failed. With a Memento-Datetime, the status is the captured page's."""
        if "Memento-Datetime" in self.headers or self.is_blocked_site():
            return False
        return self.http_status in (403, 429) or self.http_status >= 500


class ArchiveHost:
    """A host of an archive. ``clock`` counts seconds, ``now`` is the time of day."""

    def __init__(
        self,
        config: PagesConfig,
        client: Client,
        sleep: Callable[[float], Awaitable[None]],
        clock: Callable[[], float],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self.config = config
        self.client = client
        self.sleep = sleep
        self.clock = clock
        self.now = now
        self.rng = rng
        self.lock = asyncio.Lock()
        self.free_at = clock() + config.host_delay_s
        self.breaker = Breaker()
        self.is_given_up = False

    async def get(self, archive: str, url: str, limits: Limits, wants: Wants, extra: Mapping[str, str]) -> Reply:
        """Raises ArchiveUnavailable, or CaptureError for a body that exceeds a limit or has a broken encoding."""
        config = self.config
        attempt = 0
        async with self.lock:
            while True:
                if self.is_given_up:
                    raise ArchiveUnavailable(archive, Fault.GIVEN_UP, "failed too often in this run")
                while (wait_s := self.free_at - self.clock()) > 0:
                    await self.sleep(wait_s)
                attempt += 1
                try:
                    reply = await self._ask(url, limits, wants, extra)
                except FetchError as error:
                    fault = ArchiveUnavailable(archive, Fault.UNREACHABLE, str(error.status))
                    wait_s = 0.0
                else:
                    if not reply.is_failure():
                        self.breaker.succeed()
                        return reply
                    kind = Fault.REFUSED if reply.http_status == 403 else Fault.BUSY
                    fault = ArchiveUnavailable(archive, kind, str(reply.http_status))
                    wait_s = retry_after_s(reply.headers.get("Retry-After"), self.now()) or 0.0
                self._note_failure(attempt, wait_s)
                if attempt >= config.max_attempts or self.is_given_up:
                    raise fault

    async def _ask(self, url: str, limits: Limits, wants: Wants, extra: Mapping[str, str]) -> Reply:
        config = self.config
        try:
            answer = await self.client.get(
                url, timeout_s=config.total_timeout_s, wants=wants, limits=limits, extra=extra
            )
        except FetchError as error:
            if error.status in (PageStatus.TOO_LARGE, PageStatus.DECODED_TOO_LARGE):
                raise CaptureError("larger than it may be") from error
            if error.status == PageStatus.BAD_ENCODING:
                raise CaptureError("the content encoding is broken") from error
            raise
        finally:
            self.free_at = self.clock() + config.host_delay_s
        with answer:
            body = answer.body.read() if answer.body is not None else b""
            return Reply(answer.http_status, answer.headers, body)

    def _note_failure(self, attempt: int, retry_after: float) -> None:
        config = self.config
        breaker = self.breaker.fail(config.breaker_failures)
        self.is_given_up = breaker == "given_up" or retry_after > config.max_retry_after_s
        wait_s = max(retry_after, backoff_s(attempt, config, self.rng))
        if breaker == "opened":
            wait_s = max(wait_s, config.breaker_pause_s)
        self.free_at = max(self.free_at, self.clock() + wait_s)
