"""A connection, which carries one exchange after the other (data/http/exchange.py), and the watch over their times.

The watch checks the times of all exchanges together, ten times per second. One timer per exchange would cost more.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from data.config import PagesConfig
from data.http.exchange import Exchange

LOOK_S = 0.1  # time between two checks


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
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, exchange: Exchange, ends_at: float) -> None:
        exchange.ends_at = ends_at
        self.exchanges.add(exchange)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def end(self, exchange: Exchange) -> None:
        self.exchanges.discard(exchange)

    def _look(self) -> None:
        now = time.monotonic()
        for exchange in self.exchanges:
            if not exchange.done.done():
                exchange.check_time(now, self.config)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_S, self._look) if self.exchanges else None
