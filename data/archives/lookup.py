"""Finds a dead page in web archives: the capture nearest to the time when its link was submitted.

``Archives.find`` asks every configured archive for captures of the page (data/archives/cdx.py). Over all archives, it
tries the three nearest captures until one is usable. It ends in one of three ways:

    Capture                      200 and HTML, with the headers of the page's own server, which may hold opt-outs
    None                         no archive has a capture
    raises ArchiveUnavailable    unknown: an archive did not answer, or its captures were not usable

An archive is treated like a host of the crawl: one request at a time, with ``host_delay_s`` before each. 429, 5xx and
lost connections are repeated after back-off or Retry-After. After ``breaker_failures`` failures in a row the look-up
leaves the archive alone for ``breaker_pause_s``. If the next request fails too, or if the archive demands a pause above
``max_retry_after_s``, the look-up gives the archive up. An ``Archives`` remembers all this for as long as it lives.

The robots.txt of the archives is not read: it tells crawlers which links to follow, and these interfaces are made for
programs. A site that the Wayback Machine hides at its owner's request counts as not archived. The caller honours the
opt-outs in the captured page.

Cost: two requests per page to the Wayback Machine and up to ``archive_crawls`` to Common Crawl's index. With a delay of
one second that is 900 to 1,800 links per hour. Memory: an answer, its record and its body.
Sources: see data/archives/cdx.py; RFC 9110, section 14 (Range).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

from multidict import CIMultiDictProxy

from data.archives.cdx import (
    COMMONCRAWL,
    WAYBACK,
    Candidate,
    CaptureError,
    CdxError,
    CrawlIndex,
    Headers,
    captured_at,
    commoncrawl_query,
    is_empty_commoncrawl,
    nearest_crawls,
    parse_commoncrawl,
    parse_crawls,
    parse_wayback,
    unpack_record,
    wayback_headers,
    wayback_query,
)
from data.archives.host import ArchiveHost, ArchiveUnavailable, Fault, Reply
from data.config import PagesConfig
from data.errors import InputError
from data.http.client import REDIRECTS, Client, origin_of
from data.http.decode import begins_as_compressed
from data.http.exchange import HTML_TYPES, RATIO_FROM_BYTES, Limits, Wants, media_type
from data.schema import PageStatus
from data.warc import WarcWriter

DEAD = frozenset(
    {
        PageStatus.NOT_FOUND,
        PageStatus.GONE,
        PageStatus.DNS_FAILURE,
        PageStatus.CONNECT_FAILURE,
        PageStatus.TLS_FAILURE,
        PageStatus.TIMEOUT,
        PageStatus.TOO_SLOW,
        PageStatus.HOST_FAILING,
        PageStatus.PROTOCOL_ERROR,
        PageStatus.CLIENT_ERROR,
        PageStatus.SERVER_ERROR,
    }
)
"""The statuses of links to look up. Refusals are not among them: robots.txt, opt-outs, 429, forbidden addresses."""

_TRIES = 3  # how many captures of one page to try
_CDX_BYTES = 2_000_000  # cap on an index's answer; MAX_ROWS rows and collinfo.json are far smaller
_ACCEPT = {"Accept": "*/*"}
_PLAIN = {"Accept": "*/*", "Accept-Encoding": "identity"}  # a range counts bytes of the stored file


@dataclass(frozen=True)
class Capture:
    """A page from an archive, with the headers of the page's own server and the decoded body."""

    archive: str  # commoncrawl or wayback
    timestamp: str  # YYYYMMDDhhmmss
    url: str  # as the archive spells it
    source_url: str  # where the archive keeps it
    http_status: int
    status_line: bytes
    headers: Headers
    body: bytes
    sha1: bytes

    @property
    def label(self) -> str:
        """The value of the pages table's ``archive`` column."""
        return f"{self.archive}:{self.timestamp}"

    def content_type(self) -> str:
        value = next((value for name, value in self.headers if name.lower() == "content-type"), "")
        return value.encode(errors="surrogateescape").decode(errors="replace").strip()

    def write(self, warc: WarcWriter, taken_at: datetime) -> int:
        """Append the page to a WARC file. Returns the offset of its record."""
        raw = [(k.encode(errors="surrogateescape"), v.encode(errors="surrogateescape")) for k, v in self.headers]
        return warc.write_capture(
            self.url,
            captured_at(self.timestamp),
            (self.status_line, raw),
            self.body,
            self.sha1,
            source_url=self.source_url,
            taken_at=taken_at,
        )


class Archives:
    """The archives in ``config.archives``. Several tasks of one loop may call ``find`` at once."""

    def __init__(
        self,
        config: PagesConfig,
        client: Client,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        """``clock`` counts seconds and ``now`` is the time of day. Raises InputError for an unknown archive."""
        for name in config.archives:
            if name not in (COMMONCRAWL, WAYBACK):
                raise InputError(f"--archive {name!r}: not a known web archive; use {COMMONCRAWL} or {WAYBACK}")
        self.config = config
        self.now = now
        self.urls = config.archive_urls
        self._hosts: dict[str, ArchiveHost] = {}
        self._new_host = partial(ArchiveHost, config, client, sleep, clock, now, rng or random.Random())
        self._crawls: list[CrawlIndex] = []
        self._crawls_lock = asyncio.Lock()

    async def find(self, url: str, submitted_at: datetime | None) -> Capture | None:
        """The usable capture nearest to ``submitted_at`` (aware; None means now). Raises ArchiveUnavailable."""
        when = submitted_at or self.now()
        candidates: list[Candidate] = []
        faults: list[ArchiveUnavailable] = []
        asked = await asyncio.gather(*(self._candidates(name, url, when) for name in self.config.archives))
        for found in asked:
            if isinstance(found, ArchiveUnavailable):
                faults.append(found)
            else:
                candidates += found
        candidates.sort(key=lambda candidate: candidate.distance(when))
        for candidate in candidates[:_TRIES]:
            try:
                return await self._capture(candidate)
            except ArchiveUnavailable as fault:
                faults.append(fault)
        if faults:
            raise faults[0]
        return None

    async def _candidates(self, name: str, url: str, when: datetime) -> list[Candidate] | ArchiveUnavailable:
        try:
            if name == WAYBACK:
                return await self._wayback(url, when)
            return await self._commoncrawl(url, when)
        except CdxError as error:
            return ArchiveUnavailable(name, Fault.NOT_CDX, str(error))
        except ArchiveUnavailable as fault:
            return fault

    async def _wayback(self, url: str, when: datetime) -> list[Candidate]:
        base = self.urls.wayback
        reply = await self._index(WAYBACK, base + wayback_query(url, when))
        if reply.is_blocked_site():
            return []
        _require_200(WAYBACK, reply)
        return parse_wayback(reply.body, url, base)

    async def _commoncrawl(self, url: str, when: datetime) -> list[Candidate]:
        """The captures in the nearest crawl that has any, out of the nearest ``archive_crawls``."""
        base = self.urls.commoncrawl_index
        async with self._crawls_lock:
            if not self._crawls:
                reply = await self._index(COMMONCRAWL, f"{base}/collinfo.json")
                _require_200(COMMONCRAWL, reply)
                self._crawls = parse_crawls(reply.body)
        for crawl in nearest_crawls(self._crawls, when, self.config.archive_crawls):
            reply = await self._index(COMMONCRAWL, base + commoncrawl_query(crawl, url))
            if reply.http_status == 404 and is_empty_commoncrawl(reply.body):
                continue
            _require_200(COMMONCRAWL, reply)
            found = parse_commoncrawl(reply.body, url, self.urls.commoncrawl_data)
            if found:
                return found
        return []

    async def _capture(self, candidate: Candidate) -> Capture:
        try:
            if candidate.archive == WAYBACK:
                timestamp, status_line, headers, body = await self._replay(candidate)
            else:
                timestamp = candidate.timestamp
                status_line, headers, body = await self._record(candidate)
            types = [media_type(value) for name, value in headers if name.lower() == "content-type"]
            if not types or types[-1] not in HTML_TYPES:
                raise CaptureError("not HTML")
            if not body:
                raise CaptureError("empty")
            if begins_as_compressed(body):
                raise CaptureError("compressed in a way that no header names")
        except CaptureError as error:
            raise ArchiveUnavailable(candidate.archive, Fault.BAD_CAPTURE, str(error)) from error
        sha1 = hashlib.sha1(body, usedforsecurity=False).digest()
        return Capture(
            candidate.archive, timestamp, candidate.url, candidate.source_url, 200, status_line, headers, body, sha1
        )

    async def _replay(self, candidate: Candidate) -> tuple[str, bytes, Headers, bytes]:
        """The Wayback Machine's raw capture. An answer without Memento-Datetime is a page of the archive itself."""
        config = self.config
        limits = Limits(config.max_wire_bytes, config.max_decoded_bytes, config.max_ratio)
        reply = await self._get(candidate.archive, candidate.source_url, limits, _wants_memento, _ACCEPT)
        if reply.http_status in REDIRECTS:
            raise CaptureError("the capture is a redirect")
        memento = reply.headers.get("Memento-Datetime")
        if memento is None:
            raise CaptureError("not a capture")
        if reply.http_status != 200:
            raise CaptureError("the captured answer is not 200")
        try:
            moment = parsedate_to_datetime(memento)
        except (ValueError, IndexError) as error:
            raise CaptureError("not a capture") from error
        timestamp = moment.replace(tzinfo=UTC).strftime("%Y%m%d%H%M%S")
        if timestamp != candidate.timestamp:
            raise CaptureError("the capture is of another time")
        return timestamp, b"HTTP/1.1 200 OK", wayback_headers(reply.headers.items()), reply.body

    async def _record(self, candidate: Candidate) -> tuple[bytes, Headers, bytes]:
        """Common Crawl's record, by a range request."""
        config = self.config
        first = candidate.offset
        last = candidate.offset + candidate.length - 1
        if candidate.length > config.max_wire_bytes:
            raise CaptureError("more than max_wire_bytes")
        extra = {**_PLAIN, "Range": f"bytes={first}-{last}"}
        limits = Limits(candidate.length, candidate.length)
        reply = await self._get(candidate.archive, candidate.source_url, limits, lambda code, _: code == 206, extra)
        if reply.http_status in (404, 416):
            raise CaptureError("no record where the index says")
        if reply.http_status == 200:
            raise CaptureError("the data server does not serve ranges")
        if reply.http_status != 206:
            _require_200(candidate.archive, reply)
        is_range = reply.headers.get("Content-Range", "").startswith(f"bytes {first}-{last}/")
        if not is_range or len(reply.body) != candidate.length:
            raise CaptureError("not the range that was asked for")
        most = min(config.max_decoded_bytes, max(RATIO_FROM_BYTES, config.max_ratio * candidate.length))
        return unpack_record(reply.body, candidate, most)

    async def _index(self, archive: str, url: str) -> Reply:
        """An index's answer. Raises CdxError if it is too large for an index."""
        limits = Limits(_CDX_BYTES, _CDX_BYTES)
        try:
            return await self._get(archive, url, limits, lambda code, _: code in (200, 404), _ACCEPT)
        except CaptureError as error:
            raise CdxError(str(error)) from error

    async def _get(self, archive: str, url: str, limits: Limits, wants: Wants, extra: Mapping[str, str]) -> Reply:
        """Raises ArchiveUnavailable, or CaptureError for a body that exceeds a limit or has a broken encoding."""
        origin = origin_of(url)
        if origin not in self._hosts:
            self._hosts[origin] = self._new_host()
        return await self._hosts[origin].get(archive, url, limits, wants, extra)


def _wants_memento(http_status: int, headers: CIMultiDictProxy[str]) -> bool:
    return http_status == 200 and "Memento-Datetime" in headers


def _require_200(archive: str, reply: Reply) -> None:
    if reply.http_status != 200:
        raise ArchiveUnavailable(archive, Fault.REFUSED, str(reply.http_status))
