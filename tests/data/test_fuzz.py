"""Random answers: for any bytes, each link ends in one row, in time and in bounded memory.

Answers combine usual and unusual parts, which are then cut, doubled and bent. Some take the place of robots.txt or
tdmrep.json. Every check runs a few; the slow tests run many more.
"""

from __future__ import annotations

import gc
import gzip
import logging
import os
import tempfile
import time
import tracemalloc
import zlib
from hashlib import sha1
from pathlib import Path
from typing import Any

import brotli
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from data.schema import PageStatus
from data.warc import payload_digest
from tests.data.http.hostile import PAGE, TDMREP, Web, raw, serving
from tests.data.pages.crawling import Crawler

N_ANSWERS = 24
LIMITS = {
    "read_timeout_s": 0.4,
    "total_timeout_s": 1.2,
    "connect_timeout_s": 1.0,
    "max_wire_bytes": 200_000,
    "max_decoded_bytes": 2_000_000,
    "max_retry_after_s": 0.2,
    "max_crawl_delay_s": 0.05,
    "max_attempts": 2,
}

_NUMBERS = [
    "",
    "0",
    "1",
    "60",
    "61",
    "-1",
    "+5",
    "1.5",
    "0x10",
    "60, 60",
    " 60 ",
    "9" * 30,
    "\u00b2",
    "1e3",
    "nan",
    "inf",
]
_DATES = ["Mon, 23 Nov 2026 12:00:00 GMT", "Mon, 23 Nov 2026 12:00:00 +99999999999999", "yesterday", "0",
          "Fri, 31 Dec 9999 23:59:59 GMT",
          "Thu, 01 Jan 0001 00:00:00 -2359", "Mon, 99 Foo 99999 99:99:99 GMT"]  # fmt: skip
_VALUES: dict[str, list[str]] = {
    "Content-Length": _NUMBERS,
    "Transfer-Encoding": ["chunked", "Chunked", "gzip, chunked", "chunked, chunked", "identity", "chunked;q=1", ",",
                          "\x0bchunked"],
    "Content-Encoding": ["gzip", "br", "deflate", "identity", "zstd", "gzip, br", "GZIP", "", ",", "x-gzip",
                         "gzip;q=1"],
    "Content-Type": ["text/html", "text/html; charset=\udcff", "text/plain", "", ";", "TEXT/HTML;;;",
                     "application/xhtml+xml"],
    "Location": ["/", "/x", "", "#", "?", "//", "http://", "http://[", "http://127.0.0.1/",
                 "http://www.site0.example/page",
                 "http://other.example/", "https://x.site1.example:99/", "file:///etc/passwd", "\udcff",
                 "/\udcff\u00e4", "/" * 3000,
                 "http://a@b@c/", "http://\u2488.example/", "HTTP:/x", "http://x.example\\@y/", "javascript:1"],
    "Retry-After": _NUMBERS + _DATES,
    "X-Robots-Tag": ["noindex", "noai", "bot: noindex", "unavailable_after: " + _DATES[1],
                     "unavailable_after:" + _DATES[4], ",:,", ""],
    "Content-Signal": ["ai-train=no", "=", ",,,", "ai-train=yes, ai-train=no"],
    "TDM-Reservation": ["1", "0", "x"],
    "ETag": ['"x"', "\udcff", "W/", "", "a" * 5000],
    "Last-Modified": _DATES,
    "Set-Cookie": ["a=b", "\x01", ";;;="],
    "Connection": ["close", "keep-alive", "upgrade", ",", "close, keep-alive"],
    "Upgrade": ["h2c", "websocket", ""],
    "X": ["\0", "\r", "\t", "a" * 40_000, "\udcff" * 10],
    "": ["", "x"],
    "A B": ["x"],
}  # fmt: skip
_LINES = [
    "HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 200", "HTTP/1.1 301 Moved", "HTTP/1.1 302 F", "HTTP/1.1 304 N",
    "HTTP/1.1 404 No",
    "HTTP/1.1 429 Slow", "HTTP/1.1 503 Later", "HTTP/1.1 100 Continue", "HTTP/1.1 101 Up", "HTTP/1.1 103 Hints",
    "HTTP/1.1 204 None",
    "HTTP/1.1 206 Part", "HTTP/1.1 000 Zero", "HTTP/1.1 999 Max", "HTTP/1.1 65536 X", "HTTP/2 200", "HTTP/2.0 200 OK",
    "HTTP/0.9 200 OK",
    "http/1.1 200 ok",
    "HTTP/1.1\t200\tOK", "HTTP/1.1  200 OK", "ICY 200 OK", "", "GET / HTTP/1.1", "HTTP/1.1 200 \udcff",
]  # fmt: skip
_BODIES = [
    PAGE, b"", b"\0", b"<", PAGE * 50, b"User-agent: *\nDisallow: /x\nCrawl-delay: 99999999999999999999",
    b"User-agent: *\nCrawl-delay: 1e400",
    b"User-agent: *\nDisallow: /" + b"*" * 200 + b"$", b'[{"location": "/", "tdm-reservation": 1}]',
    b'[{"location": "*' + b"*" * 300 + b'"}]',
    b"[" * 5000, b"<head><meta name=robots content=noindex>",
    b"<meta name=robots content='unavailable_after: " + _DATES[1].encode() + b"'>",
    b"<head>" + b"<meta name=robots " * 500, b"\xff\xfe<\0h\0t\0", b"Content-Signal: ai-train=no", b"%PDF-1.4",
]  # fmt: skip


def _encoded(body: bytes) -> dict[str, bytes]:
    return {
        "plain": body,
        "gzip": gzip.compress(body),
        "members": gzip.compress(body) + gzip.compress(b"") * 20 + gzip.compress(body),
        "deflate": zlib.compress(body),
        "raw_deflate": zlib.compress(body)[2:-4],
        "brotli": brotli.compress(body, quality=1),
        "bomb": gzip.compress(body + bytes(5_000_000), 1),
        "brotli_bomb": brotli.compress(body + bytes(5_000_000), quality=1),
    }


def _chunked(body: bytes, size: int, end: bytes) -> bytes:
    size = max(size, len(body) // 300 + 1)
    return (
        b"".join(b"%x\r\n%b\r\n" % (len(body[n : n + size]), body[n : n + size]) for n in range(0, len(body), size))
        + end
    )


_CODES = {"brotli": "br", "brotli_bomb": "br", "deflate": "deflate", "raw_deflate": "deflate"}
# Further pieces of a broken answer, and meaningful words in a well-formed one.
_FRAMING = ["Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "X", "", "A B"]
_MEANING = sorted(_VALUES.keys() - set(_FRAMING))


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[bytes], str]:
    """The pieces of an answer, and what happens to the connection after them."""
    kind = draw(st.sampled_from(["meaning", "meaning", "meaning", "broken", "broken", "bytes"]))
    data = draw(st.binary(max_size=300)) if kind == "bytes" else _answer(draw, is_broken=kind == "broken")[:400_000]
    n_pieces = draw(st.integers(1, 3))
    size = len(data) // n_pieces + 1
    pieces = [data[n : n + size] for n in range(0, len(data), size)] or [b""]
    return pieces, draw(st.sampled_from(["keep", "close", "close", "reset"] if kind == "broken" else ["close"]))


def _answer(draw: st.DrawFn, *, is_broken: bool) -> bytes:
    coding = draw(st.sampled_from(sorted(_encoded(b""))))
    body = _encoded(draw(st.sampled_from(_BODIES)))[coding]
    line = draw(st.sampled_from(_LINES)) if draw(st.booleans()) else "HTTP/1.1 200 OK"
    names = draw(st.lists(st.sampled_from(_FRAMING if is_broken else _MEANING), max_size=4))
    if line[9:11] == "30":
        names.append("Location")
    if line[9:12] in ("429", "503"):
        names.append("Retry-After")
    headers = [(name, draw(st.sampled_from(_VALUES[name]))) for name in names]
    headers.append(("Content-Type", "text/html"))
    if coding != "plain":
        headers.append(("Content-Encoding", _CODES.get(coding, "gzip")))
    framing = draw(st.sampled_from(["length", "chunked", "none"]))
    if framing == "length":
        wrong = draw(st.sampled_from([-1, 0, 1, 100])) if is_broken else 0
        headers.append(("Content-Length", str(len(body) + wrong)))
    if framing == "chunked":
        headers.append(("Transfer-Encoding", "chunked"))
        end = draw(st.sampled_from(_ENDS if is_broken else _ENDS[:2]))
        body = _chunked(body, draw(st.sampled_from([1, 7, 5000])), end)
    line_end = draw(st.sampled_from(["\r\n", "\n", "\r"])) if is_broken else "\r\n"
    head = line_end.join([line, *(f"{name}: {value}" for name, value in headers), "", ""])
    data = head.encode("utf-8", "surrogateescape") + body
    for _ in range(draw(st.integers(0, 2)) if is_broken else 0):
        data = _bent(draw, data)
    return data


_ENDS = [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b"", b"-1\r\n", b"f" * 20 + b"\r\n"]


def _bent(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(st.integers(0, min(len(data), 400)))
    return draw(
        st.sampled_from(
            [
                data[:at],
                data[at:],
                data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:],
                data[:at] + data[at + 1 :],
                data[:at] + data[max(0, at - 30) :],
                data + data[:at],
            ]
        )
    )


WHERE = ["/page", "/page", "/page", "/page", "/robots.txt", TDMREP]


def _check(web: Web, folder: Path, drawn: list[tuple[tuple[list[bytes], str], str]]) -> None:
    crawl = Crawler(web, folder)
    web.pages.clear()
    urls = [f"http://www.site{n}.example/page" for n in range(len(drawn))]
    for url, ((pieces, then), where) in zip(urls, drawn, strict=True):
        web[url] = raw(*[PAGE], then="close") if where == "/page" else _page()
        web[url.replace("/page", where)] = raw(*pieces, then=then, pause_s=0.01)
    begun = time.monotonic()
    tracemalloc.start()
    try:
        fetched = crawl(*urls, **LIMITS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 30.0
    assert peak_bytes < 50_000_000
    ended = [row["canonical_url"] for row in (*fetched.rows, *fetched.handoffs)]
    assert sorted(ended) == sorted(urls)
    known = {str(status) for status in PageStatus}
    for row in fetched.rows:
        assert row["status"] in known
        assert (row["status"] == "ok") == (row["warc_file"] is not None)
        if row["status"] == "ok":
            assert payload_digest(sha1(crawl.body(row)).digest()) == row["payload_digest"]
    for path in (folder / "lake" / "pages" / "s1").glob("*.warc.gz"):
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                record.content_stream().read()


def _page() -> Any:
    return raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE))


def _fuzz(
    n_examples: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, *, derandomize: bool
) -> None:
    gc.collect()  # warnings from tasks of earlier tests
    caplog.clear()
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)
    with serving(Web()) as web:

        @settings(
            max_examples=n_examples,
            deadline=None,
            derandomize=derandomize,
            database=None,
            phases=[Phase.generate],  # shrinking an example would take minutes
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(st.tuples(answers(), st.sampled_from(WHERE)), min_size=N_ANSWERS, max_size=N_ANSWERS))
        def check(drawn: list[tuple[tuple[list[bytes], str], str]]) -> None:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    _check(web, Path(folder), drawn)
                except Exception as error:
                    heads = (f"{where} {then} {b''.join(pieces)[:500]!r}" for (pieces, then), where in drawn)
                    error.add_note("The answers, at most 500 bytes of each:\n" + "\n".join(heads))
                    raise

        check()
    gc.collect()
    said = [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in said] == []  # no task and no callback failed unnoticed


def test_random_answers_end_in_one_row_per_link(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fuzz(3, caplog, monkeypatch, derandomize=True)


@pytest.mark.slow
def test_many_random_answers_end_in_one_row_per_link(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About four thousand new answers every time. A failing one is printed and can become a named case."""
    _fuzz(160, caplog, monkeypatch, derandomize=False)
