"""Fetching one part's links: politely, in parallel over hosts, within limits. Every link settles in a row or a handoff.

A turn is one exchange with one host: its robots.txt, its reservations (tdmrep.json), or a page. After it the host waits
its delay while others take their turns (data/frontier.py). So at most one connection a host is busy, at most
``max_hosts_per_domain`` hosts of a registrable domain are worked on and at most ``max_connections`` in all, and no host
that is slow, failing or resting holds up another.

A request is sent only if the robots.txt of its origin allows it. A redirect within the domain becomes a turn of the
target's host; one that leaves it is handed off, to be fetched in the part that holds the target's domain. A host that
fails is treated by data/politeness.py, a network that fails by data/outage.py. At the start of a part every host waits
one delay, as a run that was killed may have asked it just before.

Cost: see docs/benchmarks.md.
Sources: RFC 9309; the politeness rules of Apache Nutch and StormCrawler.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp.abc import AbstractResolver

from data.answers import (
    NOT_MODIFIED,
    BlockReason,
    Known,
    page_body,
    redirect_target,
    wants_html,
    wants_success,
)
from data.client import REDIRECTS, Answer, Client, FetchError, Limits, Network
from data.config import PagesConfig
from data.crawllog import CrawlLog, CrawlStats
from data.frontier import Frontier, Host, Link
from data.optout import header_opt_out, parse_tdmrep, tdmrep_opt_out
from data.outage import UNREACHED, Outage, pauses
from data.politeness import TRANSIENT, HostMemory, backoff_s, note_failure, note_success, retry_after_s
from data.robots import Robots, RobotsCache, fetch_robots
from data.schema import PageStatus
from data.segments import Exchange, Segments
from data.urls import domain_of, host_of, registrable_domain
from data.warc import NOT_MODIFIED as SERVER_NOT_MODIFIED
from data.warc import payload_digest

MAX_TDMREP_BYTES = 65_536
PARK_S = 5.0  # a host that waits longer leaves its place in the domain to another
MAX_FOREIGN = 10_000  # hosts of other domains whose last request is remembered (redirects of robots.txt)
_TICK_S = 1.0
_HOLD_S = 5.0  # failures that nobody's answer has explained so long are looked into


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


def fetch_links(links: Iterable[Link], job: Job) -> None:
    """Settle all links in ``job.segments``, which are durable at the end. Blocks; may be called in any thread.

    The links of a host are asked in the order in which they come. Raises only what is no outcome of a link: a full
    disk, InputError for settings, KeyboardInterrupt.
    """
    by_host: dict[str, list[Link]] = {}
    for link in links:
        by_host.setdefault(_host_of(link.url), []).append(link)
    try:
        asyncio.run(_fetch_all(by_host, job))
    except BaseExceptionGroup as group:  # the task group wraps what one of its tasks raised
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


async def _fetch_all(by_host: dict[str, list[Link]], job: Job) -> None:
    config = job.config
    # getaddrinfo blocks a thread; with one for each connection, slow name servers hold up no other host.
    with ThreadPoolExecutor(config.max_connections, thread_name_prefix="resolver") as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        client = Client(Network.of(config, job.scratch, job.resolver))
        try:
            crawl = Crawl(job, client)
            crawl.fill(by_host)
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(crawl.tick())
                await crawl.run(group)
                ticker.cancel()
            await job.memory.close()
            crawl.take_stock()
            await job.segments.settle_all()
        finally:
            await client.close()


class Crawl:
    """One part being fetched."""

    def __init__(self, job: Job, client: Client) -> None:
        self.job, self.config, self.client, self.stats = job, job.config, client, job.stats
        config = job.config
        self.frontier = Frontier(config.max_hosts_per_domain, config.host_delay_s)
        self.robots = RobotsCache(config)
        self.outage: Outage[tuple[Host, Link, Failure]] = Outage(client.connects)
        self.held_since = 0.0
        self.foreign: OrderedDict[str, float] = OrderedDict()  # when a host of another domain may be asked again
        self.idle: OrderedDict[str, float] = OrderedDict()  # origins whose connection was kept, until when
        self.page_limits = Limits(config.max_wire_bytes, config.max_decoded_bytes)
        self.robots_limits = Limits(config.max_robots_bytes, config.max_robots_bytes, cut=True)
        self.tdmrep_limits = Limits(MAX_TDMREP_BYTES, MAX_TDMREP_BYTES, cut=True)
        self.started = time.monotonic()
        self.n_active = 0
        self.is_paused = False
        self.over = ""  # why no link is asked for any more
        self.wake = asyncio.Event()
        self.wake_at = 0.0
        self.counted = (0, 0)

    def fill(self, by_host: dict[str, list[Link]]) -> None:
        """Queue the links, hosts with more of them first. Those above max_links_per_host are deferred."""
        config = self.config
        for name in sorted(by_host, key=lambda name: -len(by_host[name])):
            links = by_host.pop(name)
            self.stats.links += len(links)
            for link in links[config.max_links_per_host :]:
                self._row(link, PageStatus.DEFERRED, f"more than {config.max_links_per_host} links of its host")
            links = links[: config.max_links_per_host]
            wait_s = self.job.memory.wait_s(name)
            if wait_s > config.max_retry_after_s:
                for link in links:
                    self._row(link, PageStatus.DEFERRED, "the host asked for a longer pause than max_retry_after_s")
                continue
            for link in links:
                link.left_s = config.total_timeout_s
            delay_s = max(config.host_delay_s, self.job.memory.delay_s(name))
            host = self.frontier.host(registrable_domain(name), name, self.started + max(delay_s, wait_s))
            host.delay_s = delay_s
            self.frontier.fill(host, links)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Settle everything that is queued."""
        self.job.log.event(self.stats, "begin")
        while self.frontier.n_links:
            self._check_budget()
            if self.over:
                await self._defer_rest()
            elif self._must_look():
                await self._look()
            if not self.over:
                self._start_turns(group)
            if self.frontier.n_links:
                await self._sleep()
        self.job.log.event(self.stats, "end")

    async def tick(self) -> None:
        """Once a second: the log's line, and what is due in the segments."""
        while True:
            self.take_stock()
            self.job.log.progress(self.stats)
            await self._rotate_if_due()
            await self.job.segments.check()
            await asyncio.sleep(_TICK_S)

    def take_stock(self) -> None:
        stats, traffic = self.stats, self.client.network.traffic
        stats.hosts_active, stats.hosts_ready = self.n_active, self.frontier.n_ready
        stats.hosts_waiting, stats.hosts_left = self.frontier.n_waiting, len(self.frontier.hosts)
        stats.requests, stats.wire_bytes = traffic.requests, traffic.wire_bytes
        requests, wire_bytes = self.counted
        if traffic.requests > requests:
            self.job.segments.count(traffic.requests - requests, traffic.wire_bytes - wire_bytes)
            self.counted = traffic.requests, traffic.wire_bytes

    async def _rotate_if_due(self) -> None:
        if self.job.segments.is_due():
            self.take_stock()
            self.job.log.event(self.stats, "seal", segment=self.job.segments.rotate())

    # Dispatching

    def _start_turns(self, group: asyncio.TaskGroup) -> None:
        while self.n_active < self.config.max_connections and (host := self._next()) is not None:
            self.n_active += 1
            group.create_task(self._turns(host))

    def _next(self) -> Host | None:
        """A host that is ready, unless nothing is to be asked now."""
        return None if self.over or self.is_paused else self.frontier.take(time.monotonic())

    async def _turns(self, host: Host | None) -> None:
        """One host's turn, and then whoever is ready."""
        while host is not None:
            await self._turn(host)
            if self.job.segments.is_due():
                await self._rotate_if_due()
            self._check_budget()
            host = None if self._must_look() else self._next()
        self.n_active -= 1
        self.wake.set()

    async def _sleep(self) -> None:
        """Until a turn ends or something is due."""
        times = [self.frontier.next_at(), time.monotonic() + _TICK_S]
        if self.job.budget.deadline_s is not None:
            times.append(self.started + self.job.budget.deadline_s)
        loop = asyncio.get_running_loop()
        self.wake_at = min(at for at in times if at is not None)
        timer = loop.call_later(max(0.0, self.wake_at - time.monotonic()), self.wake.set)
        await self.wake.wait()
        self.wake.clear()
        timer.cancel()

    def _give_back(self, host: Host, *, park: bool = False) -> None:
        self.frontier.give_back(host, park=park)
        if host.queue and host.free_at < self.wake_at:
            self.wake.set()

    def _check_budget(self) -> None:
        budget, traffic = self.job.budget, self.client.network.traffic
        if budget.deadline_s is not None and time.monotonic() - self.started >= budget.deadline_s:
            self.over = "the deadline"
        elif budget.wire_bytes is not None and traffic.wire_bytes >= budget.wire_bytes:
            self.over = "max_bytes"

    async def _defer_rest(self) -> None:
        for host, link in self.frontier.drain():
            self._settle(host, link, PageStatus.DEFERRED, self.over)
        for host, link, failure in self.outage.release():
            await self._judge(host, link, failure)

    # One turn

    async def _turn(self, host: Host) -> None:
        while host.queue:
            link = host.queue.pop()
            origin = _origin_of(link.url)
            robots = self.robots.get(origin)
            if robots is None:
                return await self._ask_robots(host, link, origin)
            refusal = robots.refusal(link.url)
            if refusal is None:
                if host.reservations is None or origin not in host.reservations:
                    return await self._ask_reservations(host, link, origin, robots)
                path = link.url[len(origin) :]
                refusal = tdmrep_opt_out(host.reservations[origin], path)
            if refusal is None:
                return await self._ask_page(host, link, origin)
            self._settle(host, link, *refusal)
            if self.job.segments.is_due():
                break
        return self._give_back(host)

    async def _ask_robots(self, host: Host, link: Link, origin: str) -> None:
        async def get(url: str) -> Answer:
            hop = _host_of(url)
            if hop == host.name:
                await asyncio.sleep(max(0.0, host.free_at - time.monotonic()))
            else:
                await self._wait_for_foreign(hop)
            timeout_s = self.config.total_timeout_s
            return await self._get(host, url, origin, timeout_s, wants_success, self.robots_limits)

        robots = await fetch_robots(origin, get, self.config)
        if robots.failure is not None and robots.is_failure:
            status, reason = robots.failure
            code = reason.removeprefix("robots.txt: ")
            http_status = int(code) if code.isdigit() else None
            failure = Failure(status, reason, http_status, False, robots.retry_after, robots, origin)
            return await self._failed(host, link, failure)
        await self._answered(host, origin)
        self._learn(host, origin, robots)
        self.frontier.requeue(link, host)
        return self._give_back(host)

    def _learn(self, host: Host, origin: str, robots: Robots) -> None:
        self.robots.put(origin, robots)
        host.robots_attempts = 0
        if robots.crawl_delay_s > host.delay_s:
            host.delay_s = robots.crawl_delay_s
            host.free_at = time.monotonic() + host.delay_s
            self.job.memory.note_delay(host.name, host.delay_s)

    async def _ask_reservations(self, host: Host, link: Link, origin: str, robots: Robots) -> None:
        """tdmrep.json, once for each origin of which a page may be fetched; whatever is none reserves nothing."""
        if host.reservations is None:
            host.reservations = {}
        host.reservations[origin] = ()
        url = f"{origin}/.well-known/tdmrep.json"
        if robots.refusal(url) is None:
            try:
                timeout_s = self.config.total_timeout_s
                answer = await self._get(host, url, origin, timeout_s, wants_success, self.tdmrep_limits)
            except FetchError as error:
                if error.status in UNREACHED or error.lost:
                    del host.reservations[origin]
                return await self._failed(host, link, Failure(error.status, error.reason, error.http_status, error.lost))
            with answer:
                if answer.http_status == 200 and answer.body is not None:
                    host.reservations[origin] = parse_tdmrep(answer.body.read())
            await self._answered(host, origin)
        self.frontier.requeue(link, host)
        return self._give_back(host)

    async def _ask_page(self, host: Host, link: Link, origin: str) -> None:
        known = self.job.known.get(link.url)
        began = time.monotonic()
        try:
            conditions = known.conditions() if known is not None else {}
            answer = await self._get(
                host, link.url, origin, link.left_s, wants_html, self.page_limits, conditions, bool(host.queue)
            )
        except FetchError as error:
            link.left_s -= time.monotonic() - began
            failure = Failure(error.status, error.reason, error.http_status, error.lost)
            return await self._failed(host, link, failure)
        link.left_s -= time.monotonic() - began
        with answer:
            await self._answered(host, origin)
            try:
                if answer.http_status in REDIRECTS:
                    return self._follow(host, link, answer)
                if answer.http_status == NOT_MODIFIED and known is not None:
                    self._keep_known(host, link, answer, known)
                else:
                    self._keep(host, link, answer)
            except FetchError as error:
                retry_after = answer.headers.get("Retry-After")
                failure = Failure(error.status, error.reason, answer.http_status, retry_after=retry_after)
                return await self._failed(host, link, failure)
        if note_success(host):
            self.job.log.event(self.stats, "breaker_closed", host=host.name)
        return self._give_back(host)

    async def _get(
        self,
        host: Host,
        url: str,
        origin: str,
        timeout_s: float,
        wants: Any,
        limits: Limits,
        extra: Mapping[str, str] | None = None,
        has_more: bool = True,
    ) -> Answer:
        """One exchange; the host's delay begins when it ends."""
        if timeout_s <= 0:
            raise FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s")
        self.idle.pop(origin, None)
        keep = has_more and self.n_active + self._n_idle() < self.config.max_connections
        try:
            answer = await self.client.get(
                url, timeout_s=timeout_s, wants=wants, limits=limits, extra=extra or {}, keep=keep
            )
        finally:
            host.free_at = time.monotonic() + host.delay_s
        if keep:
            self.idle[origin] = host.free_at
        return answer

    def _n_idle(self) -> int:
        """Connections that were kept and not used since; the client closes them some time after their host's turn."""
        now = time.monotonic()
        while self.idle and next(iter(self.idle.values())) + self.client.idle_s < now:
            self.idle.popitem(last=False)
        return len(self.idle)

    async def _wait_for_foreign(self, name: str) -> None:
        """Many a robots.txt may redirect to one host: it is asked no more often than any other."""
        now = time.monotonic()
        at = max(now, self.foreign.pop(name, 0.0))
        self.foreign[name] = at + self.config.host_delay_s
        if len(self.foreign) > MAX_FOREIGN:
            self.foreign.popitem(last=False)
        if at - now > self.config.total_timeout_s:
            raise FetchError(PageStatus.TIMEOUT, "too many others ask the host that it redirects to")
        await asyncio.sleep(at - now)

    # What came of it

    def _follow(self, host: Host, link: Link, answer: Answer) -> None:
        seen = (*link.seen, link.url)
        target = redirect_target(answer, seen, self.config.max_redirects, self.job.block_reason)
        link.url, link.seen = target, seen
        note_success(host)
        if domain_of(target) == host.domain.name:
            other = self.frontier.host(host.domain.name, _host_of(target), time.monotonic())
            self.frontier.requeue(link, other)
        else:
            self.frontier.settled(host)
            self.stats.settled += 1
            self.job.segments.hand_off(link)
        self._give_back(host)

    def _keep(self, host: Host, link: Link, answer: Answer) -> None:
        body = page_body(answer, self.config.user_agent)
        response = (answer.status_line, answer.raw_headers)
        exchange = Exchange(answer.url, self.job.now(), answer.request, response, body, answer.sha1)
        warc_file, offset = self.job.segments.page(exchange)
        self._settle(
            host,
            link,
            PageStatus.OK,
            "",
            http_status=200,
            payload_digest=payload_digest(answer.sha1),
            content_type=answer.content_type(),
            warc_file=warc_file,
            warc_offset=offset,
            etag=_text(answer, "ETag"),
            last_modified=_text(answer, "Last-Modified"),
            fetched_at=exchange.at.replace(microsecond=0),
        )

    def _keep_known(self, host: Host, link: Link, answer: Answer, known: Known) -> None:
        """304: the page is what an earlier refresh has."""
        refusal = header_opt_out(answer.headers, self.config.user_agent)
        if refusal is not None:
            raise FetchError(*refusal, NOT_MODIFIED)
        response = (answer.status_line, answer.raw_headers)
        exchange = Exchange(answer.url, self.job.now(), answer.request, response, b"", known.sha1())
        fetched_at = datetime.fromtimestamp(known.fetched_ms / 1000, UTC)
        self.job.segments.revisit(exchange, answer.url, fetched_at, SERVER_NOT_MODIFIED)
        self._settle(
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
            fetched_at=exchange.at.replace(microsecond=0),
        )

    async def _answered(self, host: Host, origin: str) -> None:
        """A host has answered, so failures that were held back are what they look like."""
        for held in self.outage.answered(host.domain.name, origin):
            await self._judge(*held)

    async def _failed(self, host: Host, link: Link, failure: Failure) -> None:
        """The turn failed: it is judged, or held back until it is known whether it was the network's fault."""
        is_unreached = failure.status in UNREACHED or failure.lost or "timeout" in failure.reason
        if is_unreached and self.outage.may_hold:
            if not self.outage.held:
                self.held_since = time.monotonic()
            self.outage.held.append((host, link, failure))
        else:
            await self._judge(host, link, failure)

    async def _judge(self, host: Host, link: Link, failure: Failure) -> None:
        """What a failure means for the link, for robots.txt and for the host."""
        config, job = self.config, self.job
        asked_s = retry_after_s(failure.retry_after, job.now())
        if asked_s is not None and asked_s > 0:
            await job.memory.note_wait(host.name, asked_s)
            if asked_s > config.max_retry_after_s:
                return self._defer_host(host, link, failure)
        verdict = note_failure(host, failure.status, config)
        if failure.robots is not None:
            may_pass = failure.http_status is not None
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
            self._learn(host, failure.origin, failure.robots)
            self.frontier.requeue(link, host)
        else:
            self._settle(host, link, failure.status, failure.reason, http_status=failure.http_status)
        if verdict == "give_up" and failure.robots is None:
            self._empty(host, PageStatus.HOST_FAILING, f"the last failure: {failure.status}")
        host.free_at = max(host.free_at, time.monotonic() + pause_s)
        return self._give_back(host, park=pause_s > PARK_S)

    def _defer_host(self, host: Host, link: Link, failure: Failure) -> None:
        """It asks for a longer pause than we wait; the next refresh begins with its links."""
        reason = "the host asked for a longer pause than max_retry_after_s"
        self._settle(host, link, PageStatus.DEFERRED, reason, http_status=failure.http_status)
        self._empty(host, PageStatus.DEFERRED, reason)
        self.job.log.event(self.stats, "host_deferred", host=host.name, retry_after=failure.retry_after)
        self._give_back(host)

    def _empty(self, host: Host, status: PageStatus, reason: str) -> None:
        while host.queue:
            self._settle(host, host.queue.pop(), status, reason)

    def _settle(self, host: Host, link: Link, status: PageStatus, reason: str, **columns: Any) -> None:
        self.frontier.settled(host)
        self._row(link, status, reason, **columns)

    def _row(self, link: Link, status: PageStatus, reason: str, **columns: Any) -> None:
        is_asked = status not in (PageStatus.DEFERRED, PageStatus.HOST_FAILING)
        self.job.segments.settle(
            {
                "canonical_url": link.canonical_url,
                "final_url": link.url,
                "status": str(status),
                "reason": reason,
                "fetched_at": self.job.now().replace(microsecond=0) if is_asked else None,
                "domain": domain_of(link.url),
                "karma": link.karma,
                **columns,
            }
        )
        self.stats.settled += 1
        self.stats.pages += status is PageStatus.OK
        self.stats.by_status[status] += 1

    # A network that is down

    def _must_look(self) -> bool:
        if not self.outage.held or self.over:
            return False
        is_idle = not self.n_active and not self.frontier.n_ready
        is_old = time.monotonic() - self.held_since > _HOLD_S
        return self.outage.is_suspicious or is_old or is_idle

    async def _look(self) -> None:
        """Find out whose failures those are that are held back; wait while they are our network's."""
        self.is_paused = True
        is_down = await self.outage.is_network_down()
        if is_down:
            self.stats.paused = "network down"
            self.job.log.event(self.stats, "pause")
            for pause_s in pauses(self.config.network_pause_s):
                await asyncio.sleep(pause_s)
                self._check_budget()
                if self.over or not self.outage.held or not await self.outage.is_network_down():
                    break
            else:
                self.over = "the network was down for network_pause_s"
            self.job.log.event(self.stats, "resume")
            self.stats.paused = ""
        for host, link, failure in self.outage.release():
            if is_down:
                self.frontier.requeue(link, host)
                self._give_back(host)
            else:
                await self._judge(host, link, failure)
        self.is_paused = False


def _text(answer: Answer, name: str) -> str | None:
    value: str | None = answer.headers.get(name)
    return None if value is None else value.encode(errors="surrogateescape").decode(errors="replace")


def _origin_of(url: str) -> str:
    """``https://host:port`` of a URL as a parser writes it."""
    return url[: url.index("/", 8)]


def _host_of(url: str) -> str:
    """The host of a URL as a parser writes it; as urls.host_of, at a fiftieth of its price."""
    authority = url[url.index("//") + 2 : url.index("/", 8)]
    if ":" in authority or authority.endswith("."):
        return host_of(url)
    return authority


