"""What came of a turn: a row, a handoff, or another attempt later; and what that means for the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from data.http.exchange import Answer, FetchError
from data.http.retry import TRANSIENT, backoff_s, retry_after_s
from data.pages.answers import NOT_MODIFIED, Known, page_body, redirect_target
from data.pages.frontier import Frontier, Host, Link
from data.pages.job import Failure, Job
from data.pages.optout import header_opt_out
from data.pages.politeness import note_failure, note_success
from data.pages.robots import Robots, RobotsCache
from data.pages.segments import Exchange
from data.schema import PageStatus
from data.urls.canonical import domain_of, host_of
from data.warc import NOT_MODIFIED as SERVER_NOT_MODIFIED
from data.warc import payload_digest

PARK_S = 5.0  # a host that waits longer leaves its place in the domain to another
LONG_PAUSE = "the host asked for a longer pause than max_retry_after_s"


class Outcomes:
    """Ends links and turns. ``noticed`` is called with each host that is given back to the frontier."""

    def __init__(self, job: Job, frontier: Frontier, robots: RobotsCache, noticed: Callable[[Host], None]) -> None:
        self.job, self.config, self.stats = job, job.config, job.stats
        self.frontier, self.robots, self.noticed = frontier, robots, noticed

    def give_back(self, host: Host, *, park: bool = False) -> None:
        """The host's turn is over."""
        self.frontier.give_back(host, park=park)
        self.noticed(host)

    def host(self, domain: str, name: str, free_at: float) -> Host:
        """The host in the frontier; a new one with the manners that are remembered of it, free ``free_at`` at first."""
        memory = self.job.memory
        if name in self.frontier.hosts:
            return self.frontier.hosts[name]
        wait_s = memory.wait_s(name)
        host = self.frontier.host(domain, name, max(free_at, time.monotonic() + wait_s))
        host.delay_s = max(self.config.host_delay_s, memory.delay_s(name))
        return host

    def follow(self, host: Host, link: Link, answer: Answer) -> None:
        seen = (*link.seen, link.url)
        target = redirect_target(answer, seen, self.config.max_redirects, self.job.block_reason)
        link.url, link.seen = target, seen
        note_success(host)
        if domain_of(target) == host.domain.name:
            other = self.host(host.domain.name, fast_host_of(target), time.monotonic())
            if self.job.memory.wait_s(other.name) > self.config.max_retry_after_s:
                self.settle(host, link, PageStatus.DEFERRED, LONG_PAUSE)
            else:
                self.frontier.requeue(link, other)
        else:
            self.frontier.settled(host)
            self.stats.settled += 1
            self.job.segments.hand_off(link)
        self.give_back(host)

    def _now(self) -> datetime:
        """The time of day, in whole seconds."""
        now: datetime = self.job.now()
        return now.replace(microsecond=0)

    def keep(self, host: Host, link: Link, answer: Answer) -> None:
        body = page_body(answer, self.config.user_agent)
        response = (answer.status_line, answer.raw_headers)
        exchange = Exchange(answer.url, self._now(), answer.request, response, body, answer.sha1)
        warc_file, offset = self.job.segments.page(exchange)
        self.settle(
            host,
            link,
            PageStatus.OK,
            "",
            http_status=200,
            payload_digest=payload_digest(answer.sha1),
            content_type=answer.content_type(),
            warc_file=warc_file,
            warc_offset=offset,
            etag=answer.text("ETag"),
            last_modified=answer.text("Last-Modified"),
            fetched_at=exchange.at,
        )

    def keep_known(self, host: Host, link: Link, answer: Answer, known: Known) -> None:
        """304: the page is what an earlier refresh has."""
        refusal = header_opt_out(answer.headers, self.config.user_agent)
        if refusal is not None:
            raise FetchError(*refusal, NOT_MODIFIED)
        response = (answer.status_line, answer.raw_headers)
        exchange = Exchange(answer.url, self._now(), answer.request, response, b"", known.sha1())
        fetched_at = datetime.fromtimestamp(known.fetched_ms / 1000, UTC)
        self.job.segments.revisit(exchange, answer.url, fetched_at, SERVER_NOT_MODIFIED)
        self.settle(
            host,
            link,
            PageStatus.OK,
            "",
            http_status=NOT_MODIFIED,
            payload_digest=known.payload_digest,
            content_type=known.content_type,
            warc_file=known.warc_file,
            warc_offset=known.warc_offset,
            etag=known.etag,
            last_modified=known.last_modified,
            fetched_at=exchange.at,
        )

    async def judge(self, host: Host, link: Link, failure: Failure) -> None:
        """What a failure means for the link, for robots.txt and for the host."""
        config, job = self.config, self.job
        asked_s = await self.noted_wait_s(host, failure.retry_after)
        if asked_s is not None and asked_s > config.max_retry_after_s:
            return self.defer_host(host, link, failure.http_status)
        verdict = note_failure(host, failure.status, config)
        if failure.robots is not None:
            may_pass = failure.http_status is not None or failure.lost
            host.robots_attempts += 1
            attempts = host.robots_attempts
        else:
            may_pass = failure.status in TRANSIENT or failure.lost
            link.attempts += 1
            attempts = link.attempts
        is_again = may_pass and attempts < config.max_attempts and verdict != "give_up"
        pause_s = 0.0
        if asked_s is not None:
            pause_s = asked_s
        elif is_again and not (failure.lost and attempts == 1):  # a connection that was idle for too long is no failure
            pause_s = backoff_s(attempts, config, job.rng)
        if verdict == "open":
            pause_s = max(pause_s, config.breaker_pause_s * job.rng.uniform(0.5, 1.5))
            job.log.event(self.stats, "breaker_open", host=host.name, pause_s=round(pause_s, 1))
        if is_again:
            self.frontier.requeue(link, host)
        elif failure.robots is not None:
            self.learn(host, failure.origin, failure.robots)
            self.frontier.requeue(link, host)
        else:
            self.settle(host, link, failure.status, failure.reason, http_status=failure.http_status)
        if verdict == "give_up" and failure.robots is None:
            self.empty(host, PageStatus.HOST_FAILING, f"the last failure: {failure.status}")
        host.free_at = max(host.free_at, time.monotonic() + pause_s)
        return self.give_back(host, park=pause_s > PARK_S)

    async def noted_wait_s(self, host: Host, retry_after: str | None) -> float | None:
        """What a Retry-After header asks for, durable in the lake; None if it says nothing."""
        asked_s = retry_after_s(retry_after, self.job.now())
        if asked_s:
            await self.job.memory.note_wait(host.name, asked_s)
        return asked_s

    def defer_host(self, host: Host, link: Link, http_status: int | None) -> None:
        """It asks for a longer pause than we wait; the next refresh begins with its links."""
        self.settle(host, link, PageStatus.DEFERRED, LONG_PAUSE, http_status=http_status)
        self.empty(host, PageStatus.DEFERRED, LONG_PAUSE)
        self.job.log.event(self.stats, "host_deferred", host=host.name)
        self.give_back(host)

    def empty(self, host: Host, status: PageStatus, reason: str) -> None:
        while host.queue:
            self.settle(host, host.queue.pop(), status, reason)

    def settle(self, host: Host, link: Link, status: PageStatus, reason: str, **columns: Any) -> None:
        self.frontier.settled(host)
        self.row(link, host.domain.name, status, reason, **columns)

    def row(self, link: Link, domain: str, status: PageStatus, reason: str, **columns: Any) -> None:
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
        self.job.segments.settle(row)
        self.stats.settled += 1
        self.stats.pages += status is PageStatus.OK
        self.stats.by_status[status] += 1

    def learn(self, host: Host, origin: str, robots: Robots) -> None:
        self.robots.put(origin, robots)
        host.pinned = (origin, robots)
        host.robots_attempts = 0
        if robots.crawl_delay_s > host.delay_s:
            host.delay_s = robots.crawl_delay_s
            host.free_at = time.monotonic() + host.delay_s
            self.job.memory.note_delay(host.name, host.delay_s)


def fast_host_of(url: str) -> str:
    """The host of a URL as a parser writes it; as urls.host_of, at a fiftieth of its price."""
    authority = url[url.index("//") + 2 : url.index("/", 8)]
    if authority.startswith("[") or "@" in authority:
        return host_of(url)
    return authority.partition(":")[0].removesuffix(".")
