"""What becomes of a link, case by case, over real sockets; and when hosts are asked."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import socket
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brotli
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from data.config import PagesConfig
from data.crawllog import CrawlLog, CrawlStats
from data.fetch import fetch_links
from data.frontier import Link
from data.lake import Lake
from data.outcomes import Budget, Job
from data.politeness import HostMemory
from data.segments import Segments
from data.warc import read_payload
from tests.data.hostile import PAGE, Handler, Request, Web, raw, redirect, reply, serving
from tests.data.tls import issue_certificate

FAST = {"host_delay_s": 0.0, "backoff_s": 0.0, "breaker_pause_s": 0.0, "total_timeout_s": 20.0, "read_timeout_s": 10.0}
URL = "http://www.site.example/page"
TDMREP = "/.well-known/tdmrep.json"


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as served:
        yield served


@dataclass
class Fetched:
    """What a part gave, sorted by link."""

    rows: list[dict[str, Any]]
    handoffs: list[dict[str, Any]]
    stats: CrawlStats


@dataclass
class Crawler:
    """Fetches links from the server as a part of a lake of its own."""

    web: Web
    folder: Path
    n_parts: int = 0

    def __call__(self, *urls: str | Link, budget: Budget | None = None, **settings: Any) -> Fetched:
        settings = FAST | {"connect_to": (f"*.example=127.0.0.1:{self.web.port}",)} | settings
        links = [url if isinstance(url, Link) else Link(url, url, karma=3) for url in urls]
        resolver = settings.pop("resolver", None)
        known = settings.pop("known", {})
        config = PagesConfig(**settings)
        self.lake = Lake(self.folder / "lake")
        self.dataset = self.lake.dataset("pages", "s1")
        name = f"part-{self.n_parts:05d}"
        self.n_parts += 1
        stats = CrawlStats(name)
        with self.lake.scratch() as scratch, Segments(self.dataset, name, scratch, config) as segments:
            job = Job(
                config,
                scratch,
                segments,
                HostMemory(self.lake, "s1", name, time.time),
                stats,
                CrawlLog(None, "s1"),
                block_reason=lambda url: "blocked_domain" if "//blocked.example" in url else None,
                budget=budget or Budget(),
                known=known,
                resolver=resolver,
                rng=random.Random(0),
            )
            fetch_links(links, job)
            segments.finish()
        rows = self.dataset.read(f"{name}.parquet").to_pylist()
        return Fetched(rows, self.dataset.read(f"handoff/{name}.parquet").to_pylist(), stats)

    def one(self, url: str | Link = URL, **settings: Any) -> dict[str, Any]:
        fetched = self(url, **settings)
        assert len(fetched.rows) == 1
        return fetched.rows[0]

    def body(self, row: dict[str, Any]) -> bytes:
        with self.lake.open("pages", "s1", row["warc_file"]) as file:
            return read_payload(file, row["warc_offset"])[1]


@pytest.fixture
def crawl(web: Web, tmp_path: Path) -> Crawler:
    return Crawler(web, tmp_path)


@dataclass(frozen=True)
class Case:
    """Pages by URL, the settings, and what must become of ``URL``."""

    name: str
    pages: dict[str, Handler]
    status: str
    http_status: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None


def _link(handoff: dict[str, Any]) -> Link:
    return Link(handoff["canonical_url"], handoff["target_url"], handoff["karma"], tuple(handoff["seen"]))


def _page(handler: Handler) -> dict[str, Handler]:
    return {URL: handler}


def _robots(handler: Handler) -> dict[str, Handler]:
    return {URL: reply(), "www.site.example/robots.txt": handler}


def _rules(text: str) -> Handler:
    return reply(text.encode(), content_type="text/plain")


def _chain(n: int) -> dict[str, Handler]:
    """``URL`` and n redirects to a page."""
    hops = [URL, *(f"http://www.site.example/hop{i}" for i in range(1, n)), "http://www.site.example/end"]
    return {a: redirect(b) for a, b in itertools.pairwise(hops)} | {hops[-1]: reply()}


def _drip(head: bytes, piece: bytes, pause_s: float) -> Handler:
    """The head, and the piece again and again until the client goes away."""

    async def handler(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


SHORT = {"total_timeout_s": 1.5, "read_timeout_s": 0.8}
SMALL = {"max_wire_bytes": 50_000, "max_decoded_bytes": 100_000}
BOMB = b"\0" * 3_000_000
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_100 = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 100\r\n\r\n<p>cut"

CASES = [
    Case("page", _page(reply()), "ok", 200),
    Case("page_xhtml", _page(reply(content_type="Application/XHTML+xml")), "ok", 200),
    Case("page_gzip", _page(reply(gzip.compress(PAGE), content_encoding="gzip")), "ok", 200),
    Case("page_gzip_members", _page(reply(gzip.compress(PAGE[:9]) + gzip.compress(PAGE[9:]), content_encoding="gzip"))
         , "ok", 200),
    Case("page_deflate", _page(reply(zlib.compress(PAGE), content_encoding="deflate")), "ok", 200),
    Case("page_deflate_raw", _page(reply(zlib.compress(PAGE)[2:-4], content_encoding="deflate")), "ok", 200),
    Case("page_brotli", _page(reply(brotli.compress(PAGE), content_encoding="BR")), "ok", 200),
    Case("page_chunked", _page(raw(CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PAGE), PAGE))), "ok", 200),
    Case("page_http10_until_close", _page(raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + PAGE,
                                              then="close")), "ok", 200),
    Case("page_without_type", _page(reply(b"\xef\xbb\xbf \n" + PAGE, content_type="")), "ok", 200),
    Case("text_without_type", _page(reply(b"plain words", content_type="")), "not_html", 200),
    Case("not_html_pdf", _page(reply(b"%PDF-1.4", content_type="application/pdf")), "not_html", 200,
         reason="application/pdf"),
    Case("not_html_is_not_read", _page(raw(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n", then="hang")),
         "not_html", 200),
    Case("empty", _page(reply(b"")), "empty_body", 200),
    Case("empty_gzip", _page(reply(gzip.compress(b""), content_encoding="gzip")), "empty_body", 200),
    Case("no_content_204", _page(raw(b"HTTP/1.1 204 No Content\r\n\r\n")), "http_other", 204),
    Case("not_found", _page(reply(status="404 Not Found")), "not_found", 404),
    Case("gone", _page(reply(status="410 Gone")), "gone", 410),
    Case("forbidden_403", _page(reply(status="403 Forbidden")), "client_error", 403),
    Case("rate_limited", _page(reply(status="429 Too Many Requests")), "rate_limited", 429),
    Case("server_error", _page(reply(status="500 Oops")), "server_error", 500),
    Case("unavailable", _page(reply(status="503 Later")), "server_error", 503),
    Case("status_304", _page(raw(b"HTTP/1.1 304 Not Modified\r\n\r\n")), "http_other", 304),
    Case("bomb_gzip", _page(reply(gzip.compress(BOMB), content_encoding="gzip")), "decoded_too_large", 200, SMALL),
    Case("bomb_deflate", _page(reply(zlib.compress(BOMB), content_encoding="deflate")), "decoded_too_large", 200,
         SMALL),
    Case("bomb_brotli", _page(reply(brotli.compress(BOMB), content_encoding="br")), "decoded_too_large", 200, SMALL),
    Case("encoding_unknown", _page(reply(content_encoding="zstd")), "bad_encoding", 200),
    Case("encoding_twice", _page(reply(gzip.compress(gzip.compress(PAGE)), content_encoding="gzip, gzip")),
         "bad_encoding", 200),
    Case("encoding_broken", _page(reply(b"no gzip at all", content_encoding="gzip")), "bad_encoding", 200),
    Case("encoding_broken_brotli", _page(reply(b"\xff\xff\xff\xff", content_encoding="br")), "bad_encoding", 200),
    Case("encoding_cut", _page(reply(gzip.compress(PAGE * 50)[:-20], content_encoding="gzip")), "bad_encoding", 200),
    Case("encoding_cut_brotli", _page(reply(brotli.compress(PAGE * 50)[:-5], content_encoding="br")), "bad_encoding",
         200),
    Case("length_announced_too_large", _page(raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
                                                 b"Content-Length: 99000000\r\n\r\n", then="hang")), "too_large", 200),
    Case("endless_chunks", _page(_drip(CHUNKED, b"400\r\n" + b"x" * 1024 + b"\r\n", 0)), "too_large", 200, SMALL),
    Case("endless_body", _page(_drip(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b"x" * 4096, 0)),
         "too_large", 200, SMALL),
    Case("byte_by_byte", _page(_drip(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", b"x", 0.05)), "timeout",
         200, SHORT, "longer than total_timeout_s"),
    Case("silent_in_body", _page(raw(LENGTH_100, then="hang")), "timeout", 200, SHORT, "silent for read_timeout_s"),
    Case("headers_byte_by_byte", _page(_drip(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05)), "timeout", None, SHORT,
         "longer than total_timeout_s"),
    Case("endless_headers", _page(_drip(b"HTTP/1.1 200 OK\r\n", b"X: a\r\n" * 100, 0)), "protocol_error"),
    Case("endless_100_continue", _page(_drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02)), "timeout", None, SHORT),
    Case("silent", _page(raw(b"", then="hang")), "timeout", None, SHORT, reason="silent for read_timeout_s"),
    Case("length_cut_off", _page(raw(LENGTH_100, then="close")), "protocol_error"),
    Case("reset_in_body", _page(raw(LENGTH_100, then="reset")), "protocol_error"),
    Case("chunk_size_broken", _page(raw(CHUNKED + b"zz\r\nabc\r\n", then="close")), "protocol_error"),
    Case("chunk_cut_off", _page(raw(CHUNKED + b"ff\r\nabc", then="close")), "protocol_error"),
    Case("chunk_without_end", _page(raw(CHUNKED + b"3\r\nabc\r\n", then="close")), "protocol_error"),
    Case("reset_at_once", _page(raw(b"", then="reset")), "protocol_error"),
    Case("closed_at_once", _page(raw(b"", then="close")), "protocol_error"),
    Case("not_http", _page(raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", then="close")), "protocol_error"),
    Case("header_of_100_kB", _page(raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")), "protocol_error"),
    Case("headers_of_20_kB", _page(raw(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 20_000 + b"\r\n") * 100
                                       + b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE)),
         "ok", 200),
    Case("header_10000_times", _page(raw(b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 10_000 + b"\r\n")), "protocol_error"),
    Case("header_nul", _page(raw(b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n")), "protocol_error"),
    Case("length_is_no_number", _page(reply(content_length="many")), "protocol_error"),
    Case("redirect_inside_host", _chain(3), "ok", 200),
    Case("redirect_inside_domain", _page(redirect("http://old.site.example/x")) | {"old.site.example/x": reply()},
         "ok", 200),
    Case("redirect_relative", _page(redirect("../other?q=1")) | {"www.site.example/other?q=1": reply()}, "ok", 200),
    Case("redirect_308", _page(redirect("/other", "308 Permanent")) | {"www.site.example/other": reply()}, "ok", 200),
    Case("redirect_endless_body", _page(raw(b"HTTP/1.1 301 Moved\r\nLocation: /other\r\n\r\nabc", then="hang"))
         | {"www.site.example/other": reply()}, "ok", 200),
    Case("redirect_at_limit", _chain(3), "ok", 200, {"max_redirects": 3}),
    Case("redirect_limit", _chain(4), "redirect_limit", 302, {"max_redirects": 3}),
    Case("redirect_to_itself", _page(redirect(URL)), "redirect_loop", 302),
    Case("redirect_loop", _page(redirect("/b")) | {"www.site.example/b": redirect("/page#again")}, "redirect_loop",
         302),
    Case("redirect_without_location", _page(reply(b"", "302 Found")), "redirect_bad", 302, reason="no Location"),
    Case("redirect_to_ftp", _page(redirect("ftp://www.site.example/x")), "redirect_bad", 302),
    Case("redirect_to_file", _page(redirect("file:///etc/passwd")), "redirect_bad", 302),
    Case("redirect_to_javascript", _page(redirect("javascript:alert(1)")), "redirect_bad", 302),
    Case("redirect_with_credentials", _page(redirect("http://u:p@www.site.example/x")), "redirect_bad", 302),
    Case("redirect_not_a_url", _page(redirect("http://[::1/")), "redirect_bad", 302),
    Case("redirect_bad_port", _page(redirect("http://www.site.example:99999/")), "redirect_bad", 302),
    Case("redirect_not_utf8", _page(redirect("/\udcff")), "redirect_bad", 302),
    Case("redirect_blocked_domain", _page(redirect("http://blocked.example/")), "redirect_bad", 302,
         reason="blocked_domain"),
    Case("redirect_target_404", _page(redirect("/gone")), "not_found", 404),
    Case("redirect_target_disallowed", _page(redirect("/private/x"))
         | {"www.site.example/robots.txt": _rules("User-agent: *\nDisallow: /private")}, "robots_disallowed"),
    Case("redirect_to_disallowing_host", _page(redirect("http://no.site.example/x"))
         | {"no.site.example/robots.txt": _rules("User-agent: *\nDisallow: /")}, "robots_disallowed"),
    Case("robots_allows", _robots(_rules("User-agent: *\nDisallow: /private")), "ok", 200),
    Case("robots_disallows", _robots(_rules("User-agent: *\nDisallow: /pa")), "robots_disallowed"),
    Case("robots_for_us", _robots(_rules("User-agent: *\nDisallow:\n\nUser-agent: webtextbot\nDisallow: /")),
         "robots_disallowed"),
    Case("robots_for_others", _robots(_rules("User-agent: OtherBot\nDisallow: /")), "ok", 200),
    Case("robots_longest_match", _robots(_rules("User-agent: *\nDisallow: /\nAllow: /page")), "ok", 200),
    Case("robots_wildcard", _robots(_rules("User-agent: *\nDisallow: /*age$")), "robots_disallowed"),
    Case("robots_with_bom", _robots(_rules("\ufeffUser-agent: *\nDisallow: /")), "robots_disallowed"),
    Case("robots_gzip", _robots(reply(gzip.compress(b"User-agent: *\nDisallow: /"), content_encoding="gzip")),
         "robots_disallowed"),
    Case("robots_is_html", _robots(reply()), "ok", 200),
    Case("robots_binary", _robots(reply(bytes(range(256)) * 20)), "ok", 200),
    Case("robots_401", _robots(reply(status="401 No")), "ok", 200),
    Case("robots_404", _robots(reply(status="404 No")), "ok", 200),
    Case("robots_429", _robots(reply(status="429 Slow")), "robots_unreachable", reason="robots.txt: 429"),
    Case("robots_500", _robots(reply(status="500 Oops")), "robots_unreachable", reason="robots.txt: 500"),
    Case("robots_timeout", _robots(raw(b"", then="hang")), "robots_unreachable", None, SHORT,
         reason="robots.txt: timeout"),
    Case("robots_reset", _robots(raw(b"", then="reset")), "robots_unreachable", reason="robots.txt: protocol_error"),
    Case("robots_cut_off", _robots(raw(LENGTH_100, then="close")), "robots_unreachable"),
    Case("robots_rule_in_first_bytes", _robots(_rules("User-agent: *\nDisallow: /\n" + "#" * 600_000)),
         "robots_disallowed"),
    Case("robots_rule_after_limit", _robots(_rules("User-agent: *\n" + "#" * 600_000 + "\nDisallow: /")), "ok", 200),
    Case("robots_bomb", _robots(reply(gzip.compress(b"User-agent: *\nDisallow: /\n" + BOMB), content_encoding="gzip")),
         "robots_disallowed"),
    Case("robots_redirect", _robots(redirect("http://other.example/r.txt"))
         | {"other.example/r.txt": _rules("User-agent: *\nDisallow: /")}, "robots_disallowed"),
    Case("robots_redirect_loop", _robots(redirect("/robots.txt")), "ok", 200),
    Case("robots_redirect_to_private", _robots(redirect("http://127.0.0.1/robots.txt")), "robots_unreachable",
         reason="robots.txt: forbidden_address"),
    Case("robots_crawl_delay_ok", _robots(_rules("User-agent: *\nCrawl-delay: 0.01")), "ok", 200),
    Case("robots_crawl_delay_too_long", _robots(_rules("User-agent: *\nCrawl-delay: 86400")), "crawl_delay_too_long"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outcome(case: Case, web: Web, crawl: Crawler) -> None:
    for url, handler in case.pages.items():
        web[url] = handler
    row = crawl.one(**case.settings)
    assert (row["status"], row.get("http_status")) == (case.status, case.http_status), row["reason"]
    if case.reason is not None:
        assert row["reason"] == case.reason
    if case.status == "ok":
        assert crawl.body(row).endswith(PAGE)
        assert row["final_url"].removeprefix("http://") in {url.removeprefix("http://") for url in case.pages}
    if case.status.startswith("robots"):
        assert "/page" not in web.asked("www.site.example") or "redirect" in case.name


class FixedResolver(AbstractResolver):
    """Answers every name with the same addresses, as a hostile name server may."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


class FailingResolver(FixedResolver):
    """Raises the error, or never answers."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        if self.error is None:
            await asyncio.sleep(60)
        raise self.error or AssertionError


@pytest.mark.parametrize(
    ("url", "settings", "status", "reason"),
    [
        ("http://localhost/", {}, "forbidden_address", "the address is not public"),
        ("http://127.0.0.1/", {}, "forbidden_address", "the address is not public"),
        ("http://169.254.169.254/latest", {}, "forbidden_address", "the address is not public"),
        ("http://[::1]/", {}, "forbidden_address", "the address is not public"),
        ("http://[::ffff:10.0.0.1]/", {}, "forbidden_address", "the address is not public"),
        ("http://127.0.0.1:8080/", {}, "forbidden_address", "the port is not 80 or 443"),
        ("http://no-such-host.invalid/", {}, "dns_failure", "the host name does not resolve"),
        ("http://odd.test/", {"resolver": FailingResolver(UnicodeError("label too long"))}, "dns_failure", None),
        ("http://slow.test/", {"resolver": FailingResolver(None), "connect_timeout_s": 0.1}, "dns_failure", None),
        ("http://rebind.test/", {"resolver": FixedResolver("127.0.0.1")}, "forbidden_address", None),
        ("http://rebind.test/", {"resolver": FixedResolver("10.0.0.1", "::1", "fe80::1")}, "forbidden_address", None),
        ("http://nothing.test/", {"resolver": FixedResolver()}, "dns_failure", None),
        ("http://127.0.0.1:1/", {"allow_net": ("127.0.0.0/8",)}, "connect_failure", "ECONNREFUSED"),
        ("http://name.test/", {"connect_to": ("*.test=127.0.0.1:1",)}, "connect_failure", "ECONNREFUSED"),
    ],
)
def test_host_that_is_not_reached(crawl: Crawler, url: str, settings: dict, status: str, reason: str | None) -> None:
    row = crawl.one(url, **settings)
    assert row["status"] == status
    assert reason is None or row["reason"] == reason
    assert row["domain"]


def test_redirect_to_private_address(web: Web, crawl: Crawler) -> None:
    """Another domain, so it is handed off; there the guard refuses it."""
    web[URL] = redirect("http://127.1/admin")
    (handoff,) = crawl(URL).handoffs
    assert handoff == {"canonical_url": URL, "target_url": "http://127.0.0.1/admin", "karma": 3, "seen": [URL]}
    assert crawl.one(_link(handoff))["status"] == "forbidden_address"


def test_allow_net_opens_every_port(web: Web, crawl: Crawler) -> None:
    host = f"127.0.0.1:{web.port}"
    web[f"{host}/page"] = reply()
    url = f"http://{host}/page"
    assert crawl.one(url, connect_to=())["status"] == "forbidden_address"
    assert crawl.one(url, connect_to=(), allow_net=("127.0.0.0/8",))["status"] == "ok"


def test_host_is_given_up_together(crawl: Crawler) -> None:
    """One look-up, whose failure holds for all links of the host; nothing is waited for."""
    urls = [f"http://no-such-host.test/{n}" for n in range(500)]
    fetched = crawl(*urls, resolver=FailingResolver(socket.gaierror(socket.EAI_AGAIN, "no name server")))
    assert {row["status"] for row in fetched.rows} == {"dns_failure"}
    assert fetched.stats.requests == 1


def test_tls(web: Web, crawl: Crawler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, authority = issue_certificate(tmp_path, "www.secure.example")
    with serving(Web(), context) as secure:
        secure["www.secure.example/"] = secure["other.secure.example/"] = reply()
        to = (f"*.secure.example=127.0.0.1:{secure.tls_port}", f"plain.example=127.0.0.1:{secure.port}")
        row = crawl.one("https://www.secure.example/", connect_to=to)
        assert (row["status"], row["reason"][:12]) == ("tls_failure", "certificate:")  # nobody we trust signed it
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert crawl.one("https://www.secure.example/", connect_to=to)["status"] == "ok"
        assert crawl.one("https://other.secure.example/", connect_to=to)["status"] == "tls_failure"  # another name
        row = crawl.one("https://plain.example/", connect_to=to, connect_timeout_s=0.3)
        assert (row["status"], row["reason"]) == ("connect_failure", "no connection within connect_timeout_s")


def test_handoff_carries_the_way(web: Web, crawl: Crawler) -> None:
    web[URL] = redirect("/two")
    web["www.site.example/two"] = redirect("http://short.example/x#part")
    fetched = crawl(URL)
    assert fetched.rows == []
    (handoff,) = fetched.handoffs
    assert (handoff["target_url"], handoff["seen"]) == ("http://short.example/x", [URL, "http://www.site.example/two"])
    web["short.example/x"] = redirect(URL)
    assert crawl.one(_link(handoff))["status"] == "redirect_loop"  # back to what it has seen in another part
    web["short.example/x"] = redirect("/y")
    assert crawl.one(_link(handoff), max_redirects=2)["status"] == "redirect_limit"


def test_loop_is_of_urls_not_of_canonical_urls(web: Web, crawl: Crawler) -> None:
    """A site that sends a reader to itself with a parameter is not a loop."""
    web[URL] = redirect("/page?utm_source=self")
    web["www.site.example/page?utm_source=self"] = reply()
    assert crawl.one()["final_url"] == URL + "?utm_source=self"


def test_request_says_who_we_are_and_keeps_no_state(web: Web, crawl: Crawler) -> None:
    for path in ("a", "b"):
        web[f"www.site.example/{path}"] = reply(set_cookie="id=1; Path=/")
    crawl("http://www.site.example/a", "http://www.site.example/b", contact="https://us.example/bot")
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/a", "/b"]
    for request in web.log:
        assert request.headers["user-agent"].startswith("WebTextBot/")
        assert request.headers["user-agent"].endswith(" (+https://us.example/bot)")
        assert request.headers["host"] == "www.site.example"  # the name, not where it was connected to
        assert not request.headers.keys() & {"cookie", "authorization", "referer"}


def test_proxy_variables_are_ignored(web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch) -> None:
    web[URL] = reply()
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert crawl.one()["status"] == "ok"


def _gaps_s(requests: list[Request]) -> list[float]:
    return [later.started - earlier.ended for earlier, later in itertools.pairwise(requests)]


def test_delay_and_one_connection_under_concurrency(web: Web, crawl: Crawler) -> None:
    """Six hosts of one domain that all redirect to a seventh, and a host of another domain."""
    hosts = [f"h{n}.site.example" for n in range(6)]
    for host in hosts:
        for n in range(3):
            web[f"{host}/{n}"] = redirect(f"http://www.site.example/{host}/{n}")
            web[f"www.site.example/{host}/{n}"] = reply()
            web[f"a.other.example/{n}"] = reply()
    urls = [f"http://{host}/{n}" for host in (*hosts, "a.other.example") for n in range(3)]
    started = time.monotonic()
    fetched = crawl(*urls, host_delay_s=0.05)
    assert [row["status"] for row in fetched.rows] == ["ok"] * 21
    assert web.log[0].started - started >= 0.05  # a part begins with a delay
    for host in (*hosts, "www.site.example", "a.other.example"):
        requests = [request for request in web.log if request.host == host]
        assert min(_gaps_s(requests)) >= 0.05, host
        assert web.most_by_host[host] == 1
    assert len(web.asked("www.site.example")) == 20  # its robots.txt and tdmrep.json once


def test_hosts_at_once(web: Web, crawl: Crawler) -> None:
    """Of one domain two hosts are worked on at once, of all domains three."""
    active = most = 0
    active_sites: dict[str, int] = {}
    most_sites = 0

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal active, most, most_sites
        site = request.host.split(".", 1)[1]
        active, active_sites[site] = active + 1, active_sites.get(site, 0) + 1
        most, most_sites = max(most, active), max(most_sites, active_sites[site])
        await asyncio.sleep(0.1)
        active, active_sites[site] = active - 1, active_sites[site] - 1
        await reply()(request, writer)

    urls = [f"http://h{n}.site{site}.example/x" for site in range(3) for n in range(4)]
    for url in urls:
        web[url] = slow
    fetched = crawl(*urls, max_connections=3, max_hosts_per_domain=2)
    assert {row["status"] for row in fetched.rows} == {"ok"}
    assert most == 3
    assert most_sites == 2


def test_crawl_delay_is_kept(web: Web, crawl: Crawler) -> None:
    web["www.site.example/robots.txt"] = _rules("User-agent: *\nCrawl-delay: 0.1")
    for n in range(3):
        web[f"www.site.example/{n}"] = reply()
    crawl(*(f"http://www.site.example/{n}" for n in range(3)))
    assert min(_gaps_s(web.log)) >= 0.1
    assert len(web.log) == 5


def test_lost_connection_is_asked_for_once_more_after_the_delay(web: Web, crawl: Crawler) -> None:
    answers = iter([raw(b"", then="close"), reply()])

    async def flaky(request: Request, writer: asyncio.StreamWriter) -> None:
        await next(answers)(request, writer)

    web[URL] = flaky
    assert crawl.one(host_delay_s=0.1)["status"] == "ok"
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/page", "/page"]
    assert web.log[3].started - web.log[2].started >= 0.1
    web.log.clear()
    web[URL] = raw(b"", then="close")
    assert crawl.one(max_attempts=2)["status"] == "protocol_error"
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/page", "/page"]  # no third time


def test_deadline_and_bytes_defer_the_rest(web: Web, crawl: Crawler) -> None:
    urls = [f"http://www.site.example/{n}" for n in range(5)]
    for url in urls:
        web[url] = reply()
    fetched = crawl(*urls, budget=Budget(deadline_s=0.0))
    assert [row["status"] for row in fetched.rows] == ["deferred"] * 5
    assert web.log == []
    fetched = crawl(*urls, budget=Budget(wire_bytes=2 * len(PAGE)))
    assert [row["status"] for row in fetched.rows] == ["ok", "ok", "deferred", "deferred", "deferred"]
    assert fetched.stats.wire_bytes == 2 * len(PAGE)


def test_bodies_beyond_memory_are_whole(web: Web, crawl: Crawler) -> None:
    """Bodies larger than what is held in memory, at the same time, of hosts that interleave."""
    bodies = {f"http://h{n}.site{n}.example/x": b"<p>" + bytes([65 + n]) * 700_000 for n in range(5)}
    for url, body in bodies.items():
        web[url] = reply(gzip.compress(body), content_encoding="gzip")
    fetched = crawl(*bodies)
    assert {row["canonical_url"]: crawl.body(row) for row in fetched.rows} == bodies


def test_same_rows_twice(web: Web, crawl: Crawler) -> None:
    """Rows are in the order of the links and equal up to what is volatile, whatever order the answers came in."""
    volatile = {"fetched_at", "warc_file", "warc_offset"}
    for n in range(20):
        web[f"h{n % 7}.site.example/{n}"] = reply(b"<p>%d" % n) if n % 3 else redirect("http://else.example/")
    urls = [f"http://h{n % 7}.site.example/{n}" for n in range(22)]
    runs = [crawl(*urls), crawl(*reversed(urls))]
    rows = [[{k: v for k, v in row.items() if k not in volatile} for row in run.rows] for run in runs]
    assert rows[0] == rows[1]
    assert runs[0].handoffs == runs[1].handoffs
    assert [row["canonical_url"] for row in rows[0]] == sorted(row["canonical_url"] for row in rows[0])
    assert len(rows[0]) + len(runs[0].handoffs) == 22


def test_defect_is_not_an_outcome(web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the part with its own error; it is not blamed on the page."""
    web[URL] = reply()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Segments, "page", full)
    with pytest.raises(OSError, match="No space left"):
        crawl.one()


def test_memory_of_bombs_is_bounded(web: Web, crawl: Crawler) -> None:
    """Twenty bombs at once, each decoded up to 5 MB, are held on disk."""
    bomb = gzip.compress(bytes(20_000_000))
    urls = [f"http://h{n}.site{n}.example/x" for n in range(20)]
    for url in urls:
        web[url] = reply(bomb, content_encoding="gzip")
    tracemalloc.start()
    try:
        fetched = crawl(*urls, max_decoded_bytes=5_000_000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {row["status"] for row in fetched.rows} == {"decoded_too_large"}
    assert peak_bytes < 30_000_000


def test_nothing_to_fetch(crawl: Crawler) -> None:
    fetched = crawl()
    assert (fetched.rows, fetched.handoffs) == ([], [])
