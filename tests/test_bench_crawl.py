"""The crawl benchmark at its smallest: every scenario runs, settles all its links, and ends with its JSON line.

No timing is asserted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.crawl import QUICK, CrawlServer, curve
from benchmarks.crawl_server import MARK, template

ROOT = Path(__file__).parents[1]
HAS_PEERS = all(map(importlib.util.find_spec, ("scrapy", "uvloop")))


def _bench(scenario: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.crawl", "--quick", "--only", scenario, "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []  # the lakes are removed
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "crawl"
    assert result.keys() >= {"ratios", "ours", "peers", "peak_rss_mb", "machine"}
    assert result["peak_rss_mb"] > 50  # a process with pyarrow in it
    return result


@pytest.mark.skipif(not HAS_PEERS, reason="Scrapy and uvloop are not installed (the bench extra)")
def test_speed_compares_the_same_pages(tmp_path: Path) -> None:
    result = _bench("speed", tmp_path)
    pages = QUICK.speed_hosts * QUICK.speed_links_per_host
    found = {name: of["pages"] for name, of in result["peers"].items()}
    assert found | {"ours": result["ours"]["speed"]["pages"]} == {"bare": pages, "scrapy": pages, "ours": pages}
    assert result["ratios"].keys() == {"pages_per_cpu_s_vs_scrapy", "pages_per_cpu_s_vs_bare"}
    ours = result["ours"]["speed"]
    assert ours["pages_per_cpu_s"] == pytest.approx(pages / ours["cpu_s"], rel=0.01)
    # Every page is stored, none as a duplicate: 60 kB of such text compress to about 17 kB.
    assert 0.2 < ours["warc_bytes"] / (pages * QUICK.page_bytes) < 0.4


def test_memory_is_sampled_while_all_links_are_fetched(tmp_path: Path) -> None:
    result = _bench("memory", tmp_path)
    memory = result["ours"]["memory"]
    assert memory["counts"] == {"ok": QUICK.memory_hosts * QUICK.memory_links_per_host}
    assert memory["rss_mb_at"].keys() == {"5%", "25%", "50%", "75%", "100%"}  # meaningless values in so short a run
    assert result["ratios"].keys() == {"rss_at_100%_vs_25%"}


def test_the_memory_curve_is_indexed_by_requests() -> None:
    samples = [(0, 10.0), (0, 20.0), (4, 30.0), (5, 40.0), (60, 50.0), (100, 60.0), (100, 90.0)]
    assert curve(samples) == {"5%": 40.0, "25%": 50.0, "50%": 50.0, "75%": 60.0, "100%": 60.0}


def test_queue_settles_every_link(tmp_path: Path) -> None:
    queue = _bench("queue", tmp_path)["ours"]["queue"]
    assert sum(queue["counts"].values()) == QUICK.queue_hosts * QUICK.queue_links_per_host
    assert queue["counts"]["deferred"] > 0


def test_slow_hosts_delay_only_their_own_links(tmp_path: Path) -> None:
    result = _bench("slow", tmp_path)
    n_all = QUICK.slow_all_hosts * QUICK.slow_links_per_host
    n_slow = QUICK.slow_hosts * QUICK.slow_links_per_host
    slow = result["ours"]["slow"]
    assert slow["without_slow_hosts"]["counts"] == {"ok": n_all}
    assert slow["with_slow_hosts"]["counts"]["ok"] == n_all - n_slow
    assert sum(slow["with_slow_hosts"]["counts"].values()) == n_all
    assert result["ratios"].keys() == {"time_with_slow_hosts"}


def test_an_unknown_scenario_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.crawl", "--only", "speed,weight"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--only weight" in done.stderr


def _ask(address: tuple[str, int], path: str) -> bytes:
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address[0]}\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(65536)
        head, _, body = answer.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        return body


def test_the_server_gives_every_address_its_own_pages() -> None:
    with CrawlServer(60_000) as web:
        pages = [_ask((host, web.port), path) for host in ("127.0.0.1", "127.1.2.3") for path in ("/a", "/b")]
        assert len(set(pages)) == 4
        assert {len(page) for page in pages} == {60_000}
        assert b"127.1.2.3/b" in pages[3]
        assert b"Disallow: /private/" in _ask(("127.0.0.1", web.port), "/robots.txt")
        assert web.served() == 5


def test_slow_addresses_send_one_byte_per_second() -> None:
    with CrawlServer(1_000, "127.200.0.0/16") as web:
        started = time.monotonic()
        assert b"Disallow" in _ask(("127.200.0.2", web.port), "/robots.txt")  # an even address: only its pages are slow
        assert len(_ask(("127.0.0.1", web.port), "/page")) == 1_000
        assert time.monotonic() - started < 5
        for host, path, at_once in (("127.200.0.1", "/robots.txt", b"H"), ("127.200.0.2", "/page", b"\r\n\r\n<")):
            with socket.create_connection((host, web.port), timeout=0.5) as connection:
                connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
                answer = b""
                with contextlib.suppress(TimeoutError):
                    while b"\r\n\r\n<!DOC" not in answer:
                        answer += connection.recv(65536)
                assert answer.endswith(at_once)
                assert len(answer) < 600


def test_pages_compress_as_news_pages_do() -> None:
    page = template(60_000, seed=1)
    assert (len(page), page.count(MARK)) == (60_000, 1)
    assert 3.5 < len(page) / len(zlib.compress(page, 6)) < 5.0  # 181 real news pages: 4.5, of 45-80 kB: 4.2
