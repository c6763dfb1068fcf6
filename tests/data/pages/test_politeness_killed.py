"""A crawl that was killed (kill -9) and resumed contacts no host sooner or more often."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.lake.store import Lake
from tests.data.http.hostile import BUSY, TDMREP, Web, in_turn, prove_polite, redirect, reply, rules
from tests.data.pages.crawling import fill, host_urls, publish_links

ROOT = Path(__file__).parents[3]


class Crawling:
    """Runs the pages stage in a separate process, over a lake with these links."""

    def __init__(self, web: Web, lake: Lake, urls: list[str], **settings: Any) -> None:
        self.web, self.lake = web, lake
        publish_links(lake, [urls])
        hosts = {url.split("/")[2] for url in urls} | {"www.moved.example"}
        connect_to = [f"{host}={web.address(host)}:{web.port}" for host in sorted(hosts)]
        self.settings = {"connect_to": connect_to, "backoff_s": 0.1} | settings
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            str(ROOT / "tests" / "crash" / "crawl.py"),
            self.lake.root,
            json.dumps(self.settings),
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, "it ended before it was killed"
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def digest(self) -> str:
        """The digest of the pages at the end."""
        assert self.process is not None
        output = self.process.communicate(timeout=60)[0]
        assert self.process.returncode == 0
        return output.strip()

    def sealed(self) -> set[str]:
        """The links in sealed segments, as ``host/path``."""
        dataset = self.lake.dataset("pages", "s1")
        found: set[str] = set()
        for part in dataset.sealed().values():
            for file in part.files:
                if file.path.endswith(".parquet"):
                    found.update(dataset.read(file.path)["canonical_url"].to_pylist())
        return {url.removeprefix("http://") for url in found}

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def crawling(web: Web) -> Iterator[list[Crawling]]:
    begun: list[Crawling] = []
    yield begun
    for one in begun:
        one.close()


def _wait_for(condition: Any, what: str, limit_s: float = 30.0) -> None:
    ends_at = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends_at, what
        time.sleep(0.005)


def test_killed_crawl_resumes_politely_with_the_same_digest(web: Web, tmp_path: Path, crawling: list[Crawling]) -> None:
    """Two kills at different moments. Over all runs: delays hold, robots.txt comes before pages, no forbidden path and
    nothing durable is fetched again, and each host first rests for one delay. The digest is that of an undisturbed run.
    """
    names = [f"h{n}.site{n % 3}.example" for n in range(6)]
    urls = [url for url in host_urls(*names, n=12) if not url.startswith("http://h2.") or url[-1] in "678"]
    fill(web, urls, reply())
    for url in urls[::5]:
        web[url] = redirect(url + "/moved")
        web[url + "/moved"] = reply(b"<p>moved")
    web["h1.site1.example/robots.txt"] = rules("User-agent: *\nDisallow: /secret")
    secret = host_urls("h1.site1.example/secret", n=3)
    fill(web, secret, reply())
    web["h2.site2.example/robots.txt"] = rules("User-agent: *\nCrawl-delay: 0.3")
    settings = {"host_delay_s": 0.1, "segment_rows": 4}
    killed = Crawling(web, Lake(tmp_path / "killed"), [*urls, *secret], **settings)
    crawling.append(killed)
    begun_at, ended_at, sealed = [0], [], []
    for n_more in (25, 30):
        killed.start()
        wanted = len(web.log) + n_more
        _wait_for(lambda wanted=wanted: len(web.log) >= wanted, f"{wanted} requests")
        killed.kill()
        ended_at.append(time.monotonic())
        begun_at.append(len(web.log))
        sealed.append(killed.sealed())
    killed.start()
    digest = killed.digest()
    prove_polite(web, {name: 0.3 if name == "h2.site2.example" else 0.1 for name in names},
                 forbidden=["h1.site1.example/secret"])  # fmt: skip
    runs = [web.log[a:b] for a, b in itertools.pairwise([*begun_at, len(web.log)])]
    for n, run in enumerate(runs):
        for name in names:
            paths = [request.path for request in run if request.host == name]
            assert not paths or paths[0] == "/robots.txt", (n, name)
        if n:
            assert len(sealed[n - 1]) >= 4 * n
            again = {request.host + request.path for request in run} & sealed[n - 1]
            assert again == set(), f"run {n} asked for what was durable"
            assert min(request.started for request in run) - ended_at[n - 1] >= 0.1
    n_requests = len(web.log)
    whole = Crawling(web, Lake(tmp_path / "whole"), [*urls, *secret], **settings)
    crawling.append(whole)
    whole.start()
    assert whole.digest() == digest
    assert len(web.log) - n_requests < n_requests


def test_retry_after_is_honoured_after_a_kill(web: Web, tmp_path: Path, crawling: list[Crawling]) -> None:
    """This holds for a host with links and for one reached only by a redirect."""
    urls = list(fill(web, host_urls("www.site.example", n=15), reply()))
    busy = ["www.later.example", "www.moved.example"]
    for host in busy:
        web[f"{host}/0"] = in_turn(reply(b"", BUSY, retry_after="6"), reply())
    web["old.moved.example/0"] = redirect("http://www.moved.example/0")
    urls += host_urls("www.later.example", "old.moved.example")
    run = Crawling(web, Lake(tmp_path / "lake"), urls, host_delay_s=0.1)
    crawling.append(run)
    run.start()
    _wait_for(lambda: all(web.asked(host)[-1:] == ["/0"] for host in busy), "the answers 503")
    answered_at = {host: web.requests(host)[-1].ended for host in busy}
    time.sleep(max(0.0, max(answered_at.values()) + 0.6 - time.monotonic()))
    run.kill()
    n_requests = len(web.log)
    run.start()
    run.digest()
    assert web.log[n_requests].started < min(answered_at.values()) + 6.0, "the run began too late to prove anything"
    for host in busy:
        again = [request for request in web.log[n_requests:] if request.host == host]
        assert again[0].started - answered_at[host] >= 6.0
        assert [request.path for request in again] == ["/robots.txt", TDMREP, "/0"]
