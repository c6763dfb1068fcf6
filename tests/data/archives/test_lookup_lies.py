"""Untrustworthy answers of web archives: indexes, ranges, records and replays that are not what they claim."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from data.archives.host import ArchiveUnavailable, Fault
from tests.data.archives.finding import BODY, CRAWL, FAR, NEAR, URL, WHEN, Finder, answering, held
from tests.data.archives.server import DATA, WAYBACK, ArchiveServer, memento, our_member, timestamp_of, warcio_member

NO_CDX = {
    "html": answering("<html>hello"),
    "empty": answering(""),
    "an object": answering("{}"),
    "a number": answering("7"),
    "no header": answering('[["20140501010203", "http://www.gone.example/"]]'),
    "not UTF-8": lambda: web.Response(body=b'[["timestamp", "original"], ["\xff", "\xfe"]]'),
    "huge": lambda: web.Response(body=b" " * 3_000_000),
    "deep": lambda: web.Response(body=b"[" * 1_000_000),
    "rows of nothing": answering('[["timestamp", "original"], [], 3, null, {"a": 1}]'),
}


@pytest.mark.parametrize("name", NO_CDX)
async def test_wayback_answer_that_is_not_cdx_is_a_fault(server: ArchiveServer, finder: Finder, name: str) -> None:
    server.answer_with("/cdx/", NO_CDX[name])
    archive_name, fault, _ = await finder.fault("wayback")
    assert (archive_name, fault) == ("wayback", "not_cdx")


NO_CRAWLS = {
    "html": answering("<html>hello"),
    "none": answering("[]"),
    "an object": answering("{}"),
    "no names": answering('[{"id": 3}, {"id": "../x"}, {}, null, 7]'),
    "huge": lambda: web.Response(body=b" " * 3_000_000),
}


@pytest.mark.parametrize("name", NO_CRAWLS)
async def test_an_invalid_list_of_crawls_is_a_fault_and_fetched_again(
    server: ArchiveServer, finder: Finder, name: str
) -> None:
    server.answer_with("collinfo", NO_CRAWLS[name], None)
    archives = finder.archives("commoncrawl")
    with pytest.raises(ArchiveUnavailable) as raised:
        await archives.find(URL, WHEN)
    assert raised.value.fault == Fault.NOT_CDX
    assert await archives.find(URL, WHEN) is None  # the second try fetches the list again and gets it


NO_INDEX = {
    "html": (answering("<html>hello"), "not_cdx"),
    "a list": (answering("[1]"), "not_cdx"),
    "no file": (answering(json.dumps({"timestamp": "20140501010203", "url": URL})), "not_cdx"),
    "a file of another place": (answering(json.dumps({"filename": "crawl-data/../x.warc.gz", "url": URL})), "not_cdx"),
    "huge": (lambda: web.Response(body=b"\n" * 3_000_000), "not_cdx"),
    "no such index": (answering("Not Found", 404), "refused"),
    "none, with 200": (answering('{"message": "No Captures found for: x"}'), "not_cdx"),
    "redirect": (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1/"}), "refused"),
}


@pytest.mark.parametrize("name", NO_INDEX)
async def test_common_crawl_answer_that_is_not_cdx_is_a_fault(server: ArchiveServer, finder: Finder, name: str) -> None:
    answer, fault = NO_INDEX[name]
    server.answer_with("-index", answer)
    assert (await finder.fault("commoncrawl"))[:2] == ("commoncrawl", fault)


@dataclass(frozen=True)
class Lie:
    """How a capture of Common Crawl contradicts its index, and the expected detail."""

    detail: str
    changes: dict[str, str] = field(default_factory=dict)  # of the index row
    member: bytes | None = None  # in place of the record
    answer: Callable[[], web.Response] | None = None
    config: dict[str, Any] = field(default_factory=dict)


MEMBER = our_member(held())
PLAIN = gzip.decompress(MEMBER)
LONG = random.Random(1).randbytes(1 << 20).hex().encode()
LIES = {
    "offset in the middle": Lie("no gzip member at the offset", {"offset": "7"}),
    "offset beyond the end": Lie("no record where the index says", {"offset": "99999999"}),
    "length too short": Lie("the length is not that of the gzip member", {"length": str(len(MEMBER) - 9)}, MEMBER),
    "length over two members": Lie("the length is not that of the gzip member", member=MEMBER + MEMBER),
    "length beyond the end": Lie("not the range that was asked for", {"length": str(len(MEMBER) + 99)}),
    "length over the limit": Lie("more than max_wire_bytes", {"length": "99999999999"}),
    "no file": Lie("no record where the index says", {"filename": "crawl-data/x/none.warc.gz"}),
    "another URL": Lie("the record is of another URL", member=our_member(held(url="http://evil.example/"))),
    "no URL": Lie("the record is of another URL", member=gzip.compress(PLAIN.replace(b"WARC-Target-URI", b"X"))),
    "another time": Lie("the record is of another time", member=our_member(held(FAR))),
    "a request": Lie("not a response record", member=warcio_member(held(), "request")),
    "a revisit": Lie("not a response record", member=warcio_member(held(), "revisit")),
    "a redirect": Lie("the captured answer is not 200", member=our_member(held(status=301))),
    "not HTML": Lie("not HTML", member=our_member(held(content_type="text/plain"))),
    "empty": Lie("empty", member=our_member(held(body=b""))),
    "cut in the archive": Lie(
        "the archive has only the beginning of the page", member=warcio_member(held(), WARC_Truncated="length")
    ),
    "compressed without a header": Lie(
        "compressed in a way that no header names", member=our_member(held(body=gzip.compress(BODY)))
    ),
    "not WARC": Lie("not a WARC record", member=gzip.compress(b"hello, this is no record\r\n\r\n")),
    "nothing": Lie("not a response record", member=gzip.compress(b"")),
    "record cut off": Lie("the record is cut off", member=gzip.compress(PLAIN[:-20])),
    "crc": Lie("no gzip member at the offset", member=MEMBER[:-8] + b"\0\0\0\0" + MEMBER[-4:]),
    "bomb": Lie(
        "decompresses to too many bytes",
        member=our_member(held(body=bytes(60_000_000))),
        config={"max_decoded_bytes": 1_000_000},
    ),
    "bomb below max_decoded_bytes": Lie(
        "decompresses to too many bytes", member=our_member(held(body=bytes(30_000_000)))
    ),
    "bomb in the body": Lie(
        "decompresses to too many bytes",
        member=warcio_member(held(body=gzip.compress(bytes(60_000_000)), headers=(("Content-Encoding", "gzip"),))),
        config={"max_decoded_bytes": 1_000_000},
    ),
    "body a little over": Lie(
        "decompresses to too many bytes",
        member=our_member(held(body=BODY * 20)),
        config={"max_decoded_bytes": 1_000},
    ),
    "broken body": Lie(
        "the content encoding is broken",
        member=warcio_member(held(body=gzip.compress(BODY)[:-9], headers=(("Content-Encoding", "gzip"),))),
    ),
    "the whole file": Lie("the data server does not serve ranges", answer=lambda: web.Response(body=MEMBER)),
    "another range": Lie(
        "not the range that was asked for",
        member=MEMBER,
        answer=lambda: web.Response(status=206, body=MEMBER, headers={"Content-Range": "bytes 1-9/99"}),
    ),
    "a longer range": Lie(
        "larger than it may be",
        answer=lambda: web.Response(status=206, body=MEMBER * 9, headers={"Content-Range": "bytes 0-9/99"}),
    ),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_capture_that_contradicts_its_index_is_rejected(
    server: ArchiveServer, finder: Finder, name: str
) -> None:
    lie = LIES[name]
    row = server.hold(CRAWL, held())
    if "offset" in lie.changes:
        server.hold(CRAWL, held(url="http://other.example/"))
    if lie.member is not None:
        server.files[row["filename"]] = lie.member
        row["length"] = str(len(lie.member))
    row |= lie.changes
    if lie.answer is not None:
        server.answer_with(DATA, lie.answer)
    assert await finder.fault("commoncrawl", **lie.config) == ("commoncrawl", "bad_capture", lie.detail)


MIB = 1 << 20
GZIPPED = ("Content-Encoding", "gzip")
BEFORE, AFTER = datetime(2019, 4, 30, 23, 59, 59, tzinfo=UTC), datetime(2019, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "body", "headers", "is_cut"),
    [
        (BEFORE, LONG[:MIB], (), True),
        (NEAR, LONG[:MIB], (), True),
        (BEFORE, b"\r\n" + LONG[:MIB], (), True),  # the line break too many of August 2018
        (BEFORE, LONG[:MIB], (GZIPPED,), True),  # stored decoded, as until 2018
        (BEFORE, gzip.compress(LONG[:MIB]), (GZIPPED,), True),
        (BEFORE, LONG[:MIB], (("X-Crawler-Content-Encoding", "gzip"),), True),
        (BEFORE, LONG[: MIB - 1], (), False),
        (BEFORE, LONG[: MIB + 1], (), False),
        (BEFORE, LONG[: MIB + 2], (), False),
        (AFTER, LONG[:MIB], (), False),
        (BEFORE, BODY, (("Content-Length", str(len(BODY) + 1)),), True),
        (BEFORE, BODY, (("X-Crawler-Content-Length", str(len(BODY) + 1)), ("Content-Length", str(len(BODY)))), True),
        (BEFORE, BODY, (("Content-Length", str(len(BODY))),), False),
        (BEFORE, BODY, (("Content-Length", "1"),), False),
        (BEFORE, BODY, (("Content-Length", "many"),), False),
        (BEFORE, BODY, (("Content-Length", "9999"), GZIPPED), False),  # the length of the encoded body
        (AFTER, BODY, (("Content-Length", str(len(BODY) + 1)),), False),
    ],
)
async def test_an_unmarked_capture_that_was_cut_is_rejected(
    server: ArchiveServer,
    finder: Finder,
    when: datetime,
    body: bytes,
    headers: tuple[tuple[str, str], ...],
    is_cut: bool,
) -> None:
    row = server.hold(CRAWL, held(when))
    member = warcio_member(held(when, body=body, headers=headers))
    server.files[row["filename"]] = member
    row["length"] = str(len(member))
    if is_cut:
        detail = "the archive has only the beginning of the page"
        assert await finder.fault("commoncrawl") == ("commoncrawl", "bad_capture", detail)
    else:
        found = await finder.archives("commoncrawl").find(URL, WHEN)
        assert found is not None
        assert found.body == body


def _with(**headers: str) -> Callable[[], web.Response]:
    def answer() -> web.Response:
        given = memento(held())
        given.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return given

    return answer


def _without_memento() -> web.Response:
    answer = memento(held())
    del answer.headers["Memento-Datetime"]
    return answer


REPLAYS = {
    "redirect": (lambda: web.Response(status=302, headers={"Location": "/web/2014/x"}), "the capture is a redirect"),
    "not a capture": (_without_memento, "not a capture"),
    "not archived": (answering("not archived", 404), "not a capture"),
    "another time": (lambda: memento(held(FAR)), "the capture is of another time"),
    "no time": (_with(Memento_Datetime="yesterday"), "not a capture"),
    "captured 404": (lambda: memento(held(status=404)), "the captured answer is not 200"),
    "captured 503": (lambda: memento(held(status=503)), "the captured answer is not 200"),
    "not HTML": (lambda: memento(held(content_type="image/png")), "not HTML"),
    "empty": (lambda: memento(held(body=b"")), "empty"),
    "not gzip": (_with(Content_Encoding="gzip"), "the content encoding is broken"),
    "unknown encoding": (_with(Content_Encoding="sdch"), "the content encoding is broken"),
    "huge": (lambda: memento(held(body=bytes(2000))), "larger than it may be"),
    "bomb": (
        lambda: _encoded(gzip.compress(bytes(50_000_000))),
        "larger than it may be",
    ),
}


def _encoded(body: bytes) -> web.Response:
    answer = memento(held(body=body))
    answer.headers["Content-Encoding"] = "gzip"
    return answer


@pytest.mark.parametrize("name", REPLAYS)
async def test_an_invalid_replay_is_rejected(server: ArchiveServer, finder: Finder, name: str) -> None:
    answer, detail = REPLAYS[name]
    server.wayback.append(held())
    server.answer_with("id_/", answer)
    limits = {"max_wire_bytes": 1000} if name == "huge" else {}
    assert await finder.fault("wayback", **limits) == ("wayback", "bad_capture", detail)


async def test_the_next_capture_is_tried_after_a_bad_one(server: ArchiveServer, finder: Finder) -> None:
    server.wayback += [held(WHEN + timedelta(days=days), body=b"<p>%d" % days) for days in (1, -2, 3, 4)]
    server.answer_with(timestamp_of(WHEN + timedelta(days=1)) + "id_", answering("broken", 404))
    server.answer_with(timestamp_of(WHEN - timedelta(days=2)) + "id_", answering("broken", 404))
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert capture.body == b"<p>3"


async def test_at_most_three_captures_are_tried(server: ArchiveServer, finder: Finder) -> None:
    server.wayback += [held(WHEN + timedelta(days=days)) for days in range(9)]
    server.answer_with("id_/", answering("broken", 404))
    assert (await finder.fault("wayback"))[1] == "bad_capture"
    assert len([path for path in server.asked(WAYBACK) if "id_/" in path]) == 3


async def test_a_capture_is_found_although_one_archive_fails(server: ArchiveServer, finder: Finder) -> None:
    server.hold(CRAWL, held())
    server.answer_with(WAYBACK, answering("down", 503))
    archives = finder.archives()
    capture = await archives.find(URL, WHEN)
    assert capture is not None
    assert capture.archive == "commoncrawl"
    with pytest.raises(ArchiveUnavailable, match=r"wayback: (busy|given_up)"):
        await archives.find("http://unknown.example/", WHEN)  # not in the one that answers; the other may have it


async def test_a_site_that_the_archive_blocks_counts_as_not_archived(server: ArchiveServer, finder: Finder) -> None:
    error = "org.archive.util.io.RuntimeIOException: org.archive.wayback.exception.AdministrativeAccessControlException"
    blocked = lambda: web.Response(status=403, headers={"X-Archive-Wayback-Runtime-Error": error})  # noqa: E731
    server.answer_with("/cdx/", blocked)
    archives = finder.archives("wayback")
    for _ in range(9):
        assert await archives.find(URL, WHEN) is None
    assert len(server.log) == 9
