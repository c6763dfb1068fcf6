"""Tells a dead network of our own from dead hosts, so that an outage does not become a million typed failures.

A failure to reach a host (no name, no connection, silence) is held back until another host answers what it was asked
after the failure, which as a rule takes milliseconds: the network is there, so the failure was the host's. If failures
pile up instead, or there is nothing else left to ask, hosts that answered before are connected to (a connection, no
request). If one of them lets us in, the network is there. If none does, it is not: what was held back is asked again
later, and the task pauses, looking again with growing pauses, for at most network_pause_s.

A network that never worked is no outage: failures are typed at once. So is it where fewer than ``MIN_GOOD`` domains
have answered: then a host that has died cannot be told from a network that has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from data.schema import PageStatus

UNREACHED = frozenset({PageStatus.DNS_FAILURE, PageStatus.CONNECT_FAILURE, PageStatus.TIMEOUT})
MIN_GOOD = 2
MAX_HELD = 8  # failures in a row that raise suspicion
_REMEMBERED = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0

Held = TypeVar("Held")
Connects = Callable[[str], Awaitable[bool]]
"""Whether a connection to an origin can be made."""


class Outage(Generic[Held]):
    """Holds failures back until it is known whose they are."""

    def __init__(self, connects: Connects) -> None:
        self.connects = connects
        self.held: list[Held] = []
        self.good: OrderedDict[str, str] = OrderedDict()  # registrable domain -> origin that answered, latest last

    @property
    def may_hold(self) -> bool:
        return len(self.good) >= MIN_GOOD

    @property
    def is_suspicious(self) -> bool:
        return len(self.held) >= MAX_HELD

    def answered(self, domain: str, origin: str, explains: Callable[[Held], bool] = lambda _: True) -> list[Held]:
        """A host answered: what was held back is what it looks like, if the answer ``explains`` it; returns that."""
        self.good[domain] = origin
        self.good.move_to_end(domain)
        if len(self.good) > _REMEMBERED:
            self.good.popitem(last=False)
        if not self.held:
            return []
        explained = [held for held in self.held if explains(held)]
        self.held = [held for held in self.held if not explains(held)]
        return explained

    def release(self) -> list[Held]:
        held, self.held = self.held, []
        return held

    async def is_network_down(self) -> bool:
        """Whether none of the hosts that answered before lets us connect."""
        return not any(await asyncio.gather(*(self.connects(origin) for origin in self.good.values())))


def pauses(limit_s: float) -> list[float]:
    """How long to wait before each further look, growing; their sum is ``limit_s``."""
    found: list[float] = []
    pause_s = _FIRST_PAUSE_S
    while (left_s := limit_s - sum(found)) > 0:
        found.append(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return found
