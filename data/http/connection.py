"""A connection, which carries one exchange after the other (data/http/exchange.py), and the watch over their times.

The watch checks the times of all exchanges together, ten times per second. One timer per exchange would cost more. It
also notices that this process was stopped for a while: then it looked too late.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from data.config import PagesConfig
from data.http.exchange import Exchange

LOOK_S = 0.1  # time between two checks
PAUSE_S = 3.0  # between two checks: this process was stopped (Ctrl-Z, a frozen container), or got no processor


class Connection(asyncio.Protocol):
    """A connection, which carries one exchange at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.exchange: Exchange | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.abort()  # the server sends without a request
        else:
            self.exchange.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.exchange is not None:
            self.exchange.ended(exc)

    def send(self, exchange: Exchange, head: bytes) -> None:
        assert self.transport is not None
        self.exchange = exchange
        self.transport.write(head)

    def abort(self) -> None:
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()


class Watch:
    """Ends exchanges that take too long."""

    def __init__(self, config: PagesConfig) -> None:
        self.config = config
        self.exchanges: set[Exchange] = set()
        self.n_pauses = 0  # how often this process was stopped
        self._looked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on; does nothing if it does so already."""
        if self._timer is None:
            self._looked_at = time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin(self, exchange: Exchange, ends_at: float) -> None:
        exchange.ends_at = ends_at
        self.exchanges.add(exchange)

    def end(self, exchange: Exchange) -> None:
        self.exchanges.discard(exchange)

    def _look(self) -> None:
        now = time.monotonic()
        self.n_pauses += now - self._looked_at > PAUSE_S
        self._looked_at = now
        for exchange in self.exchanges:
            if not exchange.done.done():
                exchange.check_time(now, self.config)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
