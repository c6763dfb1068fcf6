"""Tells an outage of our own network from dead hosts, so that an outage does not become a million typed failures.

The crawl holds back a failure to reach a host (no name, no connection, silence) until another host answers a request
that was sent after the failure. That usually takes milliseconds. It proves that the network works, so the failure is
the host's. If failures pile up instead, or nothing else is left to fetch, the crawl connects to hosts that answered
before (a connection, no request). If one of them accepts, the network works. If none does, the network is down: the
crawl pauses, looks again with growing pauses for at most network_pause_s, and then fetches the links that it held back.

A network that never worked is not an outage: its failures count at once. So do failures before ``MIN_GOOD`` domains
have answered, because then a dead host looks the same as a dead network.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from data.pages.frontier import Host
from data.pages.results import Failure

MIN_GOOD = 2
MAX_HELD = 8  # failures in a row that raise suspicion
_REMEMBERED = 5
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0

Connects = Callable[[str], Awaitable[bool]]
"""Whether an origin accepts a connection."""


class Outage:
    """Holds failures back until it is clear whether the host or our network failed. Times are on the caller's clock."""

    def __init__(self, connects: Connects) -> None:
        self.connects = connects
        self.held: list[tuple[Host, Failure]] = []  # the oldest first
        self.good: OrderedDict[str, str] = OrderedDict()  # registrable domain -> origin that answered, latest last

    @property
    def is_suspicious(self) -> bool:
        return len(self.held) >= MAX_HELD

    def hold(self, host: Host, failure: Failure, now: float) -> bool:
        """Hold a failure back if our network may be to blame. Returns False if the failure counts now.

        A failure that was held back and released counts.
        """
        if failure.held_at or len(self.good) < MIN_GOOD or not failure.is_unreached:
            return False
        self.held.append((host, failure._replace(held_at=now)))
        return True

    def held_for_s(self, now: float) -> float:
        """How long the oldest failure has been held back; 0 if there is none."""
        return now - self.held[0][1].held_at if self.held else 0.0

    def answered(self, domain: str, origin: str, asked_at: float) -> list[tuple[Host, Failure]]:
        """Note that a host answered a request of time ``asked_at``. Releases the failures from before that time."""
        self.good[domain] = origin
        self.good.move_to_end(domain)
        if len(self.good) > _REMEMBERED:
            self.good.popitem(last=False)
        if not self.held:
            return []
        explained = [held for held in self.held if held[1].held_at <= asked_at]
        self.held = [held for held in self.held if held[1].held_at > asked_at]
        return explained

    def release(self) -> list[tuple[Host, Failure]]:
        """Release all failures."""
        held = self.held
        self.held = []
        return held

    async def is_network_down(self) -> bool:
        """Whether none of the hosts that answered before accepts a connection."""
        return not any(await asyncio.gather(*(self.connects(origin) for origin in self.good.values())))


def pauses(limit_s: float) -> list[float]:
    """The pauses before each further look. They grow, and their sum is ``limit_s``."""
    found: list[float] = []
    pause_s = _FIRST_PAUSE_S
    while (left_s := limit_s - sum(found)) > 0:
        found.append(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return found
