"""Fetching one part's links: politely, in parallel over hosts, within limits. Every link settles in a row or a handoff.

A turn is one exchange with one host: its robots.txt, its reservations (tdmrep.json), or a page. After it the host waits
its delay while others take their turns (data/pages/frontier.py). So at most one connection a host is busy, at most
``max_hosts_per_domain`` hosts of a registrable domain are worked on and at most ``max_connections`` in all, and no host
that is slow, failing or resting holds up another.

A request is sent only if the robots.txt of its origin allows it. A redirect within the domain becomes a turn of the
target's host; one that leaves it is handed off, to be fetched in the part that holds the target's domain. A host that
fails is treated by data/pages/politeness.py, a network that fails by data/pages/outage.py. At the start of a part
every host waits one delay, as a run that was killed may have asked it just before.

Cost: see docs/benchmarks.md.
Sources: RFC 9309; the politeness rules of Apache Nutch and StormCrawler.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from data.errors import first_error
from data.http.client import Client, Network
from data.pages.frontier import Frontier, Host, Link
from data.pages.job import Job
from data.pages.outage import Outage, pauses
from data.pages.outcomes import LONG_PAUSE, Outcomes, fast_host_of
from data.pages.robots import RobotsCache
from data.pages.turns import Held, Turns
from data.schema import PageStatus
from data.urls.canonical import registrable_domain

GC_THRESHOLD = 20_000  # new objects between collections; an exchange leaves none for them, and Python's 700 cost 1 %
_TICK_S = 1.0
_SLICE = 1_000
_HOLD_S = 5.0  # failures that nobody's answer has explained so long are looked into


def fetch_links(links: Iterable[Link], job: Job) -> None:
    """Settle all links in ``job.segments``, which are durable at the end. Blocks; may be called in any thread.

    The links of a host are asked in the order in which they come. Raises only what is no outcome of a link: a full
    disk, InputError for settings, KeyboardInterrupt.
    """
    by_host: dict[str, list[Link]] = {}
    for link in links:
        by_host.setdefault(fast_host_of(link.url), []).append(link)
    try:
        asyncio.run(_fetch_all(by_host, job))
    except BaseExceptionGroup as group:
        raise first_error(group) from group


async def _fetch_all(by_host: dict[str, list[Link]], job: Job) -> None:
    config = job.config
    # getaddrinfo blocks a thread; with one for each connection, slow name servers hold up no other host.
    with ThreadPoolExecutor(config.max_connections, thread_name_prefix="resolver") as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        client = Client(Network.of(config, job.scratch, job.resolver))
        try:
            crawl = Crawl(job, client)
            await crawl.fill(by_host)
            gc.freeze()  # the queue: or each full collection walks all of it
            gc.set_threshold(GC_THRESHOLD)
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(crawl.tick())
                await crawl.run(group)
                ticker.cancel()
            await job.memory.close()
            crawl.take_stock()
            await job.segments.settle_all()
        finally:
            gc.unfreeze()
            await client.close()


class Crawl:
    """One part being fetched."""

    def __init__(self, job: Job, client: Client) -> None:
        self.job, self.config, self.client, self.stats = job, job.config, client, job.stats
        self.frontier = Frontier(job.config.max_hosts, job.config.max_hosts_per_domain, job.config.host_delay_s)
        self.outage: Outage[Held] = Outage(client.connects)
        robots = RobotsCache(job.config)
        self.outcomes = Outcomes(job, self.frontier, robots, self._noticed)
        self.turns = Turns(job, client, self.frontier, robots, self.outage, self.outcomes)
        self.started = time.monotonic()
        self.is_paused = False
        self.over = ""  # why no link is asked for any more
        self.wake = asyncio.Event()
        self.wake_at = 0.0
        self.counted = (0, 0)

    async def fill(self, by_host: dict[str, list[Link]]) -> None:
        """Queue the links, hosts with more of them first. Those above max_links_per_host are deferred."""
        config = self.config
        for name in sorted(by_host, key=lambda name: -len(by_host[name])):
            links, domain = by_host.pop(name), registrable_domain(name)
            self.stats.links += len(links)
            for link in links[config.max_links_per_host :]:
                self.outcomes.row(link, domain, PageStatus.DEFERRED, "more than max_links_per_host")
            if self.job.segments.is_due():
                await self._breathe()
            links = links[: config.max_links_per_host]
            wait_s = self.job.memory.wait_s(name)
            if wait_s > config.max_retry_after_s:
                for link in links:
                    self.outcomes.row(link, domain, PageStatus.DEFERRED, LONG_PAUSE)
                continue
            for link in links:
                link.left_s = config.total_timeout_s
            delay_s = max(config.host_delay_s, self.job.memory.delay_s(name))
            self.frontier.fill(self.outcomes.host(domain, name, self.started + delay_s), links)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Settle everything that is queued."""
        self.take_stock()
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
        self.take_stock()
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
        stats.hosts_active, stats.hosts_ready = self.turns.n_active, self.frontier.n_ready
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
        while self.turns.n_active < self.config.max_connections and (host := self._next()) is not None:
            self.turns.n_active += 1
            group.create_task(self._turns(host))

    def _next(self) -> Host | None:
        """A host that is ready, unless nothing is to be asked now."""
        return None if self.over or self.is_paused else self.frontier.take(time.monotonic())

    async def _turns(self, host: Host | None) -> None:
        """One host's turn, and then whoever is ready."""
        while host is not None:
            await self.turns.turn(host)
            if self.job.segments.is_due():
                await self._rotate_if_due()
            self._check_budget()
            host = None if self._must_look() else self._next()
        self.turns.n_active -= 1
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

    def _noticed(self, host: Host) -> None:
        """A host was given back: it may be due before what is slept for."""
        if host.queue and host.free_at < self.wake_at:
            self.wake.set()

    def _check_budget(self) -> None:
        budget, traffic = self.job.budget, self.client.network.traffic
        if budget.deadline_s is not None and time.monotonic() - self.started >= budget.deadline_s:
            self.over = "the deadline"
        elif budget.wire_bytes is not None and traffic.wire_bytes >= budget.wire_bytes:
            self.over = "max_bytes"

    async def _breathe(self) -> None:
        """In long loops: let exchanges that are under way go on, and seal what is due."""
        await self._rotate_if_due()
        await asyncio.sleep(0)

    async def _defer_rest(self) -> None:
        for number, (host, link) in enumerate(self.frontier.drain()):
            self.outcomes.settle(host, link, PageStatus.DEFERRED, self.over)
            if number % _SLICE == 0:
                await self._breathe()
        for host, link, failure in self.outage.release():
            await self.outcomes.judge(host, link, failure)

    # A network that is down

    def _must_look(self) -> bool:
        if not self.outage.held or self.over:
            return False
        is_idle = not self.turns.n_active and not self.frontier.n_ready
        is_old = time.monotonic() - self.turns.held_since > _HOLD_S
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
                self.outcomes.give_back(host)
            else:
                await self.outcomes.judge(host, link, failure)
        self.is_paused = False
