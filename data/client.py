"""One guarded and bounded HTTP exchange: a whole answer, or a typed failure.

Every limit stands here: address, header size, wire bytes, decoded bytes, silence, total time. Bodies are decompressed
by us as they stream, 64 kB at a time, so a compression bomb ends at its limit and not in memory; only encodings that
can be bounded so are asked for. A body is held in memory up to ``SPOOL_BYTES`` and beyond that in a file of the scratch
directory, so memory is bounded by connections x SPOOL_BYTES, and no slow server makes a fast one wait for memory.

Reasons name what happened in fixed words: they are part of a dataset's digest, so no address, port or clock is in them.

aiohttp's own way to send a request again when a connection is lost is switched off, as it would pass by the politeness
delay; ``FetchError.lost`` tells the caller that it may ask once more.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 1950-1952 (deflate, gzip), RFC 7932 (brotli).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import ssl
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import ada_url
import aiohttp
import brotli
from multidict import CIMultiDictProxy
from yarl import URL

from data.config import PagesConfig
from data.errors import InputError
from data.guard import ForbiddenAddress, Guard, Resolver
from data.lake import code_version
from data.schema import PageStatus
from data.warc import HeaderList

SPOOL_BYTES = 1 << 18
_PIECE_BYTES = 1 << 16
_ACCEPT_ENCODING = "gzip, deflate, br"
REDIRECTS = frozenset({301, 302, 303, 307, 308})


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
    cut: bool = False


@dataclass
class Answer:
    """An HTTP answer. ``body`` is decoded and open at its start; None if it was not wanted."""

    url: str
    http_status: int
    status_line: bytes
    headers: CIMultiDictProxy[str]
    raw_headers: HeaderList
    request: tuple[bytes, HeaderList]
    body: IO[bytes] | None = None
    body_bytes: int = 0
    sha1: bytes = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.body is not None:
            self.body.close()

    def content_type(self) -> str:
        """The header as text that can be stored; empty if there is none."""
        value: str = self.headers.get("Content-Type", "")
        return value.encode(errors="surrogateescape").decode(errors="replace").strip()


@dataclass
class Traffic:
    """What a part has asked of the network so far."""

    requests: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True)
class Network:
    """What the clients of one part share. Made inside a running event loop."""

    config: PagesConfig
    scratch: Path
    guard: Guard
    resolver: Resolver
    tls: ssl.SSLContext
    traffic: Traffic = field(default_factory=Traffic)

    @classmethod
    def of(cls, config: PagesConfig, scratch: Path, resolver: aiohttp.abc.AbstractResolver | None = None) -> Self:
        guard = Guard.of(config)
        inner = resolver or aiohttp.ThreadedResolver()
        return cls(
            config, scratch, guard, Resolver(guard, inner, config.connect_timeout_s), ssl.create_default_context()
        )


Wants = Callable[[int, CIMultiDictProxy[str]], bool]
"""Says from status and headers whether the body is to be read."""


class Client:
    """Connections to the hosts of one registrable domain; closed with it, so that idle sockets do not pile up."""

    def __init__(self, network: Network) -> None:
        config = network.config
        self.network = network
        self.headers = {
            "User-Agent": f"{config.user_agent}/{code_version()} (+{config.contact})",
            "Accept": "text/html,application/xhtml+xml",
            "Accept-Encoding": _ACCEPT_ENCODING,
        }
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=network.resolver,
                socket_factory=network.guard.socket,
                ssl=network.tls,
                limit=0,  # the caller lets one request a host through
                keepalive_timeout=config.host_delay_s + 2.0,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        self.session._retry_connection = False

    async def close(self) -> None:
        await self.session.close()

    async def get(self, url: str, *, timeout_s: float, wants: Wants, limits: Limits) -> Answer:
        """Ask for a URL. Raises FetchError; redirects are answers."""
        config, traffic = self.network.config, self.network.traffic
        traffic.requests += 1
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s
        )
        with _Typed():
            response = await self.session.get(
                URL(url, encoded=True), headers=self.headers, allow_redirects=False, timeout=timeout
            )
        try:
            answer = _head(url, response)
            if wants(response.status, response.headers):
                await self._read_body(response, answer, limits)
        except BaseException:
            response.close()
            raise
        response.release()
        return answer

    async def _read_body(self, response: aiohttp.ClientResponse, answer: Answer, limits: Limits) -> None:
        status = response.status
        if not limits.cut and (response.content_length or 0) > limits.wire_bytes:
            raise FetchError(PageStatus.TOO_LARGE, f"more than {limits.wire_bytes} bytes", status)
        coding = ",".join(response.headers.getall("Content-Encoding", ())).strip().lower()
        decoder = _decoder(coding, status)
        body = _Body(self.network.scratch, limits, status)
        try:
            while not body.is_full:
                with _Typed(status):
                    chunk = await response.content.readany()
                self.network.traffic.wire_bytes += len(chunk)
                body.count_wire(chunk)
                try:
                    for piece in decoder.feed(chunk) if chunk else decoder.finish():
                        body.add(piece)
                except (zlib.error, brotli.error, EOFError) as error:
                    raise FetchError(PageStatus.BAD_ENCODING, f"broken {coding} data", status) from error
                if not chunk:
                    break
        except BaseException:
            body.spool.close()
            raise
        body.spool.seek(0)
        answer.body, answer.body_bytes, answer.sha1 = body.spool, body.decoded_bytes, body.sha1.digest()


class _Body:
    """A decoded body as it arrives, in memory or beyond SPOOL_BYTES in a file, with its digest and its limits."""

    def __init__(self, scratch: Path, limits: Limits, http_status: int) -> None:
        self.spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(scratch))
        self.sha1 = hashlib.sha1(usedforsecurity=False)  # what WARC uses
        self.limits, self.http_status = limits, http_status
        self.wire_bytes = self.decoded_bytes = 0
        self.is_full = False

    def count_wire(self, chunk: bytes) -> None:
        self.wire_bytes += len(chunk)
        if self.wire_bytes > self.limits.wire_bytes:
            self._full(PageStatus.TOO_LARGE, f"more than {self.limits.wire_bytes} bytes")

    def add(self, piece: bytes) -> None:
        room = self.limits.decoded_bytes - self.decoded_bytes
        if len(piece) > room:
            self._full(PageStatus.DECODED_TOO_LARGE, f"more than {self.limits.decoded_bytes} bytes decoded")
            piece = piece[:room]
        self.decoded_bytes += len(piece)
        self.sha1.update(piece)
        self.spool.write(piece)

    def _full(self, status: PageStatus, reason: str) -> None:
        if not self.limits.cut:
            raise FetchError(status, reason, self.http_status)
        self.is_full = True


class Decoder(Protocol):
    """Bounded streaming decompression: what comes out comes in pieces of at most 64 kB."""

    def feed(self, data: bytes) -> Iterator[bytes]: ...

    def finish(self) -> Iterator[bytes]:
        """What is left. Raises EOFError if the data ended too early."""
        ...


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> Iterator[bytes]:
        return iter(())


class _Zlib:
    """gzip with any number of members, or deflate with or without the zlib header that some servers leave out."""

    def __init__(self, *, is_gzip: bool) -> None:
        self.is_gzip = is_gzip
        self.head = b""  # deflate is told by its first two bytes
        self.stream: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.stream is None:
            self.head += data
            if len(self.head) < 2:
                return
            data, self.stream = self.head, self._start(self.head)
        while data:
            piece = self.stream.decompress(data, _PIECE_BYTES)
            if piece:
                yield piece
            data = self.stream.unconsumed_tail
            if self.stream.eof and self.stream.unused_data:
                if not self.is_gzip:
                    raise zlib.error("data after the end")
                data, self.stream = self.stream.unused_data, self._start(b"")

    def finish(self) -> Iterator[bytes]:
        if self.stream is None:
            if self.head:
                raise EOFError
            return
        while piece := self.stream.decompress(b"", _PIECE_BYTES):
            yield piece
        if not self.stream.eof:
            raise EOFError

    def _start(self, head: bytes) -> Any:
        if self.is_gzip:
            return zlib.decompressobj(31)
        has_header = head[0] & 0x0F == 8 and int.from_bytes(head[:2]) % 31 == 0  # RFC 1950, section 2.2
        return zlib.decompressobj(15 if has_header else -15)


class _Brotli:
    def __init__(self) -> None:
        self.stream = brotli.Decompressor()
        self.is_empty = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.is_empty = False
        while True:
            piece = self.stream.process(data, output_buffer_limit=_PIECE_BYTES)
            if piece:
                yield piece
            if self.stream.can_accept_more_data():
                return
            data = b""

    def finish(self) -> Iterator[bytes]:
        if not self.is_empty and not self.stream.is_finished():
            raise EOFError
        return iter(())


def _decoder(coding: str, http_status: int) -> Decoder:
    if coding in ("", "identity"):
        return _Identity()
    if coding in ("gzip", "x-gzip"):
        return _Zlib(is_gzip=True)
    if coding == "deflate":
        return _Zlib(is_gzip=False)
    if coding == "br":
        return _Brotli()
    raise FetchError(PageStatus.BAD_ENCODING, "a content encoding that was not asked for", http_status)


def _head(url: str, response: aiohttp.ClientResponse) -> Answer:
    version = response.version or aiohttp.HttpVersion11
    reason = (response.reason or "").encode(errors="surrogateescape")
    asked = response.request_info
    return Answer(
        url=url,
        http_status=response.status,
        status_line=b"HTTP/%d.%d %d %b" % (version.major, version.minor, response.status, reason),
        headers=response.headers,
        raw_headers=list(response.raw_headers),
        request=(
            f"GET {asked.url.raw_path_qs} HTTP/1.1".encode(),
            [(name.encode(), value.encode()) for name, value in asked.headers.items()],
        ),
    )


class _Typed(contextlib.AbstractContextManager[None]):
    """Turns what aiohttp raises into a FetchError. Before the answer began, ``http_status`` is None."""

    def __init__(self, http_status: int | None = None) -> None:
        self.http_status = http_status

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, aiohttp.ClientError | OSError | ValueError):  # TimeoutError is an OSError
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> FetchError:
        status = self.http_status
        match error:
            case aiohttp.ClientConnectorDNSError():
                return FetchError(PageStatus.DNS_FAILURE, "the host name does not resolve")
            case aiohttp.ClientConnectorCertificateError():
                detail = getattr(error.certificate_error, "verify_message", "does not match the host name")
                return FetchError(PageStatus.TLS_FAILURE, f"certificate: {detail}")
            case aiohttp.ClientSSLError():
                return FetchError(PageStatus.TLS_FAILURE, str(getattr(error.os_error, "reason", "") or "handshake"))
            case aiohttp.ClientConnectorError(os_error=ForbiddenAddress() as refusal):
                return FetchError(PageStatus.FORBIDDEN_ADDRESS, str(refusal))
            case aiohttp.ClientConnectorError():
                if error.os_error.errno in (errno.EMFILE, errno.ENFILE):
                    raise InputError("too many open files: raise `ulimit -n` or lower max_hosts") from error
                return FetchError(PageStatus.CONNECT_FAILURE, errno.errorcode.get(error.os_error.errno or 0, "failed"))
            case aiohttp.ConnectionTimeoutError():
                return FetchError(PageStatus.CONNECT_FAILURE, "no connection within connect_timeout_s")
            case aiohttp.SocketTimeoutError():
                return FetchError(PageStatus.TIMEOUT, "silent for read_timeout_s", status)
            case asyncio.TimeoutError():
                return FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s", status)
            case aiohttp.InvalidURL():
                return FetchError(PageStatus.PROTOCOL_ERROR, "not a URL that can be asked for")
            case aiohttp.ClientResponseError():
                return FetchError(PageStatus.PROTOCOL_ERROR, "not a valid HTTP answer", status)
            case aiohttp.ClientPayloadError():
                return FetchError(PageStatus.PROTOCOL_ERROR, "the body was cut off or is not valid HTTP", status)
            case aiohttp.ServerDisconnectedError() | OSError():
                return FetchError(PageStatus.PROTOCOL_ERROR, "the connection was lost", status, lost=status is None)
            case _:
                return FetchError(PageStatus.PROTOCOL_ERROR, "not a valid HTTP answer", status)


def resolve_redirect(base: str, location: str) -> str | None:
    """The absolute http(s) URL that a Location header means, without fragment; None if it is not usable.

    It is not canonicalized any further: a server that redirects to itself with another parameter wants to see it.
    """
    try:
        url = ada_url.URL(location, base=base)
    except (ValueError, UnicodeError):
        return None
    if url.protocol not in ("http:", "https:") or not url.hostname or url.username or url.password:
        return None
    url.hash = ""
    return str(url.href)


def origin_of(url: str) -> str:
    """``https://host:port``; robots.txt belongs to this."""
    return str(ada_url.URL(url).origin)


def host_of(url: str) -> str:
    """The host name without the port; delays belong to this."""
    return str(ada_url.URL(url).hostname)
