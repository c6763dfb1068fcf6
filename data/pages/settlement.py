"""Applies what came of a turn: to the link (a row, a handoff, or another attempt) and to its host.

``Settlement.apply`` is the one place where results take effect, also for failures that the outage has held back.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from data.http.client import fast_host_of, origin_of
from data.http.exchange import Answer
from data.http.retry import TRANSIENT, backoff_s, retry_after_s
from data.pages.frontier import Frontier, Host, Link
from data.pages.job import Job
from data.pages.outage import Outage
from data.pages.politeness import note_failure
from data.pages.results import (
    Failure,
    NotYet,
    Page,
    Redirect,
    Refused,
    ReservationsRead,
    RobotsRead,
    TurnResult,
    Unchanged,
)
from data.pages.robots import Robots, RobotsCache
from data.pages.segments import PageRecord
from data.schema import PageStatus
from data.urls.canonical import domain_of
from data.warc import NOT_MODIFIED as SERVER_NOT_MODIFIED
from data.warc import payload_digest

PARK_S = 5.0  # a host that waits longer gives its place in the domain to another one
LONG_PAUSE = "the host asked for a longer pause than max_retry_after_s"


class Settlement:
    """Settles links and gives hosts back to the frontier."""

    def __init__(self, job: Job, frontier: Frontier, robots: RobotsCache, outage: Outage) -> None:
        self.job = job
        self.config = job.config
        self.frontier = frontier
        self.robots = robots
        self.outage = outage

    async def apply(self, host: Host, result: TurnResult) -> None:
        """End the turn of a busy host: settle its link or put it back in line, and give the host back.

        A failure that our own network may have caused is held back instead, and its host stays busy.
        """
        if result.answered and result.link is not None:
            origin = origin_of(result.link.url)
            for other, failure in self.outage.answered(host.domain.name, origin, host.asked_at):
                await self.apply(other, failure)
        pause_s = 0.0
        match result:
            case Page():
                self._keep(host, result)
            case Unchanged():
                self._keep_known(host, result)
            case Redirect():
                self._follow(host, result)
            case Refused(link, status, reason):
                self.settle(host, link, status, reason)
            case RobotsRead(link, robots):
                self._learn(host, link, robots)
                self.frontier.requeue(link, host)
            case ReservationsRead():
                await self._learn_reservations(host, result)
            case Failure():
                if self.outage.hold(host, result, time.monotonic()):
                    return
                pause_s = await self._fail(host, result)
            case NotYet(link):
                if link is not None:
                    self.frontier.requeue(link, host)
        self.frontier.give_back(host, park=pause_s > PARK_S)

    def host(self, domain: str, name: str, free_at: float) -> Host:
        """The host in the frontier. A new one gets the delay and the pause that are remembered for it."""
        memory = self.job.memory
        if name in self.frontier.hosts:
            return self.frontier.hosts[name]
        wait_s = memory.wait_s(name)
        host = self.frontier.host(domain, name, max(free_at, time.monotonic() + wait_s))
        host.delay_s = max(self.config.host_delay_s, memory.delay_s(name))
        return host

    def settle(self, host: Host, link: Link, status: PageStatus, reason: str, **columns: Any) -> None:
        """End a link that was taken from the host's queue with a row."""
        self.frontier.settled(host)
        self.row(link, host.domain.name, status, reason, **columns)

    def row(self, link: Link, domain: str, status: PageStatus, reason: str, **columns: Any) -> None:
        """Write the row of a link."""
        row = {
            "canonical_url": link.canonical_url,
            "final_url": link.url,
            "status": str(status),
            "reason": reason,
            "domain": domain,
            "karma": link.karma,
            **columns,
        }
        if "fetched_at" not in row and status not in (PageStatus.DEFERRED, PageStatus.HOST_FAILING):
            row["fetched_at"] = self._now()
        self.job.settle(row)

    def _keep(self, host: Host, page: Page) -> None:
        answer = page.answer
        record = self._record(answer, page.body, answer.sha1)
        warc_file, offset = self.job.segments.page(record)
        self.settle(
            host,
            page.link,
            PageStatus.OK,
            "",
            http_status=200,
            payload_digest=payload_digest(answer.sha1),
            content_type=answer.content_type(),
            warc_file=warc_file,
            warc_offset=offset,
            etag=answer.text("ETag"),
            last_modified=answer.text("Last-Modified"),
            fetched_at=record.at,
        )
        self._succeed(host)

    def _keep_known(self, host: Host, unchanged: Unchanged) -> None:
        answer = unchanged.answer
        known = unchanged.known
        record = self._record(answer, b"", known.sha1())
        fetched_at = datetime.fromtimestamp(known.fetched_ms / 1000, UTC)
        self.job.segments.revisit(record, answer.url, fetched_at, SERVER_NOT_MODIFIED)
        self.settle(
            host,
            unchanged.link,
            PageStatus.OK,
            "",
            http_status=answer.http_status,
            payload_digest=known.payload_digest,
            content_type=known.content_type,
            warc_file=known.warc_file,
            warc_offset=known.warc_offset,
            etag=known.etag,
            last_modified=known.last_modified,
            fetched_at=record.at,
        )
        self._succeed(host)

    def _follow(self, host: Host, redirect: Redirect) -> None:
        """Queue the link at the target's host, or hand it off if the target is in another domain."""
        link = redirect.link
        target = redirect.target
        link.seen = (*link.seen, link.url)
        link.url = target
        self._succeed(host)
        if domain_of(target) != host.domain.name:
            self.frontier.settled(host)
            self.job.hand_off(link)
            return
        other = self.host(host.domain.name, fast_host_of(target), time.monotonic())
        if self.job.memory.wait_s(other.name) > self.config.max_retry_after_s:
            self.settle(host, link, PageStatus.DEFERRED, LONG_PAUSE)
        else:
            self.frontier.requeue(link, other)

    def _learn(self, host: Host, link: Link, robots: Robots) -> None:
        """Keep the robots.txt of the link's origin, and its delay."""
        origin = origin_of(link.url)
        self.robots.put(origin, robots)
        host.pinned = (origin, robots)
        host.robots_attempts = 0
        if robots.crawl_delay_s > host.delay_s:
            host.delay_s = robots.crawl_delay_s
            host.free_at = time.monotonic() + host.delay_s
            self.job.memory.note_delay(host.name, host.delay_s)

    async def _learn_reservations(self, host: Host, read: ReservationsRead) -> None:
        if host.reservations is None:
            host.reservations = {}
        host.reservations[origin_of(read.link.url)] = read.rules
        if read.http_status in (429, 503):
            asked_s = await self._noted_wait_s(host, read.retry_after)
            if asked_s is not None and asked_s > self.config.max_retry_after_s:
                return self._defer_host(host, read.link, read.http_status)
            host.free_at = max(host.free_at, time.monotonic() + (asked_s or 0.0))
        return self.frontier.requeue(read.link, host)

    async def _fail(self, host: Host, failure: Failure) -> float:
        """Apply a failure to its link, to robots.txt and to the host. Returns the host's pause in seconds."""
        config = self.config
        link = failure.link
        asked_s = await self._noted_wait_s(host, failure.retry_after)
        if asked_s is not None and asked_s > config.max_retry_after_s:
            self._defer_host(host, link, failure.http_status)
            return 0.0
        breaker = note_failure(host, failure.status, config)
        if failure.robots is not None:
            may_pass = failure.http_status is not None or failure.lost
            host.robots_attempts += 1
            attempts = host.robots_attempts
        else:
            may_pass = failure.status in TRANSIENT or failure.lost
            link.attempts += 1
            attempts = link.attempts
        is_again = may_pass and attempts < config.max_attempts and breaker != "given_up"
        pause_s = 0.0
        if asked_s is not None:
            pause_s = asked_s
        elif is_again and not (failure.lost and attempts == 1):  # servers close idle connections: not a failure
            pause_s = backoff_s(attempts, config, self.job.rng)
        if breaker == "opened":
            pause_s = max(pause_s, config.breaker_pause_s * self.job.rng.uniform(0.5, 1.5))
            self._log("breaker_open", host, pause_s=round(pause_s, 1))
        if is_again:
            self.frontier.requeue(link, host)
        elif failure.robots is not None:
            self._learn(host, link, failure.robots)
            self.frontier.requeue(link, host)
        else:
            self.settle(host, link, failure.status, failure.reason, http_status=failure.http_status)
        if breaker == "given_up" and failure.robots is None:
            self._empty(host, PageStatus.HOST_FAILING, f"the last failure: {failure.status}")
        host.free_at = max(host.free_at, time.monotonic() + pause_s)
        return pause_s

    async def _noted_wait_s(self, host: Host, retry_after: str | None) -> float | None:
        """The seconds in a Retry-After header, once they are durable in the lake; None if it names none."""
        asked_s = retry_after_s(retry_after, self.job.now())
        if asked_s:
            await self.job.memory.note_wait(host.name, asked_s)
        return asked_s

    def _defer_host(self, host: Host, link: Link, http_status: int | None) -> None:
        """Defer all links of a host that demands a longer pause than max_retry_after_s."""
        self.settle(host, link, PageStatus.DEFERRED, LONG_PAUSE, http_status=http_status)
        self._empty(host, PageStatus.DEFERRED, LONG_PAUSE)
        self._log("host_deferred", host)

    def _empty(self, host: Host, status: PageStatus, reason: str) -> None:
        while host.queue:
            self.settle(host, host.queue.pop(), status, reason)

    def _succeed(self, host: Host) -> None:
        if host.breaker.succeed():
            self._log("breaker_closed", host)

    def _log(self, event: str, host: Host, **fields: float) -> None:
        self.job.log.event(self.job.stats, event, host=host.name, **fields)

    def _record(self, answer: Answer, body: bytes, sha1: bytes) -> PageRecord:
        response = (answer.status_line, answer.raw_headers)
        return PageRecord(answer.url, self._now(), answer.request, response, body, sha1)

    def _now(self) -> datetime:
        """The time of day, in whole seconds."""
        return self.job.now().replace(microsecond=0)
