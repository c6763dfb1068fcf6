"""One HTTP/1.1 exchange: the bytes of an answer in, a whole answer or a typed failure out.

The bytes are parsed by httptools (llhttp, as in Node.js). What it finds is taken as it comes, in the callback that the
bytes came in: decompressed, counted, hashed. So an exchange costs one wait, and no queue lies between the socket and
the limits. aiohttp's client session costs three times as much for it (docs/benchmarks.md), and asks for addresses,
proxies, cookies and second attempts to be switched off; here they do not exist.

Every limit on what comes stands here: header size and number, wire bytes, decoded bytes, their ratio, silence,
slowness, total time (data/http/connection.py says when the times are looked at).

Sources: RFC 9112; the leniencies are those of browsers and of aiohttp.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import httptools
from multidict import CIMultiDict, CIMultiDictProxy

from data.config import PagesConfig
from data.http.decode import DecodeError, Decoder, decoder_of
from data.schema import PageStatus
from data.warc import HeaderList

SPOOL_BYTES = 1 << 18
RATIO_FROM_BYTES = 1 << 20
MAX_HEADER_BYTES = 32_768  # of one header; pages with a Content-Security-Policy above 8 kB are not rare
MAX_HEADERS = 128
_READ_BYTES = 1 << 18  # what a transport hands over at most at once

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})

BROKEN = "not valid HTTP, or cut off"  # how far a broken answer was understood depends on its packets: it is not told


class FetchError(Exception):
    """An exchange that gave no whole answer. ``lost``: the connection ended before an answer began."""

    def __init__(self, status: PageStatus, reason: str, http_status: int | None = None, *, lost: bool = False) -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason, self.http_status, self.lost = status, reason, http_status, lost


@dataclass(frozen=True)
class Limits:
    """Caps on one body. A body over them is an error, or is cut there if ``cut`` is set."""

    wire_bytes: int
    decoded_bytes: int
    ratio: int = 200  # decoded to wire bytes, from RATIO_FROM_BYTES on
    cut: bool = False


@dataclass
class Traffic:
    """What a part has asked of the network so far."""

    requests: int = 0
    wire_bytes: int = 0  # of bodies, as they were sent


@dataclass(slots=True)
class Answer:
    """An HTTP answer. ``body`` is decoded; None if it was not wanted."""

    url: str
    http_status: int
    status_line: bytes
    headers: CIMultiDictProxy[str]
    raw_headers: HeaderList
    request: tuple[bytes, HeaderList]
    body: Body | None = None
    sha1: bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.body is not None:
            self.body.close()

    def text(self, name: str) -> str | None:
        """A header as text that can be stored; None if there is none."""
        value: str | None = self.headers.get(name)
        return None if value is None else value.encode(errors="surrogateescape").decode(errors="replace").strip()

    def content_type(self) -> str:
        """Empty if there is none."""
        return self.text("Content-Type") or ""


Wants = Callable[[int, CIMultiDictProxy[str]], bool]
"""Says from status and headers whether the body is to be read."""


class Body:
    """A decoded body as it arrives, in memory or beyond SPOOL_BYTES in a file, with its digest and its limits."""

    def __init__(self, scratch: Path, limits: Limits, http_status: int) -> None:
        self.scratch, self.limits, self.http_status = scratch, limits, http_status
        self.sha1 = hashlib.sha1(usedforsecurity=False)  # what WARC uses
        self.wire_bytes = self.decoded_bytes = 0
        self.is_full = False
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None

    def count_wire(self, n_bytes: int) -> None:
        self.wire_bytes += n_bytes
        if self.wire_bytes > self.limits.wire_bytes:
            self._full(PageStatus.TOO_LARGE, f"more than {self.limits.wire_bytes} bytes")

    def add(self, piece: bytes) -> None:
        limits = self.limits
        if self.decoded_bytes + len(piece) > limits.decoded_bytes:
            self._full(PageStatus.DECODED_TOO_LARGE, f"more than {limits.decoded_bytes} bytes decoded")
            piece = piece[: limits.decoded_bytes - self.decoded_bytes]
        self.decoded_bytes += len(piece)
        if self.decoded_bytes > RATIO_FROM_BYTES and self.decoded_bytes > limits.ratio * self.wire_bytes:
            self._full(PageStatus.DECODED_TOO_LARGE, f"more than {limits.ratio} times its size on the wire")
        self.sha1.update(piece)
        self._pieces.append(piece)
        if self.decoded_bytes > SPOOL_BYTES:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self.scratch)  # noqa: SIM115
            self._file.writelines(self._pieces)
            self._pieces.clear()

    def read(self) -> bytes:
        """All of it."""
        if self._file is None:
            return b"".join(self._pieces)
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        self._pieces.clear()
        if self._file is not None:
            self._file.close()

    def _full(self, status: PageStatus, reason: str) -> None:
        if not self.limits.cut:
            raise FetchError(status, reason, self.http_status)
        self.is_full = True


class Exchange:
    """A request that was sent and its answer as it comes: the parser's callbacks. ``done`` is set when it is over."""

    def __init__(
        self,
        done: asyncio.Future[Answer],
        url: str,
        request: tuple[bytes, HeaderList],
        wants: Wants,
        limits: Limits,
        scratch: Path,
        traffic: Traffic,
    ) -> None:
        self.url, self.request, self.wants, self.limits = url, request, wants, limits
        self.scratch, self.traffic = scratch, traffic
        self.done = done
        self.started = self.last = time.monotonic()
        self.ends_at = 0.0
        self.received = 0  # bytes of any kind
        self.is_reusable = False  # the connection, when the exchange is over
        self.answer: Answer | None = None
        self._decoder: Decoder | None = None
        self._reason = b""
        self._headers: HeaderList = []
        self._unfinished = 0  # bytes since the last header or piece of the body, about
        self._head_received = 0
        self._is_interim = self._is_complete = self._ends_with_connection = self._keeps_alive = False
        self._failure: BaseException | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_data_after_close=True,
        )

    def feed(self, data: bytes) -> None:
        """Bytes of the answer."""
        if self.done.done():
            self.is_reusable = False  # more than was asked for
            return None
        self.last = time.monotonic()
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._is_complete and self._failure is None:  # what comes after an answer is no part of it
                return self._finish(is_clean=False)
            return self.fail(self._failure or FetchError(PageStatus.PROTOCOL_ERROR, BROKEN))
        self._unfinished += len(data)
        if self._unfinished > MAX_HEADER_BYTES + _READ_BYTES:
            return self.fail(FetchError(PageStatus.PROTOCOL_ERROR, BROKEN))
        if self.answer is None:
            return None
        body = self.answer.body
        if not self._head_received:
            self._head_received = self.received
        if body is not None and self._framed() > self.limits.wire_bytes and not self.limits.cut:
            reason = f"more than {self.limits.wire_bytes} bytes"
            return self.fail(FetchError(PageStatus.TOO_LARGE, reason, self.answer.http_status))
        if self._is_complete or body is None or body.is_full:
            self._finish()
        return None

    def _framed(self) -> int:
        """Bytes after the packet in which the headers ended: of the body, and of chunks' heads and extensions."""
        return self.received - self._head_received

    def ended(self, error: BaseException | None) -> None:
        """The connection was closed (``error`` is None) or lost."""
        if self.done.done():
            return
        if error is None and self.answer is not None and self._ends_with_connection:
            self._finish()
        else:
            self.fail(FetchError(PageStatus.PROTOCOL_ERROR, BROKEN, lost=self.answer is None))

    def fail(self, error: BaseException) -> None:
        self.is_reusable = False
        if self.answer is not None and self.answer.body is not None:
            self.answer.body.close()
            self._count_framing(self.answer.body)
        if not self.done.done():
            self.done.set_exception(error)

    def close(self) -> None:
        """It is over, whatever came of it. The parser holds our methods: without it no cycle has to be collected."""
        self._parser = None

    def _count_framing(self, body: Body) -> None:
        """What was received beside the body is of the budget too."""
        self.traffic.wire_bytes += max(0, self._framed() - body.wire_bytes)

    def check_time(self, now: float, config: PagesConfig) -> None:
        """Fail if it takes too long."""
        elapsed_s, code = now - self.started, self._http_status()
        if now >= self.ends_at:
            self.fail(FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s", code))
        elif now - self.last >= config.read_timeout_s:
            self.fail(FetchError(PageStatus.TIMEOUT, "silent for read_timeout_s", code))
        elif self.received and elapsed_s > config.slow_after_s and self.received < config.min_bytes_per_s * elapsed_s:
            self.fail(FetchError(PageStatus.TOO_SLOW, f"fewer than {config.min_bytes_per_s} bytes a second", code))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("more than was asked for")
        self._reason, self._headers = b"", []

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self._unfinished = 0
        self._headers.append((name, value or b""))
        if len(name) + len(value or b"") > MAX_HEADER_BYTES or len(self._headers) > MAX_HEADERS:
            raise ValueError("too many headers, or too long")
        if b"\0" in (value or b""):
            raise ValueError("NUL in a header")

    def on_headers_complete(self) -> None:
        code = self._parser.get_status_code()
        self._is_interim = 100 <= code < 200
        if self._is_interim:
            return
        headers = CIMultiDictProxy(CIMultiDict((_decoded(name), _decoded(value)) for name, value in self._headers))
        line = b"HTTP/%b %d %b" % (self._parser.get_http_version().encode(), code, self._reason)
        self.answer = Answer(self.url, code, line, headers, self._headers, self.request)
        is_chunked = headers.get("Transfer-Encoding", "").lower().endswith("chunked")
        self._ends_with_connection = not is_chunked and "Content-Length" not in headers
        try:
            if self.wants(code, headers):
                self._begin_body(self.answer)
        except BaseException as error:
            self._failure = error
            raise

    def on_body(self, data: bytes) -> None:
        assert self.answer is not None
        self._unfinished = 0
        body = self.answer.body
        if body is None or body.is_full:
            return
        assert self._decoder is not None
        try:
            self.traffic.wire_bytes += len(data)
            body.count_wire(len(data))
            for piece in self._decoder.feed(data):
                body.add(piece)
        except DecodeError as error:
            self._failure = FetchError(PageStatus.BAD_ENCODING, str(error), self.answer.http_status)
            raise
        except BaseException as error:
            self._failure = error
            raise

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
            return
        self._is_complete = True
        self._keeps_alive = self._parser.should_keep_alive()  # it has forgotten after this callback

    def _begin_body(self, answer: Answer) -> None:
        code = answer.http_status
        length = answer.headers.get("Content-Length", "")
        if not self.limits.cut and length.isdigit() and int(length) > self.limits.wire_bytes:
            raise FetchError(PageStatus.TOO_LARGE, f"more than {self.limits.wire_bytes} bytes", code)
        try:
            self._decoder = decoder_of(",".join(answer.headers.getall("Content-Encoding", ())))
        except DecodeError as error:
            raise FetchError(PageStatus.BAD_ENCODING, str(error), code) from error
        answer.body = Body(self.scratch, self.limits, code)

    def _finish(self, *, is_clean: bool = True) -> None:
        answer, body = self.answer, self.answer.body if self.answer else None
        assert answer is not None
        if body is not None:
            assert self._decoder is not None
            try:
                if not body.is_full:
                    for piece in self._decoder.finish():
                        body.add(piece)
            except DecodeError as error:
                return self.fail(FetchError(PageStatus.BAD_ENCODING, str(error), answer.http_status))
            except FetchError as error:
                return self.fail(error)
            answer.sha1 = body.sha1.digest()
            self._count_framing(body)
        self.is_reusable = is_clean and self._is_complete and self._keeps_alive
        self.done.set_result(answer)
        return None

    def _http_status(self) -> int | None:
        return None if self.answer is None else self.answer.http_status


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
