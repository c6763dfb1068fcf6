"""Loopback servers and their clients, new for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.data.archives.finding import CRAWL, FAR, LATER_CRAWL, NEAR, Finder
from tests.data.archives.server import ArchiveServer, serving_archives
from tests.data.http.hostile import Web, serving
from tests.data.links.services import Services
from tests.data.links.services import serving as serving_services
from tests.data.pages.crawling import Crawler


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as served:
        yield served


@pytest.fixture
def crawl(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crawler:
    # Trust no authority: a test names its own when it needs one. Loading this machine's takes 30 ms each time.
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    return Crawler(web, tmp_path)


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    """Two web archives."""
    with serving_archives() as served:
        for name, middle in ((CRAWL, NEAR), (LATER_CRAWL, FAR)):
            served.add_crawl(name, middle - timedelta(days=10), middle + timedelta(days=10))
        yield served


@pytest.fixture
async def finder(server: ArchiveServer, tmp_path: Path) -> AsyncIterator[Finder]:
    made = Finder(server, tmp_path)
    yield made
    for client in made.clients:
        await client.close()


@pytest.fixture
def services() -> Iterator[Services]:
    """Sources of links."""
    with serving_services(Services()) as running:
        yield running
