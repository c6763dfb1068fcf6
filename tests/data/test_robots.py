"""robots.txt by RFC 9309, on what a server may answer."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from data.client import Answer, FetchError
from data.config import PagesConfig
from data.robots import MAX_REDIRECTS, Robots, fetch_robots, parse_robots
from data.schema import PageStatus

CONFIG = PagesConfig()
ORIGIN = "http://a.example"
DENY = b"User-agent: *\nDisallow: /"


def _answer(url: str, code: int, body: bytes | None = None, location: str | None = None) -> Answer:
    headers = CIMultiDictProxy(CIMultiDict({"Location": location} if location is not None else {}))
    spool = None if body is None else io.BytesIO(body)
    return Answer(url, code, b"", headers, [], (b"", []), spool, len(body or b""))


class Web:
    """Answers by URL: what is listed, else 404; notes what it was asked."""

    def __init__(self, answers: Mapping[str, Answer | FetchError]) -> None:
        self.answers, self.asked = answers, list[str]()

    async def get(self, url: str) -> Answer:
        self.asked.append(url)
        found = self.answers.get(url, _answer(url, 404))
        if isinstance(found, FetchError):
            raise found
        return found


async def _robots(answers: Mapping[str, Answer | FetchError]) -> Robots:
    return await fetch_robots(ORIGIN, Web(answers).get, CONFIG)


def _verdict(robots: Robots, path: str = "/page") -> str:
    refusal = robots.refusal(ORIGIN + path)
    return "ok" if refusal is None else str(refusal[0])


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (200, "robots_disallowed"),
        (206, "robots_disallowed"),
        (300, "ok"),
        (304, "ok"),
        (400, "ok"),
        (401, "ok"),
        (403, "ok"),
        (404, "ok"),
        (410, "ok"),
        (429, "robots_unreachable"),
        (500, "robots_unreachable"),
        (503, "robots_unreachable"),
        (599, "robots_unreachable"),
    ],
)
async def test_status(code: int, verdict: str) -> None:
    body = DENY if 200 <= code < 300 else None
    assert _verdict(await _robots({f"{ORIGIN}/robots.txt": _answer(ORIGIN, code, body)})) == verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (PageStatus.DNS_FAILURE, "dns_failure"),
        (PageStatus.CONNECT_FAILURE, "connect_failure"),
        (PageStatus.TLS_FAILURE, "tls_failure"),
        (PageStatus.FORBIDDEN_ADDRESS, "forbidden_address"),
        (PageStatus.TIMEOUT, "robots_unreachable"),
        (PageStatus.PROTOCOL_ERROR, "robots_unreachable"),
        (PageStatus.BAD_ENCODING, "robots_unreachable"),
    ],
)
async def test_no_answer(status: PageStatus, verdict: str) -> None:
    """The host's own failure is said as it is; behind a redirect it is a robots.txt that cannot be had."""
    first, other = f"{ORIGIN}/robots.txt", "http://b.example/r"
    assert _verdict(await _robots({first: FetchError(status, "why")})) == verdict
    answers = {first: _answer(first, 301, location=other), other: FetchError(status, "why")}
    robots = await _robots(answers)
    assert robots.failure == (PageStatus.ROBOTS_UNREACHABLE, f"robots.txt: {status}")


@pytest.mark.parametrize(("hops", "verdict"), [(1, "robots_disallowed"), (5, "robots_disallowed"), (6, "ok")])
async def test_redirects(hops: int, verdict: str) -> None:
    urls = [f"{ORIGIN}/robots.txt", *(f"http://h{n}.example/r{n}" for n in range(hops))]
    answers = {a: _answer(a, 302, location=b) for a, b in itertools.pairwise(urls)}
    web = Web(answers | {urls[-1]: _answer(urls[-1], 200, DENY)})
    assert _verdict(await fetch_robots(ORIGIN, web.get, CONFIG)) == verdict
    assert web.asked == urls[: MAX_REDIRECTS + 1]


@pytest.mark.parametrize("location", [None, "", "ftp://a.example/robots.txt", "http://u:p@a.example/"])
async def test_redirect_to_nowhere(location: str | None) -> None:
    """An empty Location is the URL itself: a loop, which ends as more than five redirects."""
    first = f"{ORIGIN}/robots.txt"
    assert _verdict(await _robots({first: _answer(first, 302, location=location)})) == "ok"


@pytest.mark.parametrize(
    ("text", "path", "verdict"),
    [
        ("", "/page", "ok"),
        ("User-agent: *\nDisallow:", "/page", "ok"),
        ("User-agent: *\nDisallow: /page", "/page", "robots_disallowed"),
        ("User-agent: *\nDisallow: /page", "/Page", "ok"),
        ("User-agent: *\nDisallow: /page", "/pager?x=1", "robots_disallowed"),
        ("user-AGENT:*\r\ndisallow:/page # no\r\n", "/page", "robots_disallowed"),
        ("User-agent: *\nDisallow: /p\nAllow: /pa", "/page", "ok"),
        ("User-agent: *\nAllow: /p\nDisallow: /pa", "/page", "robots_disallowed"),
        ("User-agent: *\nDisallow: /a*c$", "/abc", "robots_disallowed"),
        ("User-agent: *\nDisallow: /a*c$", "/abcd", "ok"),
        ("User-agent: *\nDisallow: /a%20b", "/a%20b", "robots_disallowed"),
        ("User-agent: *\nDisallow: /*?", "/page?x", "robots_disallowed"),
        ("User-agent: a\nUser-agent: WebTextBot\nDisallow: /", "/page", "robots_disallowed"),
        ("User-agent: WebTextBot\nAllow: /\n\nUser-agent: *\nDisallow: /", "/page", "ok"),
        ("User-agent: WebTextBot\nDisallow: /a\n\nUser-agent: webtextbot\nDisallow: /page", "/page",
         "robots_disallowed"),
        ("User-agent: TextBot\nDisallow: /", "/page", "ok"),
        ("Disallow: /", "/page", "ok"),
        ("\ufeffUser-agent: *\nDisallow: /", "/page", "robots_disallowed"),
        ("<html><body>Not here</body></html>", "/page", "ok"),
        ("User-agent: *\nDisallow: /" + "*a" * 5000 + "b", "/" + "a" * 5000, "ok"),
    ],
)  # fmt: skip
def test_rules(text: str, path: str, verdict: str) -> None:
    assert _verdict(parse_robots(text.encode(), CONFIG), path) == verdict


@pytest.mark.parametrize(
    ("delay", "seconds", "verdict"),
    [
        ("0", 0.0, "ok"),
        ("2.5", 2.5, "ok"),
        ("30", 30.0, "ok"),
        ("30.1", 0.0, "crawl_delay_too_long"),
        ("86400", 0.0, "crawl_delay_too_long"),
        ("-1", 0.0, "ok"),
        ("inf", 0.0, "ok"),
        ("soon", 0.0, "ok"),
    ],
)
def test_crawl_delay(delay: str, seconds: float, verdict: str) -> None:
    robots = parse_robots(f"User-agent: *\nCrawl-delay: {delay}\nDisallow: /private".encode(), CONFIG)
    assert robots.crawl_delay_s == seconds
    assert _verdict(robots) == verdict
    assert _verdict(robots, "/private") == "robots_disallowed"
