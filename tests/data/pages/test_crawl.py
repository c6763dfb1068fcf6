"""What a fetched part contains (rows, handoffs, WARC records), and which resources it uses."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import hashlib
import socket
import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import brotli
import pytest
from warcio.archiveiterator import ArchiveIterator

from data.errors import InputError
from data.http.guard import Guard
from data.lake.store import Lake
from data.pages.answers import Known
from data.pages.segments import Segments
from data.schema import VOLATILE
from data.warc import payload_digest
from tests.data.http.hostile import HTML, PAGE, TDMREP, Request, Web, in_turn, raw, redirect, reply
from tests.data.pages.crawling import URL, Crawler, as_link, fill, host_urls


def _records(crawl: Crawler, kind: str) -> list[tuple[dict[str, str], dict[str, str], bytes]]:
    """WARC headers, HTTP headers and body of the records of one type, read by an independent reader."""
    found = []
    for path in sorted((crawl.folder / "lake" / "pages" / "s1").glob("*.warc.gz")):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                if record.rec_type == kind:
                    http = dict(record.http_headers.headers) if record.http_headers else {}
                    found.append((dict(record.rec_headers.headers), http, record.content_stream().read()))
    return found


def test_a_page_gives_a_row_and_records(web: Web, crawl: Crawler) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    web[URL] = reply(gzip.compress(PAGE), content_encoding="gzip", etag='"v1"', last_modified="yesterday")
    row = crawl.one()
    assert before <= row.pop("fetched_at") <= datetime.now(UTC)
    assert row == {
        "canonical_url": URL,
        "final_url": URL,
        "status": "ok",
        "reason": "",
        "http_status": 200,
        "payload_digest": payload_digest(hashlib.sha1(PAGE).digest()),
        "content_type": "text/html; charset=utf-8",
        "warc_file": "part-00000-00000.warc.gz",
        "warc_offset": row["warc_offset"],
        "etag": '"v1"',
        "last_modified": "yesterday",
        "archive": None,
        "domain": "site.example",
        "karma": 3,
    }
    assert crawl.body(row) == PAGE
    ((warc, http, body),) = _records(crawl, "response")
    assert (warc["WARC-Target-URI"], body) == (URL, PAGE)
    assert http["X-Crawler-content-encoding"] == "gzip"
    ((warc, http, _),) = _records(crawl, "request")
    assert (http["Host"], warc["WARC-Target-URI"]) == ("www.site.example", URL)


def test_same_payload_is_written_once(web: Web, crawl: Crawler) -> None:
    """Pages of other hosts count too. The records that refer to the payload name its page."""
    urls = fill(web, host_urls("www.site.example", "www.other.example", n=2), reply())
    web["www.site.example/1"] = reply(PAGE + b"!")
    fetched = crawl(*urls)
    assert fetched.statuses() == ["ok"] * 4
    assert len(_records(crawl, "response")) == 2
    revisits = _records(crawl, "revisit")
    assert len(revisits) == 2
    first = {crawl.body(row): row for row in fetched.rows}
    for warc, _, body in revisits:
        assert warc["WARC-Profile"].endswith("/revisit/identical-payload-digest")
        assert warc["WARC-Payload-Digest"] == first[PAGE]["payload_digest"]
        assert warc["WARC-Refers-To-Target-URI"] in urls
        assert body == b""
    assert len({(row["warc_file"], row["warc_offset"]) for row in fetched.rows}) == 2
    assert [crawl.body(row) for row in fetched.rows].count(PAGE) == 3


def test_same_payload_in_another_encoding_is_written_once(web: Web, crawl: Crawler) -> None:
    """The payload is stored decoded, so records that refer to it do not claim an encoding."""
    web["www.site.example/0"] = reply(brotli.compress(PAGE), content_encoding="br")
    web["www.site.example/1"] = reply(gzip.compress(PAGE), content_encoding="gzip")
    web["www.site.example/2"] = reply(brotli.compress(PAGE), content_encoding="br")
    fetched = crawl(*host_urls("www.site.example", n=3))
    assert [crawl.body(row) for row in fetched.rows] == [PAGE] * 3
    for kind, codings in (("response", ["br"]), ("revisit", ["gzip", "br"])):
        found = [{name.lower(): value for name, value in http.items()} for _, http, _ in _records(crawl, kind)]
        assert [http["x-crawler-content-encoding"] for http in found] == codings
        assert not any("content-encoding" in http for http in found)


KNOWN = Known(
    '"v1"', None, payload_digest(b"x" * 20), "text/html", "s0/part-00000-00000.warc.gz", 77, 1_700_000_000_000
)


def test_unchanged_page_points_to_the_earlier_refresh(web: Web, crawl: Crawler) -> None:
    """After a 304 to a conditional request, the row points to the record of the earlier refresh."""
    web[URL] = raw(b'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n\r\n')
    row = crawl.one(known={URL: KNOWN})
    asked = web.requests("www.site.example")[-1].headers
    assert asked["if-none-match"] == '"v1"'
    assert "if-modified-since" not in asked
    assert (row["status"], row["http_status"], row["reason"]) == ("ok", 304, "")
    assert (row["warc_file"], row["warc_offset"]) == (KNOWN.warc_file, KNOWN.warc_offset)
    assert (row["payload_digest"], row["etag"]) == (KNOWN.payload_digest, '"v1"')
    ((warc, _, _),) = _records(crawl, "revisit")
    assert warc["WARC-Profile"].endswith("/revisit/server-not-modified")
    assert warc["WARC-Payload-Digest"] == KNOWN.payload_digest
    assert warc["WARC-Refers-To-Date"] == "2023-11-14T22:13:20Z"
    assert _records(crawl, "response") == []


def test_changed_page_is_written_again(web: Web, crawl: Crawler) -> None:
    web[URL] = reply(etag='"v2"')
    row = crawl.one(known={URL: KNOWN._replace(last_modified="Tue, 14 Nov 2023 22:13:20 GMT")})
    assert web.requests("www.site.example")[-1].headers["if-modified-since"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert (row["status"], row["http_status"], row["etag"]) == ("ok", 200, '"v2"')
    assert crawl.body(row) == PAGE


@pytest.mark.parametrize(
    ("answer", "status", "http_status"),
    [
        (reply(b"", "404 No"), "not_found", 404),
        (raw(b"HTTP/1.1 304 Not Modified\r\nX-Robots-Tag: noai\r\n\r\n"), "opt_out_x_robots_tag", 304),
        (redirect("http://www.site.example/page"), "redirect_loop", 302),
    ],
    ids=["gone", "opted_out_since", "redirect"],
)
def test_known_page_that_is_gone_or_moved_gets_its_new_status(
    web: Web, crawl: Crawler, answer: Any, status: str, http_status: int
) -> None:
    web[URL] = answer
    row = crawl.one(known={URL: KNOWN})
    assert (row["status"], row["http_status"], row["warc_file"]) == (status, http_status, None)


def test_conditions_are_sent_only_for_their_own_url(web: Web, crawl: Crawler) -> None:
    """The request for a redirect's target carries the target's own conditions. The request before it carries none."""
    web["www.site.example/old"] = redirect(URL)
    web[URL] = raw(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    row = crawl.one("http://www.site.example/old", known={URL: KNOWN})
    assert (row["http_status"], row["final_url"]) == (304, URL)
    assert ["if-none-match" in request.headers for request in web.log[2:]] == [False, True]


def test_handoff_carries_the_redirect_chain(web: Web, crawl: Crawler) -> None:
    web[URL] = redirect("/two")
    web["www.site.example/two"] = redirect("http://short.example/x#part")
    fetched = crawl(URL)
    assert fetched.rows == []
    (handoff,) = fetched.handoffs
    assert handoff == {
        "canonical_url": URL,
        "target_url": "http://short.example/x",
        "karma": 3,
        "seen": [URL, "http://www.site.example/two"],
    }
    assert web.asked("short.example") == []
    web["short.example/x"] = redirect(URL)
    assert crawl.one(as_link(handoff))["status"] == "redirect_loop"  # back to a URL seen in another part
    web["short.example/x"] = redirect("/y")
    assert crawl.one(as_link(handoff), max_redirects=2)["status"] == "redirect_limit"


def test_a_redirect_to_an_archived_copy_leads_to_its_original(web: Web, crawl: Crawler) -> None:
    web[URL] = redirect("https://web.archive.org/web/2020/http://other.example/x?a=1")
    fetched = crawl(URL)
    assert fetched.rows == []
    (handoff,) = fetched.handoffs
    assert handoff["target_url"] == "http://other.example/x?a=1"
    assert web.asked("web.archive.org") == web.asked("other.example") == []
    web[URL] = redirect("https://archive.is/2020/http://blocked.example/x")
    assert crawl.one(URL)["status"] == "redirect_bad"
    web[URL] = redirect("https://web.archive.org/web/2020/http://www.site.example/new")
    web["www.site.example/new"] = reply()
    assert crawl.one(URL)["final_url"] == "http://www.site.example/new"
    assert web.asked("web.archive.org") == web.asked("archive.is") == []


def test_request_identifies_the_crawler(web: Web, crawl: Crawler) -> None:
    web[URL] = reply()
    crawl(URL, contact="https://us.example/bot")
    assert web.asked("www.site.example") == ["/robots.txt", TDMREP, "/page"]
    for request in web.log:
        assert request.headers["user-agent"].startswith("WebTextBot/")
        assert request.headers["user-agent"].endswith(" (+https://us.example/bot)")
        assert request.headers["host"] == "www.site.example"  # the name, not the address it resolved to
        assert request.headers["accept-encoding"] == "gzip, deflate, br"  # encodings that we decode with bounded memory
        assert request.headers["accept"] == "text/html,application/xhtml+xml"


def test_one_connection_per_host(web: Web, crawl: Crawler) -> None:
    """The connection stays open between requests, through the delay."""
    urls = fill(web, host_urls("www.site.example", "www.other.example", n=5), reply())
    crawl(*urls, host_delay_s=0.02)
    for host in ("www.site.example", "www.other.example"):
        assert len({request.connection for request in web.requests(host)}) == 1
    assert len(web.opened) == 2


def test_connection_that_the_server_closes_is_not_reused(web: Web, crawl: Crawler) -> None:
    urls = fill(web, host_urls("www.site.example", n=4), reply(connection="close"))
    crawl(*urls)
    assert len({request.connection for request in web.log}) == 4  # the first also serves robots.txt and tdmrep.json
    assert len(web.log) == 6


def test_links_of_a_host_are_fetched_in_order(web: Web, crawl: Crawler) -> None:
    urls = fill(web, host_urls("www.site.example", n=8), reply())
    order = [urls[n] for n in (5, 0, 7, 2, 1, 6, 4, 3)]
    crawl(*order)
    assert web.asked("www.site.example")[2:] == ["/" + url[-1] for url in order]


def test_bodies_too_large_for_memory_are_complete(web: Web, crawl: Crawler) -> None:
    """Bodies larger than the memory limit, from several hosts at the same time."""
    bodies = {f"http://h{n}.site{n}.example/x": b"<p>" + bytes([65 + n]) * 700_000 for n in range(5)}
    for url, body in bodies.items():
        web[url] = reply(gzip.compress(body), content_encoding="gzip")
    fetched = crawl(*bodies)
    assert {row["canonical_url"]: crawl.body(row) for row in fetched.rows} == bodies


def test_two_crawls_give_the_same_rows(web: Web, crawl: Crawler) -> None:
    """Rows follow the order of the links and differ only in volatile columns, whatever order the answers arrive in."""
    for n in range(20):
        web[f"h{n % 7}.site.example/{n}"] = reply(b"<p>%d" % n) if n % 3 else redirect("http://else.example/")
    urls = [f"http://h{n % 7}.site.example/{n}" for n in range(22)]
    runs = [crawl(*urls), crawl(*reversed(urls), max_connections=1, segment_rows=3)]
    rows = [[{k: v for k, v in row.items() if k not in VOLATILE} for row in run.rows] for run in runs]
    assert rows[0] == rows[1]
    assert runs[0].handoffs == runs[1].handoffs
    assert [row["canonical_url"] for row in rows[0]] == sorted(row["canonical_url"] for row in rows[0])
    assert len(rows[0]) + len(runs[0].handoffs) == 22


def test_full_disk_is_an_error_and_not_a_status(web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part ends with the original error, no page is blamed, and sealed segments stay."""
    urls = fill(web, host_urls("www.site.example", n=6), reply())
    write, n_written = Segments.page, 0

    def full(self: Segments, *arguments: Any) -> tuple[str, int]:
        nonlocal n_written
        n_written += 1
        if n_written > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *arguments)

    monkeypatch.setattr(Segments, "page", full)
    with pytest.raises(OSError, match="No space left"):
        crawl(*urls, segment_rows=2, host_delay_s=0.05, part="part-00000")
    assert "/4" in web.asked("www.site.example")
    monkeypatch.undo()
    sealed = crawl.dataset.sealed()
    assert sum(part.rows_in for part in sealed.values()) == 4
    assert crawl.dataset.verify(list(sealed.values())) is None


def test_full_disk_while_sealing_a_segment_ends_the_part(
    web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error happens in a thread. It still ends the part, and is reported once."""
    gc.collect()
    caplog.clear()
    urls = fill(web, host_urls("www.site.example", n=6), reply())

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Lake, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        crawl(*urls, segment_rows=2, host_delay_s=0.05)
    assert crawl.dataset.sealed() == {}
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


def test_too_many_open_files_is_an_error_and_not_a_status(
    web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Guard, "socket", full)
    with pytest.raises(InputError, match="too many open files: raise `ulimit -n` or lower max_connections"):
        crawl.one()


def test_decompression_bombs_use_bounded_memory(web: Web, crawl: Crawler) -> None:
    """Twenty bombs at once, each decoded up to 5 MB, are kept on disk."""
    bomb = gzip.compress(bytes(20_000_000))
    urls = fill(web, host_urls(*(f"h{n}.site{n}.example" for n in range(20))), reply(bomb, content_encoding="gzip"))
    fetched, peak_bytes = _peak_bytes(crawl, urls, max_decoded_bytes=5_000_000)
    assert set(fetched) == {"decoded_too_large"}
    assert peak_bytes < 30_000_000


@pytest.mark.parametrize("what", ["trailer", "header", "chunk_extension", "reason"])
def test_endless_parts_of_a_response_use_bounded_memory(web: Web, crawl: Crawler, what: str) -> None:
    """A trailer, header, chunk extension or reason of 100 MB is not held in memory."""
    chunked = HTML + b"Transfer-Encoding: chunked\r\n\r\n"
    begin = {
        "trailer": chunked + b"3\r\n<p>\r\n0\r\nX: ",
        "header": HTML + b"X: ",
        "chunk_extension": chunked + b"3;x=",
        "reason": b"HTTP/1.1 200 ",
    }[what]
    web[URL] = in_turn(raw(begin, *[b"a" * 1_000_000] * 100, pause_s=0, then="close"))
    (status,), peak_bytes = _peak_bytes(crawl, [URL], max_attempts=1)
    assert status in ("protocol_error", "too_large")
    assert peak_bytes < 20_000_000


def _peak_bytes(crawl: Crawler, urls: Sequence[str], **settings: Any) -> tuple[list[str], int]:
    tracemalloc.start()
    try:
        fetched = crawl(*urls, **settings)
        return fetched.statuses(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_part_without_links_fetches_nothing(crawl: Crawler) -> None:
    fetched = crawl()
    assert (fetched.rows, fetched.handoffs) == ([], [])


def test_an_error_leaves_no_tasks_running(web: Web, crawl: Crawler, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other exchanges in flight end, their connections close, and the error is raised."""

    async def later(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await reply()(request, writer)

    urls = [*fill(web, host_urls(*(f"www.site{n}.example" for n in range(5))), raw(b"", then="hang"))]
    urls += fill(web, host_urls("www.last.example"), later)
    monkeypatch.setattr(Segments, "page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        crawl(*urls)
    assert not list((crawl.folder / "lake" / "tmp").iterdir())
