"""A crawl that is stopped for longer than a page may take (Ctrl-Z, a frozen container). Its rows do not show it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.lake.store import Lake
from tests.data.http.hostile import TDMREP, Handler, Request, Web, in_turn, redirect, reply
from tests.data.pages.test_politeness_killed import Crawling

HOST = "www.site.example"
TIMES = {"host_delay_s": 0.05, "read_timeout_s": 1.0, "total_timeout_s": 2.0, "connect_timeout_s": 1.0}


@pytest.fixture
def crawling(web: Web, tmp_path: Path) -> Iterator[list[Crawling]]:
    begun: list[Crawling] = []
    yield begun
    for one in begun:
        one.close()


class Silence:
    """Answers nothing until the crawl has been stopped and goes on; then the connection ends."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.is_over = threading.Event()

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.began.set()
        while not self.is_over.is_set():
            await asyncio.sleep(0.05)
        await asyncio.sleep(5)


def statuses(lake: Lake) -> dict[str, str]:
    rows = lake.dataset("pages", "s1").read("part-00000.parquet").to_pylist()
    return {row["canonical_url"]: row["status"] for row in rows}


@pytest.mark.parametrize("path", ["/robots.txt", TDMREP, "/0", "/moved"])
def test_a_request_that_was_in_progress_during_a_pause_is_sent_again(
    web: Web, tmp_path: Path, crawling: list[Crawling], path: str
) -> None:
    silence = Silence()
    answers: dict[str, Handler] = {"/robots.txt": reply(b""), "/0": redirect("/moved"), "/moved": reply(b"<p>moved")}
    answers[TDMREP] = reply(b'[{"location": "/other", "tdm-reservation": 1}]')
    for name, handler in answers.items():
        web[HOST + name] = in_turn(silence, handler) if name == path else handler
    run = Crawling(web, Lake(tmp_path), [f"http://{HOST}/0"], **TIMES)
    crawling.append(run)
    run.start()
    assert run.process is not None
    assert silence.began.wait(60)
    run.process.send_signal(signal.SIGSTOP)
    time.sleep(5)  # longer than every time above, and than what counts as a pause
    silence.is_over.set()
    run.process.send_signal(signal.SIGCONT)
    run.digest()
    assert web.asked(HOST).count(path) == 2
    assert statuses(run.lake) == {f"http://{HOST}/0": "ok"}
