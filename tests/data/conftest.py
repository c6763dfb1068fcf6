"""The hostile server and a crawler of it, new for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.crawling import Crawler
from tests.data.hostile import Web, serving


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as served:
        yield served


@pytest.fixture
def crawl(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crawler:
    # No authority is trusted: the tests' own is named where it is wanted. Reading this machine's takes 30 ms each time.
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    return Crawler(web, tmp_path)
