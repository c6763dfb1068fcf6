"""robots.txt by RFC 9309: fetched once per origin (scheme, host, port) and checked for every path.

    2xx                 the rules in its first max_robots_bytes
    4xx but 429         no rules, all is allowed (section 2.3.1.3)
    more than five redirects, other 3xx: as 4xx (section 2.3.1.2)
    429, 5xx, time-out, broken answer, a redirect that leads nowhere: nothing is allowed (section 2.3.1.4), for
                        robots_failure_lifetime_s

If the host itself is unreachable (no such name, no connection, TLS, forbidden address), its links get that status
instead, because it is more useful. Redirects are followed to other hosts, as section 2.3.1.2 asks; no other request may
leave the registrable domain. Crawl-delay is not in the RFC; we honour it up to a cap. Of several values the largest
counts, and sites write ``10s``, ``10 seconds`` and ``2,5`` too.

A file should be UTF-8. We read UTF-16 as well, and skip a byte order mark of which a part is missing, as Google does.

This module chooses the group, and Protego matches the rules. Protego alone would take ``User-agent: WebText`` for
WebTextBot. A group is ours if its name, without a version, equals our product token in any case (section 2.2.1).
Without such a group the one for ``*`` counts. Only the rules of the chosen group are kept, so robots.txt files that
list hundreds of robots cost little.

``Content-Signal: ai-train=no`` and ``Content-Usage: train-ai=n`` refuse training but allow crawling, for the whole site
or for a path. They are rules of a group: rules in our own group come first, then rules for ``*``, then rules before any
group. Sources: contentsignals.org, draft-ietf-aipref-attach, draft-ietf-aipref-vocab.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from protego import Protego

from data.config import PagesConfig
from data.http.client import REDIRECTS, percent_encode_raw, resolve_redirect
from data.http.decode import begins_as_compressed
from data.http.exchange import Answer, FetchError
from data.pages.optout import Refusal, allows_training
from data.schema import PageStatus

MAX_REDIRECTS = 5
# Memory of parsed rules, measured: for each byte of their text, for each rule with a wildcard (a compiled pattern), and
# for each origin, even one without rules.
_BYTES_PER_BYTE, _WILDCARD_BYTES, ENTRY_BYTES = 10, 1_500, 1_000

_HOST_FAILURES = frozenset(
    {PageStatus.DNS_FAILURE, PageStatus.CONNECT_FAILURE, PageStatus.TLS_FAILURE, PageStatus.FORBIDDEN_ADDRESS}
)
_AGENT_LINE = re.compile(r"user[- ]?agent(?:\s*:|\s|$)\s*(.*)", re.IGNORECASE)  # the spellings Protego knows
_RULE_LINE = re.compile(r"(?:allow|di[as]+l+[ao]w)(?:\s*:|\s)", re.IGNORECASE)
_DELAY_LINE = re.compile(r"crawl[- _]?delay(?:\s*[:=]|\s)\s*(.*)", re.IGNORECASE)
_NUMBERS = re.compile(r"([.,]?[0-9][0-9.,;/\s-]*)(ms|m(?=in|\b)|h(?=our|\b)|)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,12}(?:[.,][0-9]{1,12})?|[.,][0-9]{1,12}")
_UNIT_S = {"ms": 0.001, "m": 60.0, "h": 3_600.0}
# Before the first word of a line: a byte order mark, whole, partial, or read as Latin-1 or as broken UTF-8.
_JUNK = "\ufeff\ufffd\u200b\xef\xbb\xbf\udcef\udcbb\udcbf \t\xa0\udca0"
_USAGE_LINE = re.compile(r"content-(?:signal|usage)\s*:\s*(?:([/*]\S*)\s+)?(.*)", re.IGNORECASE)
_TOKEN = re.compile(r"\*(?=\s|$)|[A-Za-z0-9_-]+")

Get = Callable[[str], Awaitable[Answer]]
"""Fetches a robots.txt URL politely, with its body cut off at max_robots_bytes. Raises FetchError."""


@dataclass(frozen=True)
class Robots:
    """The rules of an origin for us. ``failure`` applies to all its URLs; ``rules`` is None if all is allowed.

    ``is_failure``: robots.txt could not be fetched, so it must be requested again soon. ``retry_after`` is the header
    of a 429 or 503. ``size_bytes`` is about the memory that the rules take.
    """

    failure: Refusal | None = None
    rules: Protego | None = None
    crawl_delay_s: float = 0.0
    content_signal: Protego | None = None  # "disallows" the paths that are not to be trained on
    size_bytes: int = 0
    is_failure: bool = False
    retry_after: str | None = None
    http_status: int | None = None  # 429 or 5xx, of a failure
    is_lost: bool = False  # the failure: the connection ended before an answer began

    def refusal(self, url: str) -> Refusal | None:
        """Why we may not fetch a URL of this origin; None if we may."""
        if self.rules is not None and not self.rules.can_fetch(url, "*"):
            return PageStatus.ROBOTS_DISALLOWED, "robots.txt"
        if self.failure is not None:
            return self.failure
        if self.content_signal is not None and not self.content_signal.can_fetch(url, "*"):
            return PageStatus.OPT_OUT_CONTENT_SIGNAL, "robots.txt"
        return None


@dataclass(eq=False)
class _Group:
    """The lines for one robot. Usage rules are pairs of a path and whether training on it is allowed."""

    is_named: bool = False
    rules: list[str] = field(default_factory=list)
    delay_s: float = 0.0
    usage: list[tuple[str, bool]] = field(default_factory=list)


def parse_robots(body: bytes, config: PagesConfig) -> Robots:
    """The rules in a robots.txt of any encoding. Other lines are ignored."""
    text = _decoded(body)
    lines = text.splitlines()
    if len(body) >= config.max_robots_bytes and text[-1:] not in "\r\n":
        lines.pop()  # the body was cut off in this line, and half a path is another rule
    ours, all_robots, outside = _groups(lines, config.user_agent)
    chosen = ours if ours.is_named else all_robots
    rules = _protego(chosen.rules)
    delay_s = chosen.delay_s
    failure = None
    if delay_s > config.max_crawl_delay_s:
        failure = PageStatus.CRAWL_DELAY_TOO_LONG, f"crawl-delay {delay_s:g}"
    usage = ours.usage or all_robots.usage or outside.usage
    return Robots(
        failure,
        rules,
        crawl_delay_s=0.0 if failure else delay_s,
        content_signal=_usage_rules(usage),
        size_bytes=sum(map(_size_bytes, chosen.rules)) + sum(_size_bytes(path) for path, _ in usage),
    )


def _decoded(body: bytes) -> str:
    """UTF-8, in which other bytes are percent-encoded as a path needs them, or UTF-16."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", errors="ignore")
    if b"\0" in body[:2]:  # two bytes for each letter
        return body.decode("utf-16-le" if body[:1] != b"\0" else "utf-16-be", errors="ignore")
    return body.decode("utf-8", errors="surrogateescape")


def crawl_delay_s(value: str) -> float:
    """The seconds in a Crawl-delay such as ``10``, ``2,5`` or ``5-10 seconds``, of which the largest counts; or 0."""
    with contextlib.suppress(ValueError):
        seconds = float(value)
        if math.isfinite(seconds):
            return max(0.0, seconds)
    found = None if value.startswith("-") else _NUMBERS.search(value)
    if found is None:
        return 0.0
    numbers = [float(number.replace(",", ".")) for number in _NUMBER.findall(found[1])]
    return max(numbers) * _UNIT_S.get(found[2].lower(), 1.0)


def _size_bytes(rule: str) -> int:
    return _BYTES_PER_BYTE * len(rule) + (_WILDCARD_BYTES if "*" in rule or "$" in rule else 0)


def _groups(lines: Iterable[str], user_agent: str) -> tuple[_Group, _Group, _Group]:
    """The rules for our product token, those for ``*``, and the usage rules before any group.

    Consecutive user-agent lines share a group. Lines that are not rules do not end it (section 2.2.4).
    """
    ours, all_robots, outside = _Group(), _Group(), _Group()
    current = [outside]
    is_after_rule = True
    for raw in lines:
        line = percent_encode_raw(raw.partition("#")[0].lstrip(_JUNK).strip())
        agent = _AGENT_LINE.match(line)
        if agent:
            token = _TOKEN.match(agent[1])
            name = token[0].lower() if token else ""
            group = ours if name == user_agent.lower() else all_robots if name == "*" else None
            if is_after_rule:
                current = []
            if group is not None and group not in current:
                group.is_named = True
                current.append(group)
            is_after_rule = False
        elif _RULE_LINE.match(line):
            is_after_rule = True
            for group in current:
                group.rules.append(line)
        elif delay := _DELAY_LINE.match(line):
            is_after_rule = True
            for group in current:
                group.delay_s = max(group.delay_s, crawl_delay_s(delay[1]))
        elif usage := _USAGE_LINE.match(line):
            is_after_rule = True
            allowed = allows_training(usage[2])
            if allowed is not None:
                for group in current:
                    group.usage.append((usage[1] or "/", allowed))
    return ours, all_robots, outside


def _usage_rules(usage: list[tuple[str, bool]]) -> Protego | None:
    """Usage rules as rules of a robots.txt: the longest matching path decides, and a refusal wins a tie."""
    refused = {path for path, allowed in usage if not allowed}
    if not refused:
        return None
    allowed = {path for path, _ in usage} - refused
    return _protego([*(f"Disallow: {path}" for path in refused), *(f"Allow: {path}" for path in allowed)])


def _protego(rules: list[str]) -> Protego | None:
    return Protego.parse("\n".join(["User-agent: *", *rules])) if rules else None


async def fetch_robots(origin: str, get: Get, config: PagesConfig) -> Robots:
    """Fetch and read an origin's robots.txt. Failures are part of the result."""
    url: str | None = f"{origin}/robots.txt"
    for hop in range(MAX_REDIRECTS + 1):
        assert url is not None
        try:
            answer = await get(url)
        except FetchError as error:
            return Robots(_failure(error, is_first=hop == 0), is_failure=True, is_lost=error.lost)
        with answer:
            code = answer.http_status
            if 200 <= code < 300 and answer.body is not None:
                body = answer.body.read()
                if begins_as_compressed(body):
                    return Robots((PageStatus.ROBOTS_UNREACHABLE, "robots.txt: bad_encoding"), is_failure=True)
                return parse_robots(body, config)
            if code == 429 or code >= 500:
                failure = (PageStatus.ROBOTS_UNREACHABLE, f"robots.txt: {code}")
                retry_after = answer.headers.get("Retry-After") if code in (429, 503) and hop == 0 else None
                return Robots(failure, is_failure=True, retry_after=retry_after, http_status=code)
            if code not in REDIRECTS:
                break
            location = answer.headers.get("Location", "").strip()
            url = resolve_redirect(url, location) if location else None
        if url is None:
            return Robots((PageStatus.ROBOTS_UNREACHABLE, "robots.txt: redirect_bad"), is_failure=True)
    return Robots()


def _failure(error: FetchError, *, is_first: bool) -> Refusal:
    if is_first and error.status in _HOST_FAILURES:
        return error.status, error.reason
    return PageStatus.ROBOTS_UNREACHABLE, f"robots.txt: {error.status}"


class RobotsCache:
    """The robots.txt of the origins that a crawl task used last, each for its lifetime.

    The cache holds ``robots_cache_bytes``; an entry counts ENTRY_BYTES plus its rules. The least recently used entry
    goes first, and the newest always stays. ``clock`` returns seconds and is monotonic.
    """

    def __init__(self, config: PagesConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.clock = clock
        self.size_bytes = 0
        self._entries: OrderedDict[str, tuple[Robots, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, origin: str) -> Robots | None:
        """The rules of the origin; None if its robots.txt must be fetched (again)."""
        entry = self._entries.get(origin)
        if entry is None:
            return None
        robots, expires_at = entry
        if self.clock() >= expires_at:
            self.drop(origin)
            return None
        self._entries.move_to_end(origin)
        return robots

    def put(self, origin: str, robots: Robots) -> None:
        self.drop(origin)
        config = self.config
        lifetime_s = config.robots_failure_lifetime_s if robots.is_failure else config.robots_lifetime_s
        self._entries[origin] = robots, self.clock() + lifetime_s
        self.size_bytes += robots.size_bytes + ENTRY_BYTES
        while self.size_bytes > config.robots_cache_bytes and len(self._entries) > 1:
            self.drop(next(iter(self._entries)))

    def drop(self, origin: str) -> None:
        """Forget the rules of the origin, if they are known."""
        entry = self._entries.pop(origin, None)
        if entry is not None:
            self.size_bytes -= entry[0].size_bytes + ENTRY_BYTES
