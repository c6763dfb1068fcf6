"""Classifies the lines of a dump: links become columns, all other lines are counted by status.

Most lines are plain: ``is_self`` is a boolean, the URL is already canonical, numbers are numbers. They take a fast
path: one call of msgspec decodes the needed fields of a whole block, and a strict pattern proves that the URL is its
own canonical spelling. Every other line goes through data/links/submissions.py, which is exact and slow. Both give the
same result.

About 5 microseconds per line of 1.4 kB (benchmarks/links.py), against 15 to 20 for the exact path.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from data.links.submissions import (
    LAST_S,
    MAX_SCORE,
    Rejected,
    Submission,
    observed,
    parse_dump_line,
    parse_reddit,
    parse_url_line,
    unescaped,
)
from data.schema import LinkStatus
from data.urls.blocklists import REDDIT_HOSTS
from data.urls.canonical import MAX_URL_CHARS, is_below, normal_percents, normal_query, partition_of, registrable_domain
from data.urls.copies import may_show_copies
from data.urls.variants import may_be_rewritten

SUBMISSIONS = pa.schema(
    [
        ("site", pa.string()),
        ("id", pa.string()),
        ("subreddit", pa.string()),
        ("url", pa.string()),
        ("canonical_url", pa.string()),
        ("domain", pa.string()),
        ("score", pa.int64()),
        ("created", pa.timestamp("ms", tz="UTC")),
        ("observed_at", pa.timestamp("ms", tz="UTC")),
        ("is_listed", pa.bool_()),
        ("partition", pa.uint64()),  # urls.partition_of(domain)
        ("source", pa.string()),
        ("deferred_from", pa.string()),  # the snapshot that deferred it; null for a new submission
    ]
)
"""A submission with an outbound link: the fields of submissions.Submission, its partition and its origin."""

NAMED_LINES = 100
"""The number of malformed lines per source that keep their line number and reason; all are counted."""


class Malformed(NamedTuple):
    line: int
    reason: str


class LinkRecords(NamedTuple):
    """What some lines of a source hold. Each line is outbound, counted by its status, or blank."""

    table: pa.Table  # of SUBMISSIONS: the outbound ones
    outbound: int  # lines; as many as the table has rows, but a deferred link is one line for all its rows
    counts: Counter[LinkStatus]
    blank: int = 0
    malformed: Sequence[Malformed] = ()  # the first NAMED_LINES, numbered from 1 here
    n_submissions: int = 0  # outbound or not; in a URL list, the lines that begin like a URL
    n_read: int = 0  # lines; the other counts may sum to more, since a line may be a whole listing

    def after(self, n_before: int) -> LinkRecords:
        """The same, with malformed lines numbered as in a file that has ``n_before`` lines before these."""
        return self._replace(malformed=[Malformed(n_before + line, reason) for line, reason in self.malformed])


class RedditFields(msgspec.Struct, gc=False):
    """The fields of a Reddit submission whose ``is_self`` is a boolean. Absent ones are null, as in parse_reddit."""

    url: Any = None
    id: Any = None
    subreddit: Any = None
    is_self: Any = None
    over_18: Any = None
    score: Any = None
    created_utc: Any = msgspec.UNSET
    retrieved_on: Any = None
    retrieved_utc: Any = None
    meta: Any = msgspec.field(name="_meta", default=None)


_DECODER = msgspec.json.Decoder(RedditFields)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SCHEME = re.compile(rb"\s*[A-Za-z][A-Za-z0-9+.-]*:")
_OPEN, _CLOSE = b"{}"

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_HOST = re.compile(rf"(?:{_LABEL}\.)+[a-z]{{2,63}}")  # so no IPv4 address in any spelling
_PLAIN_URL = re.compile(
    r"(https?://([a-z0-9.-]+))"
    r"(/[A-Za-z0-9._~!$'()*+,;=:@/%-]*)?"  # the WHATWG parser leaves these alone, except segments of dots
    r"(?:\?([A-Za-z0-9._~!$()*+,;=:@/?&%-]+))?"
    r"(?:#[!-~]*)?"
)


class _Host(NamedTuple):
    is_plain: bool
    is_reddit: bool
    domain: str
    partition: int


@functools.lru_cache(maxsize=65_536)
def _host(host: str) -> _Host:
    """``is_plain``: the parser would not change it, nor is it known for copies of other pages.

    Punycode is not plain, since its labels need checks.
    """
    if not _PLAIN_HOST.fullmatch(host) or len(host) > 253 or "xn--" in host or may_show_copies(host):
        return _Host(False, False, "", 0)
    domain = registrable_domain(host)
    return _Host(True, is_below(host, REDDIT_HOSTS) is not None, domain, _partition(domain))


@functools.lru_cache(maxsize=65_536)
def _partition(domain: str) -> int:
    return partition_of(domain)


def plain_url(url: str) -> tuple[str, _Host] | None:
    """The canonical spelling of a URL, as ``canonical_url`` returns it, and its host; None if the URL needs parsing.

    About 1 microsecond.
    """
    match = _PLAIN_URL.fullmatch(url)
    if match is None:
        return None
    origin, name, path, query = match.groups("")
    host = _host(name)
    if "%" in path:
        path = normal_percents(path)
    is_long = len(url) * 3 > MAX_URL_CHARS  # a percent sign may become three characters
    if not host[0] or "/." in path or is_long or may_be_rewritten(name, path):
        return None
    if query and (query := normal_query(query)):
        return f"{origin}{path or '/'}?{query}", host
    return f"{origin}{path or '/'}", host


class _Classified:
    """Collects the results of lines."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []  # Submission's fields and the partition
        self.counts: Counter[LinkStatus] = Counter()
        self.malformed: list[Malformed] = []
        self.blank = 0

    def add(self, number: int, results: Iterable[Submission | Rejected]) -> None:
        for found in results:
            if isinstance(found, Submission):
                self.rows.append((*found, _partition(found.domain)))
                continue
            self.counts[found.status] += 1
            if found.status is LinkStatus.MALFORMED_LINE and len(self.malformed) < NAMED_LINES:
                self.malformed.append(Malformed(number, found.reason))

    def add_outbound(self, row: RedditFields) -> None:
        """Add a row with ``is_self`` false. A plain URL with fields of the usual types skips the exact path."""
        url = row.url
        score = row.score
        created = row.created_utc
        identity = row.id
        subreddit = row.subreddit
        plain = None
        if (
            type(url) is type(identity) is type(subreddit) is str
            and type(score) is type(created) is int
            and -MAX_SCORE < score < MAX_SCORE
            and 0 <= created <= LAST_S
            and (row.over_18 is None or type(row.over_18) is bool)
        ):
            if "&" in url:
                url = unescaped(url)
            plain = plain_url(url)
        if plain is None:
            self.add(0, [parse_reddit({**msgspec.structs.asdict(row), "_meta": row.meta})])  # never a malformed line
            return
        canonical, (_, is_reddit, domain, partition) = plain
        if is_reddit:
            self.counts[LinkStatus.SELF_POST] += 1
            return
        if row.over_18 is True:
            self.counts[LinkStatus.OVER_18] += 1
            return
        seen = row.retrieved_on
        if row.meta is None and type(seen) is int and 0 < seen <= LAST_S:
            observed_ms: int | None = seen * 1_000
        else:
            observed_ms = observed(row.meta, seen, row.retrieved_utc)
        names = "reddit", identity or None, subreddit or None
        self.rows.append((*names, url, canonical, domain, score, created * 1_000, observed_ms, False, partition))

    def records(self, label: str, n_read: int) -> LinkRecords:
        fields = [field for field in SUBMISSIONS if field.name not in ("source", "deferred_from")]
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(fields)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
        arrays += [pa.repeat(pa.scalar(label), len(self.rows)), pa.nulls(len(self.rows), pa.string())]
        table = pa.Table.from_arrays(arrays, schema=SUBMISSIONS)
        n_others = self.counts[LinkStatus.MALFORMED_LINE] + self.counts[LinkStatus.NOT_A_SUBMISSION]
        n_submissions = len(self.rows) + self.counts.total() - n_others
        return LinkRecords(table, len(self.rows), self.counts, self.blank, self.malformed, n_submissions, n_read)


def too_long(max_bytes: int, label: str) -> LinkRecords:
    """The record of a line that is too long."""
    classified = _Classified()
    classified.add(1, [Rejected(LinkStatus.MALFORMED_LINE, f"longer than {max_bytes:,} bytes")])
    return classified.records(label, 1)


def classify_urls(lines: bytes, label: str) -> LinkRecords:
    """The records of whole lines of a URL list."""
    classified = _Classified()
    every = lines.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(every, 1):
        if line.strip():
            classified.add(number, [parse_url_line(line)])
        else:
            classified.blank += 1
    n_submissions = sum(_SCHEME.match(line) is not None for line in every)
    return classified.records(label, len(every))._replace(n_submissions=n_submissions)


def classify_dump(lines: bytes, label: str) -> LinkRecords:
    """The records of whole lines of a dump."""
    classified = _Classified()
    rows, ends = decode_rows(lines)
    n_self = 0
    for index, row in enumerate(rows):
        if row is None or row.created_utc is msgspec.UNSET or type(row.is_self) is not bool:
            line = lines[ends[index - 1] + 1 if index else 0 : ends[index]]
            if line.strip():
                classified.add(index + 1, parse_dump_line(line))
            else:
                classified.blank += 1
        elif row.is_self:
            n_self += 1
        else:
            classified.add_outbound(row)
    if n_self:
        classified.counts[LinkStatus.SELF_POST] += n_self
    return classified.records(label, len(ends))


def decode_rows(lines: bytes) -> tuple[Sequence[RedditFields | None], list[int]]:
    """A row per line, None for a line that is not one whole object; and the end of each line.

    The decoder splits objects at any white space, or at none. If it finds as many objects as lines, and every line
    begins and ends with a brace, then no object spans two lines: in JSON an opening brace never directly
    follows a closing one.
    """
    ends = _line_ends(lines)
    try:
        rows = _DECODER.decode_lines(lines)
    except _UNDECODABLE:
        rows = []
    if len(rows) == len(ends):
        octets = np.frombuffer(lines, np.uint8)
        last = np.array(ends)
        first = np.concatenate(([0], last[:-1] + 1))
        if (octets[first] == _OPEN).all() and (octets[last - 1] == _CLOSE).all():
            return rows, ends
    starts = (0, *(end + 1 for end in ends))
    return [_decode_one(lines[start:end]) for start, end in zip(starts, ends, strict=False)], ends


def _line_ends(lines: bytes) -> list[int]:
    """Where each line ends: at its newline, or at the end of the block."""
    ends, end = [], lines.find(b"\n")
    while end >= 0:
        ends.append(end)
        end = lines.find(b"\n", end + 1)
    return ends if ends and ends[-1] == len(lines) - 1 else [*ends, len(lines)]


def _decode_one(line: bytes) -> RedditFields | None:
    try:
        return _DECODER.decode(line)
    except _UNDECODABLE:
        return None
