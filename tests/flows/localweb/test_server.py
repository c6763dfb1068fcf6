"""The bundled local web: its content, its answers, and its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio
import zstandard
from aiohttp.abc import AbstractResolver, ResolveResult

from data.schema import PageStatus
from data.text.extract import extract
from data.urls.canonical import canonical_url, domain_of
from flows.localweb import build as localbuild
from flows.localweb import docs as localdocs
from flows.localweb import pages as localpages
from flows.localweb import plan as localplan
from flows.localweb import texts as localtexts
from flows.localweb.prose import plain
from flows.localweb.server import BOMB_BYTES, LocalWeb, running
from flows.localweb.site import Site, host_of


@pytest.fixture(scope="module")
def web(home: Path) -> Iterator[LocalWeb]:
    with running(home) as web:
        yield web


@pytest.fixture(scope="module")
def site(web: LocalWeb) -> Site:
    return web.site


class _Here(AbstractResolver):
    """Resolves every name to the local web."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=self.port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        pass


@pytest_asyncio.fixture
async def client(web: LocalWeb) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(resolver=_Here(web.port), limit=50, family=socket.AF_INET)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


def _server() -> psutil.Process:
    (server,) = [child for child in psutil.Process().children() if "flows.localweb.server" in child.cmdline()]
    return server


# Content


def test_the_site_is_large_enough_for_a_demo(site: Site) -> None:
    pages = [url for url, route in site.routes.items() if route.article >= 0]
    n_chars = sum(len(plain(site.article(url).blocks)) for url in pages)
    assert 3_000 <= len(pages) <= 4_000
    assert 10_000_000 <= n_chars <= 14_000_000
    assert len(site.hosts) >= 200
    assert len({domain_of(url) for url in pages}) >= 100
    assert all(host.endswith(".example") for host in site.hosts)


def test_every_hazard_occurs_many_times(site: Site) -> None:
    counts = Counter(route.kind for route in site.routes.values())
    assert set(counts) == set(localplan.KINDS)
    for kind, at_least in {"exact_copy": 50, "syndicated": 30, "near_copy": 60, "thin": 60, "foreign": 36}.items():
        assert counts[kind] >= at_least, kind
    # Karma decides which links of a failing host are still requested, so none is certain to be host_failing.
    assert {expected.page for expected in site.expected.values()} >= set(PageStatus) - {
        *(PageStatus.DNS_FAILURE, PageStatus.CONNECT_FAILURE, PageStatus.TLS_FAILURE, PageStatus.DEFERRED),
        PageStatus.HOST_FAILING,
    }


def test_urls_are_canonical(site: Site) -> None:
    assert [url for url in site.routes if canonical_url(url) != url] == []


def test_the_site_has_long_texts_in_several_languages(site: Site) -> None:
    articles = {site.article(url).name: site.article(url) for url in site.urls("foreign")}
    assert len(articles) >= 12
    assert len({article.language for article in articles.values()}) >= 4
    assert min(len(plain(article.blocks).split()) for article in articles.values()) >= 120


def test_near_copies_differ_a_little(site: Site) -> None:
    for url in site.urls("near_copy"):
        copy, original = site.article(url), site.article(site.routes[url].original)
        shingles = [_shingles(plain(article.blocks)) for article in (copy, original)]
        similarity = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
        assert 0.85 <= similarity < 1, url


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def test_markers_are_on_every_page_but_in_no_article(site: Site) -> None:
    words = {word for article in site.articles for word in re.findall(r"\w+", plain(article.blocks))}
    assert words.isdisjoint(localpages.MARKERS.values())
    for layout in localpages.LAYOUTS:
        url = next(url for url in site.urls("article") if site.hosts[host_of(url)].layout == layout)
        html = site.html(url).decode()
        assert [marker for marker in localpages.MARKERS.values() if marker not in html] == []


@pytest.mark.parametrize("layout", localpages.LAYOUTS)
def test_the_article_can_be_separated_from_its_surroundings(site: Site, layout: str) -> None:
    urls = [url for url in site.urls("article") if site.hosts[host_of(url)].layout == layout][:25]
    leaks, shares = 0, []
    for url in urls:
        page = extract(site.html(url), site.routes[url].content_type, url)
        assert page.title == " ".join(site.article(url).title.split())
        assert page.date == site.routes[url].published
        words = set((page.text or "").split())
        article = plain(site.article(url).blocks).split()
        shares.append(sum(word in words for word in article) / len(article))
        leaks += any(marker in (page.text or "") for marker in localpages.MARKERS.values())
    assert sum(shares) / len(shares) >= 0.97
    assert leaks <= 2


def test_a_wrong_charset_can_be_detected(site: Site) -> None:
    urls = site.urls("wrong_charset")
    assert {(site.routes[url].content_type, site.routes[url].charset) for url in urls} == {
        ("text/html; charset=utf-8", "cp1252"),
        ("text/html; charset=iso-8859-1", "utf-8"),
    }
    for url in urls[:4]:
        body = site.html(url)
        declared = site.routes[url].content_type.partition("charset=")[2]
        assert localtexts.THANKS not in body.decode(declared, errors="replace")
        assert localtexts.THANKS in (extract(body, site.routes[url].content_type, url).text or "")


# Sources


def test_only_runtime_dependencies_are_read() -> None:
    from importlib import metadata

    from packaging.requirements import Requirement

    seen: set[str] = set()
    waiting = ["webtext"]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:  # for another platform
            continue
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    assert [name for name, _ in localdocs.SOURCES if name.lower() not in seen] == []


def test_the_plan_and_the_dump_do_not_depend_on_the_process(web: LocalWeb, tmp_path: Path) -> None:
    """Planned again from the same articles under another hash seed: the same routes, pages and dump."""
    code = (
        "import hashlib, pathlib, sys\n"
        "from flows.localweb.build import build\n"
        "from flows.localweb.dump import write_dump\n"
        "from flows.localweb.plan import plan\n"
        "built = build(pathlib.Path(sys.argv[1]))\n"
        "n = max(route.article for route in built.site.routes.values() if route.kind in ('article', 'original'))\n"
        "site = plan(built.site.articles[: n + 1])\n"
        "dump = pathlib.Path(sys.argv[2])\n"
        "assert write_dump(site, dump) == built.dump_counts\n"
        "assert dump.read_bytes() == built.dump.read_bytes()\n"
        "assert site == built.site and list(site.routes) == list(built.site.routes)\n"
        "urls = site.urls('article', 'foreign', 'wrong_charset')[::20]\n"
        "print(hashlib.sha256(b''.join(map(site.html, urls))).hexdigest())\n"
    )
    home = web.dump.parent.parent.parent
    results = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(home), str(tmp_path / seed)]
        done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True)
        results.add(done.stdout)
    assert len(results) == 1


@pytest.mark.slow
def test_two_builds_are_identical(web: LocalWeb, tmp_path: Path) -> None:
    again = localbuild.build(tmp_path)
    assert again.site == web.site
    assert again.dump.read_bytes() == web.dump.read_bytes()


def test_a_damaged_build_is_rebuilt(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = [article for article in site.articles if "~" not in article.name and "." in article.name][:2_500]
    monkeypatch.setattr(
        localdocs, "choose_articles", lambda: articles
    )  # real articles; choosing them again would take longer
    built = localbuild.build(tmp_path)
    for path in sorted(built.dump.parent.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        assert localbuild.build(tmp_path).site == built.site
        assert path.read_bytes() == whole
        inode = path.stat().st_ino
        localbuild.build(tmp_path)
        assert path.stat().st_ino == inode  # a complete file is not written again


def test_an_error_of_a_building_child_is_left_to_the_next_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    is_over = False
    with localbuild.building(tmp_path / "file"):
        is_over = True
    assert is_over
    with pytest.raises(OSError, match="file"):
        localbuild.build(tmp_path / "file")


def test_an_error_names_the_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localdocs, "SOURCES", (("no-such-package", "nosuch"),))
    with pytest.raises(ValueError, match="package no-such-package is not installed"):
        localdocs.versions()


# Answers


async def test_served_pages_match_the_site(web: LocalWeb, site: Site, client: aiohttp.ClientSession) -> None:
    urls = site.urls("article")[::60] + site.urls("exact_copy", "wrong_charset", "xhtml", "foreign")[::5]
    encodings = set()
    for url in urls:
        async with client.get(url, headers={"Accept-Encoding": "gzip, deflate, br"}) as response:
            body = await response.read()
            assert response.status == 200
            assert response.headers["Content-Type"] == site.routes[url].content_type
            assert body == site.html(url)
            encodings.add(response.headers.get("Content-Encoding", ""))
            assert str(web.port).encode() not in re.findall(rb":(\d+)", body)
            assert b"127.0.0.1" not in body.replace(plain(site.article(url).blocks).encode(), b"")
    assert encodings == {"", "gzip", "deflate", "br"}


async def test_exact_copies_have_the_same_bytes(site: Site, client: aiohttp.ClientSession) -> None:
    for url in site.urls("exact_copy")[:10]:
        bodies = [await (await client.get(u)).read() for u in (url, site.routes[url].original)]
        assert bodies[0] == bodies[1]


async def test_redirects_lead_to_their_originals(site: Site, client: aiohttp.ClientSession) -> None:
    hops = set()
    for url in site.urls("redirect_host", "redirect_domain", "redirect_away"):
        async with client.get(url) as response:
            assert (response.status, str(response.url)) == (200, site.routes[url].original)
            hops.add(len(response.history))
    assert hops == {1, 2, 3}


async def test_bad_redirects_are_served(site: Site, client: aiohttp.ClientSession) -> None:
    for url in site.urls("redirect_loop", "redirect_limit"):
        with pytest.raises(aiohttp.TooManyRedirects):
            await client.get(url, max_redirects=9)
    locations = []
    for url in site.urls("redirect_private", "redirect_bad"):
        async with client.get(url, allow_redirects=False) as response:
            locations.append(response.headers.get("Location"))
    assert "http://10.0.0.1/" in locations
    assert None in locations


async def test_errors_and_other_types_are_served(site: Site, client: aiohttp.ClientSession) -> None:
    statuses = Counter()
    for url in site.urls("status"):
        statuses[(await client.get(url)).status] += 1
    assert statuses == {404: 12, 410: 3, 500: 3, 503: 3, 403: 3, 451: 3, 429: 3, 204: 3}
    types = {(await client.get(url)).content_type for url in site.urls("not_html")}
    assert types == {"application/pdf", "image/png", "application/json", "text/plain"}
    assert await (await client.get(site.urls("empty_body")[0])).read() == b""
    for url in ("http://quietharbor.example/nothing/here", "http://unknown.example/"):
        assert (await client.get(url)).status == 404


async def test_every_host_answers_for_robots_txt(site: Site, client: aiohttp.ClientSession) -> None:
    statuses = Counter()
    for host, expected in site.hosts.items():
        async with client.get(f"http://{host}/robots.txt") as response:
            assert (response.status, await response.text()) == (expected.robots_status, expected.robots)
            statuses[response.status] += 1
    assert statuses[404] >= 20
    assert statuses[200] >= 100
    assert statuses[500] == 1


async def test_a_bomb_is_small_on_the_wire_and_in_the_server(site: Site, client: aiohttp.ClientSession) -> None:
    wire = decoded = 0
    stream = zlib.decompressobj(31)
    async with client.request("GET", site.urls("bomb")[0], auto_decompress=False) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        async for chunk in response.content.iter_any():
            wire += len(chunk)
            while chunk:
                decoded += len(stream.decompress(chunk, 1 << 20))
                chunk = stream.unconsumed_tail
    assert stream.eof
    assert decoded >= BOMB_BYTES > 100_000_000
    assert wire < 500_000
    assert _server().memory_info().rss < 400_000_000


async def test_an_endless_body_ends_with_its_reader(site: Site, client: aiohttp.ClientSession) -> None:
    received = 0
    async with client.get(site.urls("too_large")[0]) as response:
        async for chunk in response.content.iter_any():
            received += len(chunk)
            if received > 12_000_000:
                break
        response.close()
    for _ in range(60):  # on a busy machine the server may notice late that its reader is gone
        busy = _server().cpu_times().user
        await asyncio.sleep(0.5)
        if _server().cpu_times().user - busy < 0.2:
            return
    pytest.fail("the server goes on sending to nobody")


async def test_broken_connections_and_encodings_are_served(site: Site, client: aiohttp.ClientSession) -> None:
    for url in site.urls("cut", "bad_encoding"):
        with pytest.raises((aiohttp.ClientError, OSError)):
            await (await client.get(url)).read()


async def test_slow_hosts_exceed_the_time_limit(site: Site, client: aiohttp.ClientSession) -> None:
    silent, drip = site.urls("slow")
    with pytest.raises(TimeoutError):
        await client.get(silent, timeout=aiohttp.ClientTimeout(total=0.7))
    async with client.get(drip) as response:
        assert await asyncio.wait_for(response.content.read(1), 5) == b"."
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(response.read(), 0.7)


async def test_the_server_serves_500_pages_per_cpu_second(site: Site, client: aiohttp.ClientSession) -> None:
    """CPU time, since other tests run on the same cores."""
    urls = site.urls("article")[:600]
    before = _server().cpu_times()
    await asyncio.gather(*(_receive(client, url) for url in urls))
    after = _server().cpu_times()
    assert (after.user + after.system - before.user - before.system) / len(urls) < 1 / 500


async def _receive(client: aiohttp.ClientSession, url: str) -> None:
    async with client.get(url) as response:
        await response.read()


# Process


def test_the_server_ends_with_its_block(home: Path) -> None:
    with running(home) as web:
        socket.create_connection(("127.0.0.1", web.port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", web.port))


def test_the_server_ends_when_its_parent_is_killed(home: Path) -> None:
    code = (
        "import os, pathlib, psutil, signal, sys\n"
        "from flows.localweb.server import running\n"
        "with running(pathlib.Path(sys.argv[1])):\n"
        "    print(psutil.Process().children()[0].pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    server = int(done.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(server).wait(timeout=10)
    assert not psutil.pid_exists(server)


def test_the_dump_is_named_by_the_server(web: LocalWeb) -> None:
    assert web.connect_to == (f"*.example=127.0.0.1:{web.port}",)
    assert web.dump.name == "RS_2026-10.zst"
    assert web.dump.read_bytes()[:4] == zstandard.MAGIC_NUMBER.to_bytes(4, "little")
