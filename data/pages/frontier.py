"""The frontier: which host takes the next turn, and when. Pure bookkeeping: no sockets, no clock of its own.

Every host with links left is in exactly one state:

    ready     it can take a turn now; the host with the most links left is first, because it takes longest to finish
    waiting   until some time: politeness delay, back-off, Retry-After, an open breaker
    busy      it has an exchange in progress, or its failure is held back (data/pages/outage.py)
    pending   the limit of hosts in progress is reached, for its registrable domain or for the whole crawl task

A waiting host does not hold up others, and a slow one occupies one connection. A parked host (a long wait) gives its
place in the domain to another one.

Memory: about 0.8 kB per host and 0.3 kB per link, its URL included.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from data.http.breaker import Breaker
from data.pages.optout import TdmRule
from data.pages.robots import Robots


@dataclass(slots=True, eq=False)
class Link:
    """A link in the crawl. ``seen`` holds the URLs that redirected to ``url``, oldest first."""

    canonical_url: str
    url: str
    karma: int
    seen: tuple[str, ...] = ()
    left_s: float = 0.0  # remainder of total_timeout_s
    attempts: int = 0  # failed ones


@dataclass(slots=True, eq=False)
class Domain:
    """A registrable domain: how many of its hosts are in progress, and which ones wait for a place."""

    name: str
    n_active: int = 0
    n_links: int = 0  # unsettled links of all its hosts
    hosts: list[Host] = field(default_factory=list)
    pending: list[Host] = field(default_factory=list)  # the next one is last


@dataclass(slots=True, eq=False)
class Host:
    """One host: its queue, its delay and what is known about it."""

    name: str
    domain: Domain
    delay_s: float
    free_at: float = 0.0  # no request before this time
    asked_at: float = 0.0  # the last request of one of its turns
    queue: list[Link] = field(default_factory=list)  # the next one is last
    is_placed: bool = False  # ready, waiting, busy or pending
    is_active: bool = False  # counted as in progress in its domain
    breaker: Breaker = field(default_factory=Breaker)
    robots_attempts: int = 0
    reservations: dict[str, tuple[TdmRule, ...]] | None = None  # by origin; None until the first tdmrep.json
    lock: asyncio.Lock | None = None  # held by the one exchange with it; created by the first
    pinned: tuple[str, Robots] | None = None  # origin and its robots.txt, until the next request for a page

    def robots_of(self, origin: str) -> Robots | None:
        """The rules of an origin if they are pinned. Without pins a full cache could make us fetch rules for ever."""
        return self.pinned[1] if self.pinned is not None and self.pinned[0] == origin else None


class Frontier:
    """All hosts of a crawl task. Times are seconds of the caller's clock."""

    def __init__(self, max_hosts: int, max_hosts_per_domain: int, delay_s: float) -> None:
        self.max_hosts = max_hosts
        self.max_hosts_per_domain = max_hosts_per_domain
        self.delay_s = delay_s
        self.n_active = 0  # hosts in progress
        self.domains: dict[str, Domain] = {}
        self.hosts: dict[str, Host] = {}
        self.n_links = 0  # unsettled
        self._ready: list[tuple[int, int, Host]] = []
        self._waiting: list[tuple[float, int, Host]] = []
        self._crowd: list[tuple[int, int, Host]] = []  # pending because of max_hosts
        self._number = itertools.count()

    def host(self, domain_name: str, host_name: str, free_at: float) -> Host:
        """The host, created if it is unknown. The frontier forgets it when its domain has no links left."""
        host = self.hosts.get(host_name)
        if host is None:
            domain = self.domains.get(domain_name)
            if domain is None:
                domain = self.domains[domain_name] = Domain(domain_name)
            host = self.hosts[host_name] = Host(host_name, domain, self.delay_s, free_at)
            domain.hosts.append(host)
        return host

    def fill(self, host: Host, links: list[Link]) -> None:
        """Queue a new host's links, the first one first."""
        host.queue = links[::-1]
        host.domain.n_links += len(links)
        self.n_links += len(links)
        self._place(host)

    def take(self, now: float) -> Host | None:
        """The host whose turn it is; None if none is ready. The host is busy until ``give_back``."""
        while self._waiting and self._waiting[0][0] <= now:
            self._enter(heapq.heappop(self._waiting)[2])
        return heapq.heappop(self._ready)[2] if self._ready else None

    def next_at(self) -> float | None:
        """When the next waiting host is due; None if no host waits."""
        return self._waiting[0][0] if self._waiting else None

    def give_back(self, host: Host, *, park: bool = False) -> None:
        """End the turn of a busy host. If it has links left, its next turn is at ``host.free_at`` or later."""
        host.is_placed = False
        if park or not host.queue:
            self._leave(host)
        if host.queue:
            self._place(host)
        elif not host.domain.n_links:
            self._forget(host.domain)

    def requeue(self, link: Link, host: Host) -> None:
        """Put a link that was taken from a queue to the front of this host's queue, in the same domain."""
        host.queue.append(link)
        self._place(host)

    def settled(self, host: Host) -> None:
        """Note that a link taken from this host's queue has left the frontier."""
        self.n_links -= 1
        host.domain.n_links -= 1

    def drain(self) -> Iterator[tuple[Host, Link]]:
        """Take every queued link, also from busy hosts."""
        for host in list(self.hosts.values()):
            while host.queue:
                yield host, host.queue.pop()

    @property
    def n_ready(self) -> int:
        return len(self._ready)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def _place(self, host: Host) -> None:
        if not host.is_placed:
            host.is_placed = True
            heapq.heappush(self._waiting, (host.free_at, next(self._number), host))

    def _enter(self, host: Host) -> None:
        """Make a host whose time has come ready, or pending if there is no place for it."""
        domain = host.domain
        if not host.queue:  # drained meanwhile
            self.give_back(host)
            return
        if not host.is_active:
            if domain.n_active >= self.max_hosts_per_domain:
                domain.pending.insert(0, host)
                return
            if self.n_active >= self.max_hosts:
                heapq.heappush(self._crowd, self._rank(host))
                return
            host.is_active = True
            domain.n_active += 1
            self.n_active += 1
        heapq.heappush(self._ready, self._rank(host))

    def _leave(self, host: Host) -> None:
        if not host.is_active:
            return
        host.is_active = False
        host.domain.n_active -= 1
        self.n_active -= 1
        if host.domain.pending:
            self._enter(host.domain.pending.pop())
        while self._crowd and self.n_active < self.max_hosts:
            self._enter(heapq.heappop(self._crowd)[2])

    def _rank(self, host: Host) -> tuple[int, int, Host]:
        return -len(host.queue).bit_length(), next(self._number), host

    def _forget(self, domain: Domain) -> None:
        if self.domains.pop(domain.name, None) is not None:
            for host in domain.hosts:
                del self.hosts[host.name]
