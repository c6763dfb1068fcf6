"""The frontier: which host is asked next, and when. Pure bookkeeping: no sockets, no clock of its own.

Every host with links left is in exactly one place:

    ready     its turn may come now; the host with the most links left is first (it takes longest to finish)
    waiting   not before some time: politeness delay, back-off, Retry-After, an open breaker
    busy      an exchange with it is under way, or its failure is held back (data/pages/outage.py)
    pending   as many hosts, of its registrable domain or in all, as are allowed are worked on already

So a host that waits holds nobody up, and a slow one holds one connection. A host that is parked (a long wait) leaves
its place in the domain to another one.

Memory: about 0.8 kB a host and 0.3 kB a link, its URL included.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from data.pages.optout import TdmRule
from data.pages.robots import Robots


@dataclass(slots=True, eq=False)
class Link:
    """A link on its way. ``seen`` holds the URLs that led to ``url`` by redirects, oldest first."""

    canonical_url: str
    url: str
    karma: int
    seen: tuple[str, ...] = ()
    left_s: float = 0.0  # of total_timeout_s
    attempts: int = 0  # that failed in a way that may pass


@dataclass(slots=True, eq=False)
class Domain:
    """A registrable domain: how many of its hosts are worked on, and which wait for a place."""

    name: str
    n_active: int = 0
    n_links: int = 0  # not settled, of all its hosts
    hosts: list[Host] = field(default_factory=list)
    pending: list[Host] = field(default_factory=list)  # the next one is last


@dataclass(slots=True, eq=False)
class Host:
    """One host's queue and manners."""

    name: str
    domain: Domain
    delay_s: float
    free_at: float = 0.0  # no request before
    asked_at: float = 0.0
    queue: list[Link] = field(default_factory=list)  # the next one is last
    is_placed: bool = False  # ready, waiting, busy or pending
    is_active: bool = False  # counted in its domain
    failures: int = 0  # in a row; see data/pages/politeness.py
    was_opened: bool = False  # its breaker, since the last success
    robots_attempts: int = 0
    reservations: dict[str, tuple[TdmRule, ...]] | None = None  # by origin, of those that were asked
    lock: asyncio.Lock | None = None  # held by the one exchange with it; made when it is first asked
    pinned: tuple[str, Robots] | None = None  # what it said last, until a page was asked for by it

    def robots_of(self, origin: str) -> Robots | None:
        """The rules of an origin if they are pinned: a cache that is full must not make a host say them for ever."""
        return self.pinned[1] if self.pinned is not None and self.pinned[0] == origin else None


class Frontier:
    """All hosts of a crawl task. Times are those of the caller's clock."""

    def __init__(self, max_hosts: int, max_hosts_per_domain: int, delay_s: float) -> None:
        self.max_hosts, self.max_hosts_per_domain, self.delay_s = max_hosts, max_hosts_per_domain, delay_s
        self.n_active = 0
        self.domains: dict[str, Domain] = {}
        self.hosts: dict[str, Host] = {}
        self.n_links = 0  # not settled
        self._ready: list[tuple[int, int, Host]] = []
        self._waiting: list[tuple[float, int, Host]] = []
        self._crowd: list[tuple[int, int, Host]] = []  # whose domain has a place for them, and the frontier none
        self._number = itertools.count()

    def host(self, domain_name: str, host_name: str, free_at: float) -> Host:
        """The host, made if it is not known; it is known as long as its domain has links."""
        host = self.hosts.get(host_name)
        if host is None:
            domain = self.domains.get(domain_name)
            if domain is None:
                domain = self.domains[domain_name] = Domain(domain_name)
            host = self.hosts[host_name] = Host(host_name, domain, self.delay_s, free_at)
            domain.hosts.append(host)
        return host

    def fill(self, host: Host, links: list[Link]) -> None:
        """Queue a new host's links, in the order in which they are to be asked."""
        host.queue = links[::-1]
        host.domain.n_links += len(links)
        self.n_links += len(links)
        self._place(host)

    def take(self, now: float) -> Host | None:
        """The host whose turn it is, which is busy from now on; None if none is ready."""
        while self._waiting and self._waiting[0][0] <= now:
            self._enter(heapq.heappop(self._waiting)[2])
        return heapq.heappop(self._ready)[2] if self._ready else None

    def next_at(self) -> float | None:
        """When the next waiting host is due; None if none waits."""
        return self._waiting[0][0] if self._waiting else None

    def give_back(self, host: Host, *, park: bool = False) -> None:
        """The turn of a busy host is over; it comes again at ``host.free_at`` if it has links left."""
        host.is_placed = False
        if park or not host.queue:
            self._leave(host)
        if host.queue:
            self._place(host)
        elif not host.domain.n_links:
            self._forget(host.domain)

    def requeue(self, link: Link, host: Host) -> None:
        """A link that was taken from a queue goes to the front of this host's, of the same domain."""
        host.queue.append(link)
        self._place(host)

    def settled(self, host: Host) -> None:
        """A link that was taken from this host's queue has left the frontier."""
        self.n_links -= 1
        host.domain.n_links -= 1

    def drain(self) -> Iterator[tuple[Host, Link]]:
        """Take every queued link, those of busy hosts too."""
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
        """A host whose time has come is ready, or pending where its domain has no place left."""
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
