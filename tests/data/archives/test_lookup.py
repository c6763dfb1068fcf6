"""Dead pages from web archives, over real sockets: which captures are found, and how the archives are queried."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from fastwarc.warc import ArchiveIterator

from data.archives import lookup as archive
from data.archives.host import ArchiveUnavailable, Fault
from data.archives.lookup import Archives
from data.config import PagesConfig
from data.errors import InputError
from data.http.client import Client, Network
from data.schema import PageStatus
from data.warc import WarcWriter, read_payload
from tests.data.archives.finding import BODY, CRAWL, FAR, LATER_CRAWL, NEAR, URL, WHEN, Finder, answering, held
from tests.data.archives.server import DATA, INDEX, WAYBACK, ArchiveServer, Held, memento, timestamp_of

# Captures


@pytest.mark.parametrize("by", ["ours", "warcio"])
async def test_common_crawl_capture_is_read_by_range(server: ArchiveServer, finder: Finder, by: str) -> None:
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


async def test_wayback_capture_is_read_raw(server: ArchiveServer, finder: Finder) -> None:
    server.wayback.append(held(headers=(("X-Robots-Tag", "noai"), ("Content-Length", "99"), ("server", "Apache"))))
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert (capture.label, capture.body, capture.sha1) == ("wayback:20140501010203", BODY, hashlib.sha1(BODY).digest())
    assert capture.source_url == f"http://{WAYBACK}/web/20140501010203id_/{URL}"
    # The archive's own headers (server name, dates) do not belong to the page.
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
async def test_content_encoding_counts_only_if_the_body_confirms_it(
    server: ArchiveServer, finder: Finder, body: bytes
) -> None:
    server.hold(CRAWL, held(body=body, headers=(("Content-Encoding", "gzip"),)), "warcio")
    capture = await finder.archives("commoncrawl").find(URL, WHEN)
    assert capture is not None
    assert capture.body == BODY


async def test_the_nearest_capture_of_all_archives_is_chosen(server: ArchiveServer, finder: Finder) -> None:
    server.hold(CRAWL, held(NEAR, body=b"<p>crawl"))
    server.wayback += [held(WHEN + timedelta(days=days), body=b"<p>%d" % days) for days in (-300, 3, 90)]
    archives = finder.archives()
    for when, label in (
        (WHEN, "wayback:20140523120000"),
        (NEAR, "commoncrawl:20140501010203"),
        (WHEN - timedelta(days=999), "wayback:20130724120000"),
        (None, "wayback:20140818120000"),  # no known date: the latest
    ):
        capture = await archives.find(URL, when)
        assert capture is not None
        assert capture.label == label


async def test_the_nearest_crawl_with_the_page_is_chosen(server: ArchiveServer, finder: Finder) -> None:
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
async def test_a_page_in_no_archive_is_not_found(server: ArchiveServer, finder: Finder, name: str) -> None:
    for other in (held(status=404), held(status=301), held(content_type="image/png"), held(url=URL + "&c=3")):
        server.hold(CRAWL, other)
        server.wayback.append(other)
    assert await finder.archives(name).find(URL, WHEN) is None


async def test_other_spellings_of_the_url_match_and_other_pages_do_not(server: ArchiveServer, finder: Finder) -> None:
    server.wayback += [held(url=URL.replace("story", "Story"), body=b"<p>wrong")]
    assert await finder.archives("wayback").find(URL, WHEN) is None
    server.wayback += [held(url="https://gone.example/story?b=2&a=1&utm_source=x")]
    server.answer_with("/cdx/", lambda: web.json_response(_wayback_rows(server.wayback)))
    capture = await finder.archives("wayback").find(URL, WHEN)
    assert capture is not None
    assert capture.body == BODY
    assert capture.url == "https://gone.example/story?b=2&a=1&utm_source=x"


def _wayback_rows(rows: list[Held]) -> list[list[str]]:
    return [["timestamp", "original"], *([one.timestamp, one.url] for one in rows)]


async def test_a_star_at_the_end_is_not_a_wildcard(server: ArchiveServer, finder: Finder) -> None:
    url = "http://gone.example/a%2A*"
    server.wayback.append(held(url=url))
    capture = await finder.archives("wayback").find(url, WHEN)
    assert capture is not None
    assert "matchType=exact" in server.asked(WAYBACK)[0]


async def test_a_capture_is_written_and_read_back(server: ArchiveServer, finder: Finder, tmp_path: Path) -> None:
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


# Requests


async def test_an_archive_gets_one_request_at_a_time_with_a_delay(server: ArchiveServer, tmp_path: Path) -> None:
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
    assert server.asked(INDEX).count("/collinfo.json") == 1  # three look-ups ran at once


async def test_the_first_request_waits_for_the_delay_too(server: ArchiveServer, finder: Finder) -> None:
    await finder.archives("wayback", host_delay_s=7.0).find(URL, WHEN)
    assert finder.clock.slept == [7.0]


async def test_a_busy_archive_is_asked_again_after_a_back_off(server: ArchiveServer, finder: Finder) -> None:
    server.wayback.append(held())
    server.answer_with("/cdx/", answering("slow down", 503), answering("slow down", 429), None)
    assert await finder.archives("wayback", backoff_s=10.0).find(URL, WHEN) is not None
    first, second, third, fourth = finder.clock.slept
    assert first == fourth == 1.0
    assert 5.0 <= second <= 15.0
    assert 10.0 <= third <= 30.0


@pytest.mark.parametrize(
    ("header", "waited"),
    [("120", 120.0), ("Sun, 01 Nov 2026 00:02:00 GMT", 120.0), ("-3", None), ("soon", None)],
)
async def test_retry_after_is_honoured(
    server: ArchiveServer, finder: Finder, header: str, waited: float | None
) -> None:
    server.answer_with("/cdx/", lambda: web.Response(status=429, headers={"Retry-After": header}), None)
    assert await finder.archives("wayback").find(URL, WHEN) is None
    if waited is not None:
        assert finder.clock.slept[1] == waited
    else:
        assert 2.5 <= finder.clock.slept[1] <= 7.5


async def test_a_retry_after_beyond_the_limit_gives_the_archive_up(server: ArchiveServer, finder: Finder) -> None:
    server.answer_with("/cdx/", lambda: web.Response(status=503, headers={"Retry-After": "86400"}))
    archives = finder.archives("wayback")
    for fault in (Fault.BUSY, Fault.GIVEN_UP, Fault.GIVEN_UP):
        with pytest.raises(ArchiveUnavailable) as raised:
            await archives.find(URL, WHEN)
        assert raised.value.fault == fault
    assert len(server.log) == 1


async def test_the_breaker_opens_then_tries_once_and_gives_up(server: ArchiveServer, finder: Finder) -> None:
    server.answer_with("/cdx/", answering("down", 500))
    archives = finder.archives("wayback", max_attempts=1, breaker_failures=3, breaker_pause_s=500.0, backoff_s=0.0)
    faults = []
    for _ in range(6):
        with pytest.raises(ArchiveUnavailable) as raised:
            await archives.find(URL, WHEN)
        faults.append(raised.value.fault)
    assert faults == [Fault.BUSY] * 4 + [Fault.GIVEN_UP] * 2
    assert finder.clock.slept == [1.0, 1.0, 1.0, 500.0]
    assert len(server.log) == 4


async def test_the_breaker_closes_when_the_archive_answers_again(server: ArchiveServer, finder: Finder) -> None:
    down = answering("down", 500)
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


async def test_a_403_is_a_refusal(server: ArchiveServer, finder: Finder) -> None:
    server.answer_with(INDEX, answering("blocked", 403))
    assert await finder.fault("commoncrawl") == ("commoncrawl", "refused", "403")


async def test_a_refused_connection_makes_the_archive_unreachable(server: ArchiveServer, finder: Finder) -> None:
    fault = await finder.fault("wayback", connect_to=("*.archive.example=127.0.0.1:1",))
    assert fault == ("wayback", "unreachable", "connect_failure")


async def test_the_guard_applies_to_archives(server: ArchiveServer, finder: Finder) -> None:
    urls = replace(server.urls, wayback=f"http://127.0.0.1:{server.port}")
    fault = await finder.fault("wayback", archive_urls=urls, connect_to=())
    assert fault == ("wayback", "unreachable", "forbidden_address")
    assert server.log == []


async def test_a_silent_archive_is_unreachable(server: ArchiveServer, finder: Finder) -> None:
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


def test_an_unknown_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--archive 'archive.is': not a known web archive"):
        Archives(PagesConfig(archives=("archive.is",)), client=None)  # type: ignore[arg-type]


def test_refused_and_opted_out_pages_are_never_looked_up() -> None:
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
