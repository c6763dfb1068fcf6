"""Fetches one part's links: politely, in parallel over hosts, within limits. Every link ends in a row or a handoff.

A turn is one exchange with one host, for its robots.txt, its tdmrep.json or a page. After it the host waits its delay
while other hosts take their turns (data/pages/frontier.py). So a busy host has one connection, a registrable domain at
most ``max_hosts_per_domain`` hosts in progress and the part at most ``max_connections`` connections. No host that is
slow, failing or waiting holds up another one.

The path of a link: ``Crawl`` takes the next host from the frontier, ``Turns.turn`` takes the host's next link one step
further and returns what came of it, and ``Settlement.apply`` settles the link or puts it back in line.

A request is sent only if the robots.txt of its origin allows it. A redirect within the domain becomes a turn of the
target's host. One that leaves the domain is handed off to the part that holds the target's domain. For failing hosts
see data/pages/politeness.py, for a failing network data/pages/outage.py. At the start of a part every host waits one
delay, because a killed run may have sent it a request just before.

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
from data.http.client import Client, Network, fast_host_of
from data.pages.frontier import Frontier, Host, Link
from data.pages.job import Job
from data.pages.outage import Outage, pauses
from data.pages.progress import TICK_S, Progress
from data.pages.results import NotYet
from data.pages.robots import RobotsCache
from data.pages.settlement import LONG_PAUSE, Settlement
from data.pages.turns import Turns
from data.schema import PageStatus
from data.urls.canonical import registrable_domain

GC_THRESHOLD = 20_000  # new objects between collections: exchanges leave no garbage, and Python's 700 cost 1 %
_SLICE = 1_000
_HOLD_S = 5.0  # how long a failure is held back before the crawl looks into it


def fetch_links(links: Iterable[Link], job: Job) -> None:
    """Settle all links in ``job.segments``, which are durable at the end. Blocks; may run in any thread.

    The links of a host are fetched in the order in which they come. Raises only what no link can cause: an OSError for
    a full disk, InputError for settings, KeyboardInterrupt.
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
    # getaddrinfo blocks a thread. With one thread per connection, slow name servers hold up no other host.
    with ThreadPoolExecutor(config.max_connections, thread_name_prefix="resolver") as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        client = Client(Network.of(config, job.scratch, job.resolver))
        try:
            crawl = Crawl(job, client)
            await crawl.fill(by_host)
            gc.freeze()  # the queue, which every full collection would walk otherwise
            gc.set_threshold(GC_THRESHOLD)
            async with crawl.progress.running() as group:
                await crawl.run(group)
            await job.memory.close()
            await job.segments.settle_all()
        finally:
            gc.unfreeze()
            await client.close()


class Crawl:
    """The crawl of one part."""

    def __init__(self, job: Job, client: Client) -> None:
        config = job.config
        robots = RobotsCache(config)
        self.job = job
        self.config = config
        self.frontier = Frontier(config.max_hosts, config.max_hosts_per_domain, config.host_delay_s)
        self.outage = Outage(client.connects)
        self.turns = Turns(job, client, self.frontier, robots)
        self.settlement = Settlement(job, self.frontier, robots, self.outage)
        self.progress = Progress(job, client.network.traffic, self._measure)
        self.n_active = 0  # turns in progress
        self.is_paused = False
        self.over = ""  # why the crawl sends no more requests
        self.wake = asyncio.Event()
        self.wake_at = 0.0

    async def fill(self, by_host: dict[str, list[Link]]) -> None:
        """Queue the links, hosts with more links first. Links above max_links_per_host are deferred."""
        config = self.config
        for name in sorted(by_host, key=lambda name: -len(by_host[name])):
            links = by_host.pop(name)
            domain = registrable_domain(name)
            self.job.stats.links += len(links)
            for link in links[config.max_links_per_host :]:
                self.settlement.row(link, domain, PageStatus.DEFERRED, "more than max_links_per_host")
            if self.job.segments.is_due():
                await self._breathe()
            links = links[: config.max_links_per_host]
            wait_s = self.job.memory.wait_s(name)
            if wait_s > config.max_retry_after_s:
                for link in links:
                    self.settlement.row(link, domain, PageStatus.DEFERRED, LONG_PAUSE)
                continue
            for link in links:
                link.left_s = config.total_timeout_s
            delay_s = max(config.host_delay_s, self.job.memory.delay_s(name))
            self.frontier.fill(self.settlement.host(domain, name, self.progress.started + delay_s), links)

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Settle everything in the frontier."""
        while self.frontier.n_links:
            self._check_budget()
            if self.over:
                await self._defer_rest()
            elif self._must_look():
                await self._look()
            while self.n_active < self.config.max_connections and (host := self._next()) is not None:
                self.n_active += 1
                group.create_task(self._work(host))
            if self.frontier.n_links:
                await self._sleep()

    # Dispatching

    def _next(self) -> Host | None:
        """A host that is ready; None if there is none or the crawl must not send requests now."""
        return None if self.over or self.is_paused else self.frontier.take(time.monotonic())

    async def _work(self, host: Host | None) -> None:
        """Take a turn of this host, and then of other hosts as long as one is ready."""
        while host is not None:
            result = await self.turns.turn(host)
            await self.settlement.apply(host, result)
            self.progress.seal_if_due()
            self._check_budget()
            host = None if self._must_look() else self._next()
            if self._can_start() and (self.frontier.n_ready or self._next_at() < self.wake_at):
                self.wake.set()
        self.n_active -= 1
        self.wake.set()

    async def _sleep(self) -> None:
        """Sleep until a turn ends or something is due."""
        self.wake_at = time.monotonic() + TICK_S
        if self._can_start():
            self.wake_at = min(self.wake_at, self._next_at())
        if self.job.budget.deadline_s is not None and not self.over:
            self.wake_at = min(self.wake_at, self.progress.started + self.job.budget.deadline_s)
        timer = asyncio.get_running_loop().call_later(max(0.0, self.wake_at - time.monotonic()), self.wake.set)
        await self.wake.wait()
        self.wake.clear()
        timer.cancel()

    def _can_start(self) -> bool:
        """Whether another turn may start beside those in progress."""
        return self.n_active < self.config.max_connections and not self.over

    def _next_at(self) -> float:
        at = self.frontier.next_at()
        return float("inf") if at is None else at

    def _check_budget(self) -> None:
        self.over = self.over or self.progress.what_is_over()

    async def _breathe(self) -> None:
        """In long loops: let exchanges in progress go on, and seal full segments."""
        self.progress.seal_if_due()
        await asyncio.sleep(0)

    async def _defer_rest(self) -> None:
        for number, (host, link) in enumerate(self.frontier.drain()):
            self.settlement.settle(host, link, PageStatus.DEFERRED, self.over)
            if number % _SLICE == 0:
                await self._breathe()
        for host, failure in self.outage.release():
            await self.settlement.apply(host, failure)

    def _measure(self) -> None:
        stats = self.job.stats
        stats.hosts_active = self.n_active
        stats.hosts_ready = self.frontier.n_ready
        stats.hosts_waiting = self.frontier.n_waiting
        stats.hosts_left = len(self.frontier.hosts)

    # An outage of our network

    def _must_look(self) -> bool:
        """Whether it is time to find out what caused the failures that are held back."""
        if not self.outage.held or self.over:
            return False
        is_idle = not self.n_active and not self.frontier.n_ready
        return is_idle or self.outage.is_suspicious or self.outage.held_for_s(time.monotonic()) > _HOLD_S

    async def _look(self) -> None:
        """Find out whether our network is down, and wait while it is. Then release the failures held back."""
        self.is_paused = True
        is_down = await self.outage.is_network_down()
        if is_down:
            await self._wait_for_network()
        for host, failure in self.outage.release():
            await self.settlement.apply(host, NotYet(failure.link) if is_down else failure)
        self.is_paused = False

    async def _wait_for_network(self) -> None:
        self.job.stats.paused = "network down"
        self.job.log.event(self.job.stats, "pause")
        for pause_s in pauses(self.config.network_pause_s):
            await asyncio.sleep(pause_s)
            self._check_budget()
            if self.over or not self.outage.held or not await self.outage.is_network_down():
                break
        else:
            self.over = "the network was down for network_pause_s"
        self.job.log.event(self.job.stats, "resume")
        self.job.stats.paused = ""
