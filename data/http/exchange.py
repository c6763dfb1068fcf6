"""One HTTP/1.1 exchange: the bytes of an answer in, a whole answer or a typed failure out.

httptools (llhttp, as in Node.js) parses the bytes. Its callbacks decompress, count and hash the body as it arrives. So
an exchange waits only once, and no queue lies between the socket and the limits. aiohttp's client session costs three
times as much (docs/benchmarks.md), and its proxies, cookies and second attempts would have to be switched off; here
they do not exist.

This module enforces every limit on an answer: size and number of headers, wire bytes, decoded bytes, their ratio,
silence, slowness and total time. data/http/connection.py calls ``check_time``.

Sources: RFC 9112. The parser is as lenient as browsers and aiohttp are.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import httptools
from multidict import CIMultiDict, CIMultiDictProxy

from data.config import PagesConfig
from data.http.decode import Decoder, decoder_of
from data.http.streams import DecodeError
from data.schema import PageStatus
from data.warc import HeaderList

SPOOL_BYTES = 1 << 18
RATIO_FROM_BYTES = 1 << 20
MAX_HEADER_BYTES = 32_768  # for one header; a Content-Security-Policy above 8 kB is not rare
MAX_HEADERS = 128
_READ_BYTES = 1 << 18  # the most that asyncio's transport passes on at once

_MEDIA_TYPE = re.compile(r"[\s\"']*([\w.+-]+/[\w+-]+(?:\.[\w+-]+)*)", re.ASCII)
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})

BROKEN = "not valid HTTP, or cut off"  # one reason for both: which one we see depends on the packets


class FetchError(Exception):
    """An exchange that ended without a whole answer. ``lost``: the connection ended before an answer began."""

    def __init__(self, status: PageStatus, reason: str, http_status: int | None = None, *, lost: bool = False) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason
        self.http_status = http_status
        self.lost = lost


@dataclass(frozen=True)
class Limits:
    """Caps on one body. A larger body is an error; with ``cut`` it is cut off there instead."""

    wire_bytes: int
    decoded_bytes: int
    ratio: int = 200  # decoded to wire bytes; applies from RATIO_FROM_BYTES on
    cut: bool = False


@dataclass
class Traffic:
    """What a part has sent and received so far."""

    requests: int = 0
    wire_bytes: int = 0  # of bodies, before decompression


@dataclass(slots=True)
class Answer:
    """An HTTP answer. ``body`` is decoded; None if ``wants`` declined it."""

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
        """A header as valid Unicode; None if it is missing."""
        value: str | None = self.headers.get(name)
        return None if value is None else value.encode(errors="surrogateescape").decode(errors="replace").strip()

    def content_type(self) -> str:
        """Empty if the header is missing."""
        return self.text("Content-Type") or ""


Wants = Callable[[int, CIMultiDictProxy[str]], bool]
"""Decides by status and headers whether to read the body."""


class Body:
    """A decoded body as it arrives, with its digest and its limits; in memory, or in a file above SPOOL_BYTES."""

    def __init__(self, scratch: Path, limits: Limits, http_status: int) -> None:
        self.scratch = scratch
        self.limits = limits
        self.http_status = http_status
        self.sha1 = hashlib.sha1(usedforsecurity=False)  # the digest that WARC uses
        self.wire_bytes = 0
        self.decoded_bytes = 0
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
        """The whole body."""
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
    """A request and its answer as it arrives. Its ``on_`` methods are the parser's callbacks; ``done`` ends it."""

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
        self.done = done
        self.url = url
        self.request = request
        self.wants = wants
        self.limits = limits
        self.scratch = scratch
        self.traffic = traffic
        self.started = self.last = time.monotonic()
        self.ends_at = 0.0
        self.received = 0  # bytes of any kind
        self.is_reusable = False  # whether the connection may carry another exchange
        self.answer: Answer | None = None
        self._decoder: Decoder | None = None
        self._reason = b""
        self._headers: HeaderList = []
        self._unfinished = 0  # bytes since the last header or piece of the body, approximately
        self._head_received = 0
        self._is_interim = False  # a 1xx answer, before the real one
        self._is_complete = False
        self._ends_with_connection = False
        self._transfer_coding = ""  # without "chunked", which the parser removes
        self._keeps_alive = False
        self._failure: BaseException | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
            lenient_data_after_close=True,
        )

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the answer."""
        if self.done.done():
            self.is_reusable = False  # the server sent more than one answer
            return None
        self.last = time.monotonic()
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._is_complete and self._failure is None:  # the error is behind the answer
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
        """Bytes after the packet in which the headers ended: the body, and the heads and extensions of its chunks."""
        return self.received - self._head_received

    def ended(self, error: BaseException | None) -> None:
        """Note that the connection was closed (``error`` is None) or lost."""
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
        """Drop the parser. It holds our methods, a cycle that only the garbage collector would free."""
        self._parser = None
        if self._decoder is not None:
            self._decoder.close()

    def _count_framing(self, body: Body) -> None:
        """Count the bytes around the body, which use up the budget too."""
        self.traffic.wire_bytes += max(0, self._framed() - body.wire_bytes)

    def check_time(self, now: float, config: PagesConfig) -> None:
        """Fail if it takes too long."""
        elapsed_s = now - self.started
        code = self._http_status()
        if now >= self.ends_at:
            self.fail(FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s", code))
        elif now - self.last >= config.read_timeout_s:
            self.fail(FetchError(PageStatus.TIMEOUT, "silent for read_timeout_s", code))
        elif self.received and elapsed_s > config.slow_after_s and self.received < config.min_bytes_per_s * elapsed_s:
            self.fail(FetchError(PageStatus.TOO_SLOW, f"fewer than {config.min_bytes_per_s} bytes a second", code))

    # What the parser calls

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise ValueError("a second answer")
        self._reason = b""
        self._headers = []

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
        codings = [c.strip() for c in ",".join(headers.getall("Transfer-Encoding", ())).lower().split(",")]
        is_chunked = codings[-1] == "chunked"  # only as the last one does the parser know it
        if is_chunked:
            codings = [coding for coding in codings if coding != "chunked"]  # some servers name it twice
        self._transfer_coding = ",".join(codings)
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
                if body.is_full:
                    break
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
        self._keeps_alive = self._parser.should_keep_alive()  # valid only inside this callback

    def _begin_body(self, answer: Answer) -> None:
        code = answer.http_status
        length = answer.headers.get("Content-Length", "")
        if not self.limits.cut and length.isdigit() and int(length) > self.limits.wire_bytes:
            raise FetchError(PageStatus.TOO_LARGE, f"more than {self.limits.wire_bytes} bytes", code)
        try:
            coding = ",".join(answer.headers.getall("Content-Encoding", ()))
            self._decoder = decoder_of(coding, self._transfer_coding, self.scratch)
        except DecodeError as error:
            raise FetchError(PageStatus.BAD_ENCODING, str(error), code) from error
        answer.body = Body(self.scratch, self.limits, code)

    def _finish(self, *, is_clean: bool = True) -> None:
        answer = self.answer
        assert answer is not None
        body = answer.body
        if body is not None:
            assert self._decoder is not None
            try:
                if not body.is_full:
                    for piece in self._decoder.finish(is_whole=not self._ends_with_connection):
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
    """The type in a Content-Type, in lower case, whatever separates it from its parameters.

    Of a list, members that are no types do not count (``text/html, charset=utf-8``). If its types differ, the whole
    list is returned, which is no type. Source: WHATWG's MIME Sniffing Standard, more leniently.
    """
    types = {match[1].lower() for member in content_type.split(",") if (match := _MEDIA_TYPE.match(member))}
    return types.pop() if len(types) == 1 else content_type.partition(";")[0].strip().lower()
