"""The formats of web archives (lists of crawls, index rows, records), from real, damaged and random input."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import tracemalloc
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.archives import cdx
from data.archives.cdx import (
    Candidate,
    CaptureError,
    CdxError,
    parse_commoncrawl,
    parse_crawls,
    parse_wayback,
    unpack_record,
)
from tests.data.archives.finding import URL, held
from tests.data.archives.server import our_member

PLAIN = gzip.decompress(our_member(held()))


def test_times_of_crawls_are_read_from_their_names() -> None:
    entries = [
        {"id": "CC-MAIN-2026-30", "from": "2026-07-10T01:02:03", "to": "2026-07-24T00:00:00"},
        {"id": "CC-MAIN-2013-20", "from": "", "to": None},
        {"id": "CC-MAIN-2012"},
        {"id": "CC-MAIN-2009-2010"},
        {"id": "CC-MAIN-2013-77"},  # no such week
        {"id": "CC-NEWS-2013"},
    ]
    crawls = parse_crawls(json.dumps(entries).encode())
    assert [(crawl.name, f"{crawl.begin:%Y-%m-%d}", f"{crawl.end:%Y-%m-%d}") for crawl in crawls] == [
        ("CC-MAIN-2026-30", "2026-07-10", "2026-07-24"),
        ("CC-MAIN-2013-20", "2013-05-05", "2013-05-19"),
        ("CC-MAIN-2012", "2012-01-01", "2012-12-31"),
        ("CC-MAIN-2009-2010", "2009-01-01", "2010-12-31"),
    ]
    near = cdx.nearest_crawls(crawls, datetime(2012, 3, 1, tzinfo=UTC), 3)
    assert [crawl.name for crawl in near] == ["CC-MAIN-2012", "CC-MAIN-2009-2010", "CC-MAIN-2013-20"]


def test_real_index_rows_are_parsed() -> None:
    """A row of index.commoncrawl.org from 2025."""
    line = (
        '{"urlkey": "org,commoncrawl)/", "timestamp": "20250804103329", "url": "https://www.commoncrawl.org/", '
        '"mime": "text/html", "mime-detected": "text/html", "status": "200", '
        '"digest": "FAPYCDZSWJIQ2YPQAYDRLAC25YMUNVTD", "length": "7063", "offset": "667474763", "filename": '
        '"crawl-data/CC-MAIN-2025-33/segments/1754151279781.29/warc/CC-MAIN-20250804083340-20250804113340-00340.'
        'warc.gz", "languages": "eng", "encoding": "UTF-8"}\n'
    )
    (found,) = parse_commoncrawl(line.encode(), "http://commoncrawl.org/", "https://data.commoncrawl.org")
    assert (found.timestamp, found.offset, found.length) == ("20250804103329", 667474763, 7063)
    assert found.source_url == (
        "https://data.commoncrawl.org/crawl-data/CC-MAIN-2025-33/segments/1754151279781.29/warc/"
        "CC-MAIN-20250804083340-20250804113340-00340.warc.gz"
    )


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ("https://gone.example/story?b=2&a=1", True),
        ("http://www2.gone.example:80/story/?a=1&b=2", True),
        ("http://www.gone.example/story?a=1&b=3", False),
        ("http://www.gone.example/STORY?a=1&b=2", False),
        ("http://m.gone.example/story?a=1&b=2", False),
        ("http://www.gone.example:8080/story?a=1&b=2", False),
        ("http://www.gone.example.evil.example/story?a=1&b=2", False),
        ("ftp://www.gone.example/story?a=1&b=2", False),
        ("", False),
    ],
)
def test_spellings_of_the_same_page_are_recognised(other: str, is_same: bool) -> None:
    rows = [["timestamp", "original"], ["20140501010203", other]]
    assert bool(parse_wayback(json.dumps(rows).encode(), URL, "http://x")) == is_same


CANDIDATE = Candidate("commoncrawl", "20140501010203", URL, "http://x/")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=40), st.integers(0, 40))
def test_a_damaged_record_gives_a_typed_error(position: int, put: bytes, cut: int) -> None:
    damaged = PLAIN[:position] + put + PLAIN[position + cut :]
    try:
        _, _, body = unpack_record(gzip.compress(damaged, 1), CANDIDATE, 10_000)
    except CaptureError:
        return
    assert len(body) <= 10_000


_NAMES = ["id", "from", "to", "timestamp", "url", "filename", "offset", "length"]
_LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20) | st.sampled_from([URL, *_NAMES])
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_answer_is_cdx_or_a_typed_error(body: bytes) -> None:
    for parse in (parse_wayback, parse_commoncrawl):
        with contextlib.suppress(CdxError):
            assert all(re.fullmatch(r"\d{14}", found.timestamp) for found in parse(body, URL, "http://x"))
    with contextlib.suppress(CdxError):
        assert all(crawl.begin <= crawl.end for crawl in parse_crawls(body))


def test_a_bomb_is_not_decompressed_completely() -> None:
    member = gzip.compress(bytes(300_000_000), 1)
    tracemalloc.start()
    try:
        with pytest.raises(CaptureError, match="too many bytes"):
            unpack_record(member, CANDIDATE, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
