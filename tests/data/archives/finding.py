"""Looks one dead page up in the archives of tests/data/archives/server.py, with a clock that does not wait."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from data.archives.host import ArchiveUnavailable
from data.archives.lookup import Archives
from data.config import PagesConfig
from data.http.client import Client, Network
from tests.data.archives.server import ArchiveServer, Held, timestamp_of

URL = "http://www.gone.example/story?a=1&b=2"
BODY = "<!doctype html><title>Gone</title><p>It was here, ünd more.".encode()
WHEN = datetime(2014, 5, 20, 12, 0, 0, tzinfo=UTC)
NEAR = datetime(2014, 5, 1, 1, 2, 3, tzinfo=UTC)
FAR = datetime(2016, 7, 1, tzinfo=UTC)
CRAWL, LATER_CRAWL = "CC-MAIN-2014-20", "CC-MAIN-2016-30"


class Clock:
    """Seconds pass only while something sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


@dataclass
class Finder:
    """Creates Archives against the server, with a clock that does not wait."""

    server: ArchiveServer
    folder: Path
    clock: Clock = field(default_factory=Clock)
    clients: list[Client] = field(default_factory=list)

    def archives(self, *names: str, **changes: Any) -> Archives:
        config = PagesConfig(
            **{
                "archives": names or ("commoncrawl", "wayback"),
                "archive_urls": self.server.urls,
                "connect_to": self.server.connect_to,
                **changes,
            }
        )
        client = Client(Network.of(config, self.folder))
        self.clients.append(client)
        now = lambda: datetime(2026, 11, 1, tzinfo=UTC)  # noqa: E731
        return Archives(config, client, sleep=self.clock.sleep, clock=self.clock, now=now, rng=random.Random(1))

    async def fault(self, *names: str, **changes: Any) -> tuple[str, str, str]:
        """The error that ``find`` raises."""
        with pytest.raises(ArchiveUnavailable) as raised:
            await self.archives(*names, **changes).find(URL, WHEN)
        return raised.value.archive, str(raised.value.fault), raised.value.detail


def held(when: datetime = NEAR, url: str = URL, body: bytes = BODY, **changes: Any) -> Held:
    return Held(url, timestamp_of(when), body, **changes)


def answering(text: str, status: int = 200) -> Callable[[], web.Response]:
    return lambda: web.Response(text=text, status=status)
