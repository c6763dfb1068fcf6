"""The indexes of web archives (CDX) and the records they point to. Pure: bytes in, captures out.

    Wayback        one query returns the captures of a URL, nearest to a time first:
                   /cdx/search/cdx?url=..&output=json&closest=..  ->  [["timestamp", "original", ...], [...], ...]
                   /web/TIMESTAMPid_/URL returns the raw capture, with its headers as X-Archive-Orig-NAME
    Common Crawl   collinfo.json lists the crawls with their times; each has its own index:
                   /CRAWL-index?url=..&output=json  ->  one JSON object per line, with file name, offset and length
                   of the gzip member that holds the WARC record

An archive's key for a URL ignores scheme, ``www.``, case and session identifiers, so the captures it returns may belong
to another page. Only rows of the same page count: scheme, ``www.``, tracking parameters, the order of parameters and a
trailing slash may differ, case may not.

Before May 2019 Common Crawl did not mark the pages that it cut at 1 MiB, so an older capture of exactly that size
counts as cut, and so does one that is shorter than its own Content-Length.

Nothing from an archive is trusted. An index that does not parse raises CdxError; a record that does not match its index
entry raises CaptureError. The texts of both are fixed words.

Sources: the READMEs of internetarchive/wayback (wayback-cdx-server) and webrecorder/pywb (CDXJ Server API); Common
Crawl's index server; ISO 28500:2017; github.com/commoncrawl/nutch/issues/10 (unmarked cuts).
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from data.http.decode import decoder_of
from data.http.streams import DecodeError
from data.urls.canonical import parse_url

COMMONCRAWL = "commoncrawl"
WAYBACK = "wayback"

MAX_ROWS = 50  # per query; one crawl of Common Crawl has a page a few times at most
_MAX_RECORD_HEAD_BYTES = 1 << 20  # for a WARC record's headers, and again for the HTTP headers in it
_TIMESTAMP = re.compile(r"[0-9]{14}")
_WWW = re.compile(r"www[0-9]*\.")
_CRAWL_ID = re.compile(r"CC-MAIN-(\d{4})(?:-(\d{2}|\d{4}))?")
_FILE_NAME = re.compile(r"crawl-data/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)+[A-Za-z0-9_-][A-Za-z0-9._-]*\.warc\.gz")
# Common Crawl keeps at most 1 MiB of a page. From May 2019 on it marks the pages that it cut (WARC-Truncated).
_CUT_BYTES, _CUTS_MARKED_FROM = 1 << 20, "20190501000000"
_COMMONCRAWL_PREFIX = "x-crawler-"
_WAYBACK_PREFIX = "x-archive-orig-"
_CUT = "the archive has only the beginning of the page"

Headers = list[tuple[str, str]]


class CdxError(ValueError):
    """An archive's answer breaks its own interface."""


class CaptureError(ValueError):
    """A capture does not match the index, or is not usable."""


@dataclass(frozen=True)
class Candidate:
    """A capture in an index. ``offset`` and ``length`` locate its gzip member, for Common Crawl only."""

    archive: str
    timestamp: str  # YYYYMMDDhhmmss
    url: str  # as the archive spells it
    source_url: str
    offset: int = 0
    length: int = 0

    def distance(self, when: datetime) -> tuple[timedelta, str, str]:
        """Sort key: the distance from a time; of two captures at the same distance, the earlier one is first."""
        return abs(captured_at(self.timestamp) - when), self.timestamp, self.archive


@dataclass(frozen=True)
class CrawlIndex:
    """The index of one of Common Crawl's crawls, and when that crawl ran."""

    name: str
    begin: datetime
    end: datetime

    def distance(self, when: datetime) -> tuple[timedelta, str]:
        away = max(self.begin - when, when - self.end, timedelta(0))
        return away, self.name


def captured_at(timestamp: str) -> datetime:
    """Raises ValueError for anything but 14 digits that are a valid time."""
    if not _TIMESTAMP.fullmatch(timestamp):
        raise ValueError(f"not a timestamp: {timestamp[:20]!r}")
    return datetime.strptime(timestamp, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def page_key(url: str) -> tuple[str, str, str, tuple[str, ...]]:
    """A key that is equal for two URLs of the same page. Raises ValueError for an invalid URL."""
    parts = parse_url(url)
    return _WWW.sub("", parts.host, count=1), parts.port, parts.path.rstrip("/"), tuple(sorted(parts.query.split("&")))


def wayback_query(url: str, when: datetime) -> str:
    """Path and query for the HTML captures of a URL, nearest to a time first."""
    fields = [
        ("url", url),
        ("matchType", "exact"),  # otherwise a URL that ends with a star would match all URLs with that prefix
        ("output", "json"),
        ("fl", "timestamp,original"),
        ("filter", "statuscode:200"),
        ("filter", "mimetype:text/html"),
        ("closest", when.astimezone(UTC).strftime("%Y%m%d%H%M%S")),
        ("sort", "closest"),
        ("limit", str(MAX_ROWS)),
    ]
    return f"/cdx/search/cdx?{urlencode(fields)}"


def parse_wayback(body: bytes, url: str, base_url: str) -> list[Candidate]:
    """The captures of the page itself. Raises CdxError."""
    rows = _json(body)
    if rows == []:
        return []
    if not isinstance(rows, list) or rows[0] != ["timestamp", "original"]:
        raise CdxError("not CDX")
    pairs = [(str(row[0]), str(row[1])) for row in rows[1:] if isinstance(row, list) and len(row) == 2]
    found = []
    for timestamp, original in pairs:
        if _is_page(timestamp, original, url):
            path = quote(original, safe="/:?&=%+,;@!$'()*~[]-._")
            found.append(Candidate(WAYBACK, timestamp, original, f"{base_url}/web/{timestamp}id_/{path}"))
    if len(pairs) < len(rows) - 1 and not found:
        raise CdxError("not CDX")
    return found


def parse_crawls(body: bytes) -> list[CrawlIndex]:
    """The crawls in a collinfo.json. Raises CdxError if there are none."""
    entries = _json(body)
    crawls = [crawl for entry in entries if (crawl := _crawl(entry))] if isinstance(entries, list) else []
    if not crawls:
        raise CdxError("no crawls in collinfo.json")
    return crawls


def nearest_crawls(crawls: Iterable[CrawlIndex], when: datetime, n: int) -> list[CrawlIndex]:
    return sorted(crawls, key=lambda crawl: crawl.distance(when))[:n]


def commoncrawl_query(crawl: CrawlIndex, url: str) -> str:
    """Path and query for the HTML captures of a URL in one crawl."""
    fields = [
        ("url", url),
        ("matchType", "exact"),
        ("output", "json"),
        ("filter", "=status:200"),
        ("filter", "=mime:text/html"),
        ("limit", str(MAX_ROWS)),
    ]
    return f"/{crawl.name}-index?{urlencode(fields)}"


def parse_commoncrawl(body: bytes, url: str, base_url: str) -> list[Candidate]:
    """The captures of the page itself. Raises CdxError."""
    found = []
    n_bad = 0
    for line in body.splitlines():
        row = _json(line)
        if not isinstance(row, dict):
            raise CdxError("not CDX")
        timestamp, original, file_name = (str(row.get(name)) for name in ("timestamp", "url", "filename"))
        offset, length = _count(row.get("offset")), _count(row.get("length"))
        if not _FILE_NAME.fullmatch(file_name) or offset is None or not length:
            n_bad += 1
        elif _is_page(timestamp, original, url):
            found.append(Candidate(COMMONCRAWL, timestamp, original, f"{base_url}/{file_name}", offset, length))
    if n_bad and not found:
        raise CdxError("not CDX")
    return found


def is_empty_commoncrawl(body: bytes) -> bool:
    """Whether a 404 from the index server means "no capture" rather than "no such index"."""
    return b"no captures found" in body[:1000].lower()


def unpack_record(member: bytes, candidate: Candidate, max_bytes: int) -> tuple[bytes, Headers, bytes]:
    """Status line, headers and decoded body of the response in one gzip member.

    The headers are the ones that the page's own server sent. At most ``max_bytes`` of the body and 1 MiB of each head
    are decompressed. Raises CaptureError.
    """
    stream = zlib.decompressobj(31)
    limit = max_bytes + 2 * _MAX_RECORD_HEAD_BYTES
    try:
        plain = stream.decompress(member, limit)
    except zlib.error as error:
        raise CaptureError("no gzip member at the offset") from error
    if not stream.eof and len(plain) >= limit:
        raise CaptureError("decompresses to too many bytes")
    if not stream.eof or stream.unused_data:
        raise CaptureError("the length is not that of the gzip member")
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(plain), parse_http=False)), None)
        if record is None or record.record_type != WarcRecordType.response:
            raise CaptureError("not a response record")
        _check_identity(record, candidate)
        record.parse_http(max_header_len=_MAX_RECORD_HEAD_BYTES)
        head = record.http_headers
        if head is None or head.status_code != 200:
            raise CaptureError("the captured answer is not 200")
        n_body = record.content_length
        body = record.reader.read(max_bytes + 1)
        pairs = [(_text(name), _text(value)) for name, value in head.items_bytes()]
        status_line = bytes(head.status_line_bytes or b"")
    except (OSError, ValueError) as error:
        raise error if isinstance(error, CaptureError) else CaptureError("not a WARC record") from error
    if len(body) > max_bytes:
        raise CaptureError("decompresses to too many bytes")
    if len(body) != n_body:
        raise CaptureError("the record is cut off")
    headers = _original_headers(pairs, _COMMONCRAWL_PREFIX, ())
    decoded = _decoded(body, headers, max_bytes)
    if candidate.timestamp < _CUTS_MARKED_FROM and (_is_cut(body, headers) or _is_cut(decoded, headers)):
        raise CaptureError(_CUT)
    return status_line, headers, decoded


def wayback_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers of the page's own server, from the headers of a raw capture."""
    return _original_headers(headers, _WAYBACK_PREFIX, ("content-type",))


def _original_headers(headers: Iterable[tuple[str, str]], prefix: str, bare: tuple[str, ...]) -> Headers:
    """Headers under their original names.

    Headers without the prefix stay if ``bare`` is empty. Otherwise they come from the archive, and only those in
    ``bare`` stay.
    """
    pairs = list(headers)
    renamed = {name.lower()[len(prefix) :] for name, _ in pairs if name.lower().startswith(prefix)}
    found = []
    for name, value in pairs:
        if name.lower().startswith(prefix):
            found.append((name[len(prefix) :], value))
        elif name.lower() not in renamed and (not bare or name.lower() in bare):
            found.append((name, value))
    return found


def _check_identity(record: WarcRecord, candidate: Candidate) -> None:
    header = record.headers.get
    try:
        is_same = page_key(header("WARC-Target-URI") or "") == page_key(candidate.url)
    except ValueError:
        is_same = False
    if not is_same:
        raise CaptureError("the record is of another URL")
    if re.sub("[^0-9]", "", header("WARC-Date") or "")[:14] != candidate.timestamp:
        raise CaptureError("the record is of another time")
    if header("WARC-Truncated"):
        raise CaptureError(_CUT)


def _is_cut(body: bytes, headers: Headers) -> bool:
    """Whether an unmarked body has exactly the size of Common Crawl's limit, or less than its server announced.

    The records of August 2018 have a line break too many before the body.
    """
    if _CUT_BYTES in (len(body), len(body.removeprefix(b"\r\n"))):
        return True
    values = {name.lower(): value.strip() for name, value in headers}
    if values.get("content-encoding", "identity").lower() != "identity":
        return False  # the length is that of the encoded body
    return len(body) < (_count(values.get("content-length")) or 0)


def _decoded(body: bytes, headers: Headers, max_bytes: int) -> bytes:
    """The body without its content encoding.

    Common Crawl stores bodies decoded, and until 2018 it left ``Content-Encoding: gzip`` in their headers. So the
    header counts only if the body begins like gzip.
    """
    encodings = {value.strip().lower() for name, value in headers if name.lower() == "content-encoding"}
    if not body.startswith(b"\x1f\x8b") or not encodings & {"gzip", "x-gzip"}:
        return body
    decoder = decoder_of("gzip")
    pieces = []
    n_bytes = 0
    try:
        for source in (decoder.feed(body), decoder.finish(is_whole=True)):
            for piece in source:
                pieces.append(piece)
                n_bytes += len(piece)
                if n_bytes > max_bytes:
                    raise CaptureError("decompresses to too many bytes")
    except DecodeError as error:
        raise CaptureError("the content encoding is broken") from error
    return b"".join(pieces)


def _is_page(timestamp: str, original: str, url: str) -> bool:
    """Whether a row is a capture of the page itself, at a valid time."""
    try:
        captured_at(timestamp)
        return page_key(original) == page_key(url)
    except ValueError:
        return False


def _crawl(entry: Any) -> CrawlIndex | None:
    """The crawl in one entry of collinfo.json. Its times come from the entry, or else from its name."""
    name = entry.get("id") if isinstance(entry, dict) else None
    match = _CRAWL_ID.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        return None
    try:
        begin, end = (datetime.fromisoformat(entry[key]).replace(tzinfo=UTC) for key in ("from", "to"))
    except (KeyError, TypeError, ValueError):
        try:
            begin, end = _times_of_name(int(match[1]), match[2])
        except ValueError:
            return None
    return CrawlIndex(match[0], begin, end)


def _times_of_name(year: int, rest: str | None) -> tuple[datetime, datetime]:
    """CC-MAIN-2013-20 ended in that ISO week; CC-MAIN-2009-2010 and CC-MAIN-2012 are named after their years."""
    if rest is not None and len(rest) == 2:
        end = datetime.fromisocalendar(year, int(rest), 7).replace(tzinfo=UTC)
        return end - timedelta(weeks=2), end
    last = int(rest or year)
    return datetime(year, 1, 1, tzinfo=UTC), datetime(last, 12, 31, tzinfo=UTC)


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CdxError("not JSON") from error


def _count(value: Any) -> int | None:
    """A number of bytes, from a string or a number; None for anything else."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
