"""Dead pages out of web archives, over real sockets: what is asked, what is taken, and what is not believed."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import json
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fastwarc.warc import ArchiveIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from data import archive, cdx
from data.archive import Archives
from data.archivehost import ArchiveUnavailable, Fault
from data.cdx import Candidate, CaptureError, CdxError, parse_commoncrawl, parse_crawls, parse_wayback, unpack_record
from data.client import Client, Network
from data.config import PagesConfig
from data.errors import InputError
from data.schema import PageStatus
from data.warc import WarcWriter, read_payload
from tests.data.archives import (
    DATA,
    INDEX,
    WAYBACK,
    ArchiveServer,
    Held,
    memento,
    our_member,
    serving_archives,
    timestamp_of,
    warcio_member,
)

URL = "http://www.gone.example/story?a=1&b=2"
BODY = "<!doctype html><title>Gone</title><p>It was here, ünd more.".encode()
WHEN = datetime(2014, 5, 20, 12, 0, 0, tzinfo=UTC)
NEAR = datetime(2014, 5, 1, 1, 2, 3, tzinfo=UTC)
FAR = datetime(2016, 7, 1, tzinfo=UTC)
CRAWL, LATER_CRAWL = "CC-MAIN-2014-20", "CC-MAIN-2016-30"


class Clock:
    """Seconds that pass only while something sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


@dataclass
class Finder:
    """Makes Archives against the server, with a clock that does not wait."""

    server: ArchiveServer
    folder: Path
    clock: Clock = field(default_factory=Clock)
    clients: list[Client] = field(default_factory=list)

    def archives(self, *names: str, **changes: Any) -> Archives:
        config = PagesConfig(
            **{
                "archives": names or ("commoncrawl", "wayback"),
                "archive_urls": self.server.urls,
                "connect_to": self.server.connect_to,
                **changes,
            }
        )
        client = Client(Network.of(config, self.folder))
        self.clients.append(client)
        now = lambda: datetime(2026, 11, 1, tzinfo=UTC)  # noqa: E731
        return Archives(config, client, sleep=self.clock.sleep, clock=self.clock, now=now, rng=random.Random(1))

    async def fault(self, *names: str, **changes: Any) -> tuple[str, str, str]:
        """What ``find`` raises."""
        with pytest.raises(ArchiveUnavailable) as raised:
            await self.archives(*names, **changes).find(URL, WHEN)
        return raised.value.archive, str(raised.value.fault), raised.value.detail


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving_archives() as served:
        for name, middle in ((CRAWL, NEAR), (LATER_CRAWL, FAR)):
            served.add_crawl(name, middle - timedelta(days=10), middle + timedelta(days=10))
        yield served


@pytest.fixture
async def finder(server: ArchiveServer, tmp_path: Path) -> AsyncIterator[Finder]:
    made = Finder(server, tmp_path)
    yield made
    for client in made.clients:
        await client.close()


def held(when: datetime = NEAR, url: str = URL, body: bytes = BODY, **changes: Any) -> Held:
    return Held(url, timestamp_of(when), body, **changes)


# What is found


@pytest.mark.parametrize("by", ["ours", "warcio"])
async def test_common_crawl_by_a_range_of_its_file(server: ArchiveServer, finder: Finder, by: str) -> None:
    server.hold(CRAWL, held(url="http://other.example/"), by)
    row = server.hold(CRAWL, held(headers=(("X-Robots-Tag", "noarchive"), ("X-Robots-Tag", "noai"))), by)
    server.hold(CRAWL, held(url="http://third.example/"), by)
    capture = await finder.archives("commoncrawl").find(URL, WHEN)
    assert capture is not None
    assert (capture.archive, capture.timestamp, capture.url) == ("commoncrawl", "20140501010203", URL)
    assert (capture.http_status, capture.body, capture.sha1) == (200, BODY, hashlib.sha1(BODY).digest())
    assert capture.label == "commoncrawl:20140501010203"
    assert capture.source_url == f"http://{DATA}/{row['filename']}"
    assert capture.content_type() == "text/html; charset=utf-8"
    assert [value for name, value in capture.headers if name == "X-Robots-Tag"] == ["noarchive", "noai"]
    assert int(row["offset"]) > 0


async def test_wayback_by_its_raw_capture(server: ArchiveServer, finder: Finder) -> None:
    server.wayback.append(held(headers=(("X-Robots-Tag", "noai"), ("Content-Length", "99"), ("server", "Apache"))))
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert (capture.label, capture.body, capture.sha1) == ("wayback:20140501010203", BODY, hashlib.sha1(BODY).digest())
    assert capture.source_url == f"http://{WAYBACK}/web/20140501010203id_/{URL}"
    # The archive's own headers (its server's name, its dates) are not the page's.
    assert sorted((name.lower(), value) for name, value in capture.headers) == [
        ("content-length", "99"),
        ("content-type", "text/html; charset=utf-8"),
        ("server", "Apache"),
        ("x-robots-tag", "noai"),
    ]


async def test_a_compressed_capture_is_decoded(server: ArchiveServer, finder: Finder) -> None:
    server.wayback.append(held())

    def compressed() -> web.Response:
        answer = memento(held(body=gzip.compress(BODY)))
        answer.headers["Content-Encoding"] = "gzip"
        return answer

    server.answer_with("id_/", compressed)
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert capture.body == BODY


@pytest.mark.parametrize("body", [BODY, gzip.compress(BODY)], ids=["plain", "compressed"])
async def test_the_header_content_encoding_counts_where_the_body_bears_it_out(
    server: ArchiveServer, finder: Finder, body: bytes
) -> None:
    server.hold(CRAWL, held(body=body, headers=(("Content-Encoding", "gzip"),)), "warcio")
    capture = await finder.archives("commoncrawl").find(URL, WHEN)
    assert capture is not None
    assert capture.body == BODY


async def test_the_nearest_of_all_archives(server: ArchiveServer, finder: Finder) -> None:
    server.hold(CRAWL, held(NEAR, body=b"<p>crawl"))
    server.wayback += [held(WHEN + timedelta(days=days), body=b"<p>%d" % days) for days in (-300, 3, 90)]
    archives = finder.archives()
    for when, label in (
        (WHEN, "wayback:20140523120000"),
        (NEAR, "commoncrawl:20140501010203"),
        (WHEN - timedelta(days=999), "wayback:20130724120000"),
        (None, "wayback:20140818120000"),  # of an unknown date: the latest
    ):
        capture = await archives.find(URL, when)
        assert capture is not None
        assert capture.label == label


async def test_the_nearest_crawl_that_has_it(server: ArchiveServer, finder: Finder) -> None:
    for year in range(2017, 2024):
        server.add_crawl(f"CC-MAIN-{year}-05", datetime(year, 2, 1, tzinfo=UTC), datetime(year, 2, 9, tzinfo=UTC))
    server.hold(LATER_CRAWL, held(FAR))
    server.hold("CC-MAIN-2017-05", held(datetime(2017, 2, 2, tzinfo=UTC)))
    archives = finder.archives("commoncrawl")
    capture = await archives.find(URL, WHEN)
    assert capture is not None
    assert capture.timestamp == timestamp_of(FAR)
    crawls = [path.partition("-index")[0] for path in server.asked(INDEX)]
    assert crawls == ["/collinfo.json", "/CC-MAIN-2014-20", "/CC-MAIN-2016-30"]
    assert await archives.find("http://unknown.example/", WHEN) is None
    crawls = [path.partition("-index")[0] for path in server.asked(INDEX)][3:]
    assert crawls == ["/CC-MAIN-2014-20", "/CC-MAIN-2016-30", "/CC-MAIN-2017-05", "/CC-MAIN-2018-05"]


@pytest.mark.parametrize("name", ["commoncrawl", "wayback"])
async def test_in_no_archive(server: ArchiveServer, finder: Finder, name: str) -> None:
    for other in (held(status=404), held(status=301), held(content_type="image/png"), held(url=URL + "&c=3")):
        server.hold(CRAWL, other)
        server.wayback.append(other)
    assert await finder.archives(name).find(URL, WHEN) is None


async def test_another_spelling_of_the_page_is_the_page_and_another_page_is_not(
    server: ArchiveServer, finder: Finder
) -> None:
    server.wayback += [held(url=URL.replace("story", "Story"), body=b"<p>wrong")]
    assert await finder.archives("wayback").find(URL, WHEN) is None
    server.wayback += [held(url="https://gone.example/story?b=2&a=1&utm_source=x")]
    server.answer_with("/cdx/", lambda: web.json_response(_wayback_rows(server.wayback)))
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert capture.body == BODY
    assert capture.url == "https://gone.example/story?b=2&a=1&utm_source=x"


async def test_a_star_at_the_end_asks_for_one_page(server: ArchiveServer, finder: Finder) -> None:
    url = "http://gone.example/a%2A*"
    server.wayback.append(held(url=url))
    capture = await finder.archives("wayback").find(url, WHEN)
    assert capture is not None
    assert "matchType=exact" in server.asked(WAYBACK)[0]


async def test_written_and_read_back(server: ArchiveServer, finder: Finder, tmp_path: Path) -> None:
    server.hold(CRAWL, held(headers=(("Content-Encoding", "gzip"), ("X-Odd", "caf\xe9"))))
    capture = await finder.archives("commoncrawl").find(URL, WHEN)
    assert capture is not None
    with (tmp_path / "x.warc.gz").open("w+b") as file:
        offset = capture.write(WarcWriter(file, "x.warc.gz", {}), datetime(2026, 11, 1, tzinfo=UTC))
        headers, body = read_payload(file, offset)
        assert body == BODY
        assert ("X-Crawler-Content-Encoding", "gzip") in headers
        assert ("Content-Length", str(len(BODY))) in headers
        file.seek(offset)
        record = next(iter(ArchiveIterator(file)))
        assert record.headers["WARC-Date"] == "2014-05-01T01:02:03Z"
        assert record.headers["WARC-Creation-Date"] == "2026-11-01T00:00:00Z"
        assert record.headers["WARC-Source-URI"] == capture.source_url
        assert record.verify_payload_digest()


# What is not believed


def _wayback_rows(rows: list[Held]) -> list[list[str]]:
    return [["timestamp", "original"], *([one.timestamp, one.url] for one in rows)]


def _text(text: str, status: int = 200) -> Callable[[], web.Response]:
    return lambda: web.Response(text=text, status=status)


NO_CDX = {
    "html": _text("<html>hello"),
    "empty": _text(""),
    "an object": _text("{}"),
    "a number": _text("7"),
    "no header": _text('[["20140501010203", "http://www.gone.example/"]]'),
    "not UTF-8": lambda: web.Response(body=b'[["timestamp", "original"], ["\xff", "\xfe"]]'),
    "huge": lambda: web.Response(body=b" " * 3_000_000),
    "deep": lambda: web.Response(body=b"[" * 1_000_000),
    "rows of nothing": _text('[["timestamp", "original"], [], 3, null, {"a": 1}]'),
}


@pytest.mark.parametrize("name", NO_CDX)
async def test_wayback_does_not_speak_cdx(server: ArchiveServer, finder: Finder, name: str) -> None:
    server.answer_with("/cdx/", NO_CDX[name])
    archive_name, fault, _ = await finder.fault("wayback")
    assert (archive_name, fault) == ("wayback", "not_cdx")


NO_CRAWLS = {
    "html": _text("<html>hello"),
    "none": _text("[]"),
    "an object": _text("{}"),
    "no names": _text('[{"id": 3}, {"id": "../x"}, {}, null, 7]'),
    "huge": lambda: web.Response(body=b" " * 3_000_000),
}


@pytest.mark.parametrize("name", NO_CRAWLS)
async def test_no_list_of_crawls(server: ArchiveServer, finder: Finder, name: str) -> None:
    server.answer_with("collinfo", NO_CRAWLS[name], None)
    archives = finder.archives("commoncrawl")
    with pytest.raises(ArchiveUnavailable) as raised:
        await archives.find(URL, WHEN)
    assert raised.value.fault == Fault.NOT_CDX
    assert await archives.find(URL, WHEN) is None  # it is asked for again, and then there is one


NO_INDEX = {
    "html": (_text("<html>hello"), "not_cdx"),
    "a list": (_text("[1]"), "not_cdx"),
    "no file": (_text(json.dumps({"timestamp": "20140501010203", "url": URL})), "not_cdx"),
    "a file of another place": (_text(json.dumps({"filename": "crawl-data/../x.warc.gz", "url": URL})), "not_cdx"),
    "huge": (lambda: web.Response(body=b"\n" * 3_000_000), "not_cdx"),
    "no such index": (_text("Not Found", 404), "refused"),
    "none, with 200": (_text('{"message": "No Captures found for: x"}'), "not_cdx"),
    "redirect": (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1/"}), "refused"),
}


@pytest.mark.parametrize("name", NO_INDEX)
async def test_common_crawl_does_not_speak_cdx(server: ArchiveServer, finder: Finder, name: str) -> None:
    answer, fault = NO_INDEX[name]
    server.answer_with("-index", answer)
    assert (await finder.fault("commoncrawl"))[:2] == ("commoncrawl", fault)


@dataclass(frozen=True)
class Lie:
    """How a capture of Common Crawl is not what its index says, and what is said of it."""

    detail: str
    changes: dict[str, str] = field(default_factory=dict)  # of the index's row
    member: bytes | None = None  # in the record's place
    answer: Callable[[], web.Response] | None = None
    config: dict[str, Any] = field(default_factory=dict)


MEMBER = our_member(held())
PLAIN = gzip.decompress(MEMBER)
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
async def test_a_capture_is_not_what_the_index_says(server: ArchiveServer, finder: Finder, name: str) -> None:
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
    "not archived": (_text("not archived", 404), "not a capture"),
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
async def test_a_replay_is_no_page(server: ArchiveServer, finder: Finder, name: str) -> None:
    answer, detail = REPLAYS[name]
    server.wayback.append(held())
    server.answer_with("id_/", answer)
    limits = {"max_wire_bytes": 1000} if name == "huge" else {}
    assert await finder.fault("wayback", **limits) == ("wayback", "bad_capture", detail)


async def test_the_next_capture_is_tried(server: ArchiveServer, finder: Finder) -> None:
    server.wayback += [held(WHEN + timedelta(days=days), body=b"<p>%d" % days) for days in (1, -2, 3, 4)]
    server.answer_with(timestamp_of(WHEN + timedelta(days=1)) + "id_", _text("broken", 404))
    server.answer_with(timestamp_of(WHEN - timedelta(days=2)) + "id_", _text("broken", 404))
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert capture.body == b"<p>3"


async def test_no_more_than_three_captures_are_tried(server: ArchiveServer, finder: Finder) -> None:
    server.wayback += [held(WHEN + timedelta(days=days)) for days in range(9)]
    server.answer_with("id_/", _text("broken", 404))
    assert (await finder.fault("wayback"))[1] == "bad_capture"
    assert len([path for path in server.asked(WAYBACK) if "id_/" in path]) == 3


async def test_one_archive_fails_and_the_other_has_it(server: ArchiveServer, finder: Finder) -> None:
    server.hold(CRAWL, held())
    server.answer_with(WAYBACK, _text("down", 503))
    archives = finder.archives()
    capture = await archives.find(URL, WHEN)
    assert capture is not None
    assert capture.archive == "commoncrawl"
    with pytest.raises(ArchiveUnavailable, match=r"wayback: (busy|given_up)"):
        await archives.find("http://unknown.example/", WHEN)  # in the one it is not; of the other, who knows


async def test_a_site_that_is_not_shown_is_not_in_the_archive(server: ArchiveServer, finder: Finder) -> None:
    error = "org.archive.util.io.RuntimeIOException: org.archive.wayback.exception.AdministrativeAccessControlException"
    blocked = lambda: web.Response(status=403, headers={"X-Archive-Wayback-Runtime-Error": error})  # noqa: E731
    server.answer_with("/cdx/", blocked)
    archives = finder.archives("wayback")
    for _ in range(9):
        assert await archives.find(URL, WHEN) is None
    assert len(server.log) == 9


# How they are asked


async def test_one_request_at_a_time_with_a_delay(server: ArchiveServer, tmp_path: Path) -> None:
    for n in range(3):
        server.hold(CRAWL, held(url=f"http://gone.example/{n}"))
        server.wayback.append(held(WHEN, url=f"http://gone.example/{n}"))
    config = PagesConfig(
        archives=("commoncrawl", "wayback"),
        archive_urls=server.urls,
        connect_to=server.connect_to,
        host_delay_s=0.05,
    )
    client = Client(Network.of(config, tmp_path))
    try:
        archives = Archives(config, client)
        found = await asyncio.gather(*(archives.find(f"http://gone.example/{n}", WHEN) for n in range(3)))
    finally:
        await client.close()
    assert all(capture is not None and capture.archive == "wayback" for capture in found)
    assert set(server.most_busy.values()) == {1}
    for host in (INDEX, WAYBACK):
        times = sorted((began, ended) for began, ended, url in server.log if url.startswith(host))
        assert len(times) >= 4
        for (_, ended), (began, _) in itertools.pairwise(times):
            assert began - ended >= 0.045
    assert server.asked(INDEX).count("/collinfo.json") == 1  # three were looking for it at once


async def test_the_first_request_waits_for_a_delay_too(server: ArchiveServer, finder: Finder) -> None:
    await finder.archives("wayback", host_delay_s=7.0).find(URL, WHEN)
    assert finder.clock.slept == [7.0]


async def test_it_is_asked_again_after_backing_off(server: ArchiveServer, finder: Finder) -> None:
    server.wayback.append(held())
    server.answer_with("/cdx/", _text("slow down", 503), _text("slow down", 429), None)
    assert await finder.archives("wayback", backoff_s=10.0).find(URL, WHEN) is not None
    first, second, third, fourth = finder.clock.slept
    assert first == fourth == 1.0
    assert 5.0 <= second <= 15.0
    assert 10.0 <= third <= 30.0


@pytest.mark.parametrize(
    ("header", "waited"),
    [("120", 120.0), ("Sun, 01 Nov 2026 00:02:00 GMT", 120.0), ("-3", None), ("soon", None)],
)
async def test_retry_after(server: ArchiveServer, finder: Finder, header: str, waited: float | None) -> None:
    server.answer_with("/cdx/", lambda: web.Response(status=429, headers={"Retry-After": header}), None)
    assert await finder.archives("wayback").find(URL, WHEN) is None
    if waited is not None:
        assert finder.clock.slept[1] == waited
    else:
        assert 2.5 <= finder.clock.slept[1] <= 7.5


async def test_a_longer_pause_than_we_wait_gives_the_archive_up(server: ArchiveServer, finder: Finder) -> None:
    server.answer_with("/cdx/", lambda: web.Response(status=503, headers={"Retry-After": "86400"}))
    archives = finder.archives("wayback")
    for fault in (Fault.BUSY, Fault.GIVEN_UP, Fault.GIVEN_UP):
        with pytest.raises(ArchiveUnavailable) as raised:
            await archives.find(URL, WHEN)
        assert raised.value.fault == fault
    assert len(server.log) == 1


async def test_the_breaker_opens_tries_once_and_gives_up(server: ArchiveServer, finder: Finder) -> None:
    server.answer_with("/cdx/", _text("down", 500))
    archives = finder.archives("wayback", max_attempts=1, breaker_failures=3, breaker_pause_s=500.0, backoff_s=0.0)
    faults = []
    for _ in range(6):
        with pytest.raises(ArchiveUnavailable) as raised:
            await archives.find(URL, WHEN)
        faults.append(raised.value.fault)
    assert faults == [Fault.BUSY] * 4 + [Fault.GIVEN_UP] * 2
    assert finder.clock.slept == [1.0, 1.0, 1.0, 500.0]
    assert len(server.log) == 4


async def test_the_breaker_closes_when_it_answers_again(server: ArchiveServer, finder: Finder) -> None:
    down = _text("down", 500)
    server.answer_with("/cdx/", down, down, down, None, down, down, None)
    archives = finder.archives("wayback", max_attempts=1, breaker_failures=3, breaker_pause_s=500.0, backoff_s=0.0)
    outcomes: list[bool] = []
    for _ in range(8):
        try:
            outcomes.append(await archives.find(URL, WHEN) is None)
        except ArchiveUnavailable:
            outcomes.append(False)
    assert outcomes == [False, False, False, True, False, False, True, True]
    assert finder.clock.slept.count(500.0) == 1


async def test_refused(server: ArchiveServer, finder: Finder) -> None:
    server.answer_with(INDEX, _text("blocked", 403))
    assert await finder.fault("commoncrawl") == ("commoncrawl", "refused", "403")


async def test_nobody_is_there(server: ArchiveServer, finder: Finder) -> None:
    fault = await finder.fault("wayback", connect_to=("*.archive.example=127.0.0.1:1",))
    assert fault == ("wayback", "unreachable", "connect_failure")


async def test_the_guard_holds_for_archives(server: ArchiveServer, finder: Finder) -> None:
    urls = replace(server.urls, wayback=f"http://127.0.0.1:{server.port}")
    fault = await finder.fault("wayback", archive_urls=urls, connect_to=())
    assert fault == ("wayback", "unreachable", "forbidden_address")
    assert server.log == []


async def test_silence(server: ArchiveServer, finder: Finder) -> None:
    release = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    silent = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    try:
        fault = await finder.fault("wayback", connect_to=(f"*=127.0.0.1:{port}",), read_timeout_s=0.1, max_attempts=2)
    finally:
        release.set()
        silent.close()
    assert fault == ("wayback", "unreachable", "timeout")


def test_an_unknown_archive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--archive 'archive.is': not a web archive known here"):
        Archives(PagesConfig(archives=("archive.is",)), client=None)  # type: ignore[arg-type]


def test_what_is_looked_up() -> None:
    kept = set(PageStatus) - archive.DEAD
    assert PageStatus.NOT_FOUND in archive.DEAD
    assert {status for status in kept if status.startswith(("robots", "opt_out"))} == {
        PageStatus.ROBOTS_DISALLOWED,
        PageStatus.ROBOTS_UNREACHABLE,
        PageStatus.OPT_OUT_X_ROBOTS_TAG,
        PageStatus.OPT_OUT_META_ROBOTS,
        PageStatus.OPT_OUT_CONTENT_SIGNAL,
        PageStatus.OPT_OUT_TDM,
    }
    assert {PageStatus.OK, PageStatus.FORBIDDEN_ADDRESS, PageStatus.RATE_LIMITED, PageStatus.DEFERRED} <= kept


# The formats


def test_times_of_crawls() -> None:
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


def test_real_rows() -> None:
    """A row as index.commoncrawl.org gave it in 2025."""
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
def test_the_same_page(other: str, is_same: bool) -> None:
    rows = [["timestamp", "original"], ["20140501010203", other]]
    assert bool(parse_wayback(json.dumps(rows).encode(), URL, "http://x")) == is_same


CANDIDATE = Candidate("commoncrawl", "20140501010203", URL, "http://x/")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(PLAIN) - 1), st.binary(max_size=40), st.integers(0, 40))
def test_a_damaged_record_is_a_typed_outcome(position: int, put: bytes, cut: int) -> None:
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
def test_any_answer_is_cdx_or_a_typed_outcome(body: bytes) -> None:
    for parse in (
        lambda: parse_wayback(body, URL, "http://x"),
        lambda: parse_commoncrawl(body, URL, "http://x"),
        lambda: parse_crawls(body),
    ):
        try:
            parse()
        except CdxError:
            continue


def test_a_bomb_is_not_decompressed_whole() -> None:
    member = gzip.compress(bytes(300_000_000), 1)
    tracemalloc.start()
    try:
        with pytest.raises(CaptureError, match="too many bytes"):
            unpack_record(member, CANDIDATE, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
