"""robots.txt by RFC 9309: fetched once for each origin (scheme, host, port), asked for each path.

    2xx                 its rules, of the first max_robots_bytes
    4xx but 429         no rules, all is allowed (section 2.3.1.3)
    more than five redirects, one that leads nowhere, other 3xx: as 4xx (section 2.3.1.2)
    429, 5xx, time-out, broken answer: nothing is allowed (section 2.3.1.4)

Where the host itself cannot be reached (no such name, no connection, TLS, forbidden address), its links get that status
instead: it is what a person wants to know. Redirects are followed to other hosts, as section 2.3.1.2 asks; that is the
only request that may leave the registrable domain. Crawl-delay is not in the RFC; it is honoured up to a cap.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego

from data.client import REDIRECTS, Answer, FetchError, resolve_redirect
from data.config import PagesConfig
from data.schema import PageStatus

MAX_REDIRECTS = 5

_HOST_FAILURES = frozenset(
    {PageStatus.DNS_FAILURE, PageStatus.CONNECT_FAILURE, PageStatus.TLS_FAILURE, PageStatus.FORBIDDEN_ADDRESS}
)

Get = Callable[[str], Awaitable[Answer]]
"""Asks for a robots.txt URL: politely, its body cut at max_robots_bytes. Raises FetchError."""

Refusal = tuple[PageStatus, str]


@dataclass(frozen=True)
class Robots:
    """What an origin says to us. ``failure`` holds for all its URLs, ``rules`` is None where all is allowed."""

    user_agent: str
    failure: Refusal | None = None
    rules: Protego | None = None
    crawl_delay_s: float = 0.0

    def refusal(self, url: str) -> Refusal | None:
        """Why a URL of this origin may not be fetched; None if it may."""
        if self.rules is not None and not self.rules.can_fetch(url, self.user_agent):
            return PageStatus.ROBOTS_DISALLOWED, "robots.txt"
        return self.failure


def parse_robots(body: bytes, config: PagesConfig) -> Robots:
    """The rules in the bytes of a robots.txt; what is no rule is passed over, in any encoding."""
    rules = Protego.parse(body.decode("utf-8-sig", errors="replace"))
    delay_s = rules.crawl_delay(config.user_agent) or 0.0
    failure = None
    if delay_s > config.max_crawl_delay_s:
        failure = PageStatus.CRAWL_DELAY_TOO_LONG, f"crawl-delay {delay_s:g}"
    return Robots(config.user_agent, failure, rules, 0.0 if failure else delay_s)


async def fetch_robots(origin: str, get: Get, config: PagesConfig) -> Robots:
    """Fetch and read an origin's robots.txt; every failure is in the result."""
    url: str | None = f"{origin}/robots.txt"
    for hop in range(MAX_REDIRECTS + 1):
        assert url is not None
        try:
            answer = await get(url)
        except FetchError as error:
            return Robots(config.user_agent, failure=_failure(error, is_first=hop == 0))
        with answer:
            code = answer.http_status
            if 200 <= code < 300 and answer.body is not None:
                return parse_robots(answer.body.read(), config)
            if code == 429 or code >= 500:
                return Robots(config.user_agent, failure=(PageStatus.ROBOTS_UNREACHABLE, f"robots.txt: {code}"))
            url = resolve_redirect(url, answer.headers.get("Location", "")) if code in REDIRECTS else None
        if url is None:
            break
    return Robots(config.user_agent)


def _failure(error: FetchError, *, is_first: bool) -> Refusal:
    if is_first and error.status in _HOST_FAILURES:
        return error.status, error.reason
    return PageStatus.ROBOTS_UNREACHABLE, f"robots.txt: {error.status}"
