"""A circuit breaker: stops the requests to a host that keeps failing. The crawl and the archive look-up both use it.

After ``max_failures`` in a row the breaker opens, and the caller sends nothing to the host for a while. The next
request decides: if it succeeds, the breaker closes; if it fails too, the caller gives the host up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BreakerState = Literal["closed", "opened", "given_up"]
"""The state after a failure: still closed, opened by it, or given up because the request after the pause failed."""


@dataclass(slots=True)
class Breaker:
    """The breaker of one host."""

    failures: int = 0  # in a row
    was_opened: bool = False  # since the last success

    def succeed(self) -> bool:
        """Close the breaker. Returns whether it had been opened."""
        was_opened = self.was_opened
        self.failures = 0
        self.was_opened = False
        return was_opened

    def fail(self, max_failures: int, weight: int = 1) -> BreakerState:
        """Count a failure, ``weight`` times."""
        self.failures += weight
        if self.was_opened:
            return "given_up"
        if self.failures < max_failures:
            return "closed"
        self.was_opened = True
        return "opened"
