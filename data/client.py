"""One guarded and bounded HTTP exchange: a whole answer, or a typed failure.

Every limit stands here: address, header size, wire bytes, decoded bytes, silence, total time. Bodies are decompressed
by us as they stream (data/decode.py), so a compression bomb ends at its limit and not in memory. A body is held in
memory up to ``SPOOL_BYTES`` and beyond that in a file of the scratch directory: memory is bounded by connections x
SPOOL_BYTES, and no slow server makes a fast one wait for memory.

Reasons name what happened in fixed words: they are part of a dataset's digest, so no address, port or clock is in them.

aiohttp's own way to send a request again when a connection is lost is switched off, as it would pass by the politeness
delay; ``FetchError.lost`` tells the caller that it may ask once more.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

import ada_url
import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from data.config import PagesConfig
from data.decode import ACCEPT_ENCODING, DecodeError, decoder_of
from data.errors import InputError
from data.guard import ForbiddenAddress, Guard, Resolver
from data.lake import code_version
from data.schema import PageStatus
from data.warc import HeaderList

SPOOL_BYTES = 1 << 18
MAX_HEADER_BYTES = 32_768  # of one header; pages with a Content-Security-Policy above aiohttp's 8,190 are not rare
MAX_HEADERS = 128
IDLE_S = 5.0  # an idle connection is kept so long beyond the host's delay
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
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
    user_agent: str
    traffic: Traffic = field(default_factory=Traffic)

    @classmethod
    def of(cls, config: PagesConfig, scratch: Path, resolver: aiohttp.abc.AbstractResolver | None = None) -> Self:
        guard = Guard.of(config)
        inner = resolver or aiohttp.ThreadedResolver()
        return cls(
            config,
            scratch,
            guard,
            Resolver(guard, inner, config.connect_timeout_s),
            tls=ssl.create_default_context(),
            user_agent=f"{config.user_agent}/{code_version()} (+{config.contact})",
        )


Wants = Callable[[int, CIMultiDictProxy[str]], bool]
"""Says from status and headers whether the body is to be read."""


class Client:
    """The connections of one crawl task. The caller bounds how many are busy, and says which are kept when idle."""

    def __init__(self, network: Network) -> None:
        config = network.config
        self.network = network
        self.idle_s = config.host_delay_s + IDLE_S
        self.headers = {
            "User-Agent": network.user_agent,
            "Accept": "text/html,application/xhtml+xml",
            "Accept-Encoding": ACCEPT_ENCODING,
        }
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=network.resolver,
                socket_factory=network.guard.socket,
                ssl=network.tls,
                limit=0,  # the caller lets one request a host through
                keepalive_timeout=self.idle_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            trust_env=False,
        )
        self.session._retry_connection = False

    async def close(self) -> None:
        await self.session.close()

    async def get(
        self,
        url: str,
        *,
        timeout_s: float,
        wants: Wants,
        limits: Limits,
        extra: Mapping[str, str] = NO_HEADERS,
        keep: bool = True,
    ) -> Answer:
        """Ask for a URL, with ``extra`` headers. Raises FetchError; redirects are answers.

        ``keep``: the connection may be used again; without it, it is closed after the answer.
        """
        config, traffic = self.network.config, self.network.traffic
        traffic.requests += 1
        started = time.monotonic()
        timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=config.connect_timeout_s, sock_read=config.read_timeout_s
        )
        headers = {**self.headers, **extra} if extra else self.headers
        with _Typed():
            response = await self.session.get(
                URL(url, encoded=True), headers=headers, allow_redirects=False, timeout=timeout
            )
        try:
            answer = _head(url, response)
            if wants(response.status, response.headers):
                await self._read_body(response, answer, limits, started)
        except BaseException:
            response.close()
            raise
        if keep:
            response.release()
        else:
            response.close()
        return answer

    async def connects(self, origin: str) -> bool:
        """Whether a connection to ``https://host:port`` can be made; nothing is sent."""
        config, url = self.network.config, URL(origin)
        assert url.host is not None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                for found in await self.network.resolver.resolve(url.host, url.port or 80):
                    address = (found["host"], found["port"])
                    with self.network.guard.socket((found["family"], socket.SOCK_STREAM, 0, "", address)) as opened:
                        opened.setblocking(False)
                        await loop.sock_connect(opened, address)
                    return True
        except OSError:  # TimeoutError and ForbiddenAddress are such
            return False
        return False

    async def _read_body(
        self, response: aiohttp.ClientResponse, answer: Answer, limits: Limits, started: float
    ) -> None:
        status, config = response.status, self.network.config
        if not limits.cut and (response.content_length or 0) > limits.wire_bytes:
            raise FetchError(PageStatus.TOO_LARGE, f"more than {limits.wire_bytes} bytes", status)
        try:
            decoder = decoder_of(",".join(response.headers.getall("Content-Encoding", ())))
        except DecodeError as error:
            raise FetchError(PageStatus.BAD_ENCODING, str(error), status) from error
        body = _Body(self.network.scratch, limits, status)
        try:
            while not body.is_full:
                with _Typed(status):
                    chunk = await response.content.readany()
                self.network.traffic.wire_bytes += len(chunk)
                body.count_wire(chunk)
                elapsed_s = time.monotonic() - started
                if elapsed_s > config.slow_after_s and body.wire_bytes < config.min_bytes_per_s * elapsed_s:
                    raise FetchError(PageStatus.TOO_SLOW, f"fewer than {config.min_bytes_per_s} bytes a second", status)
                try:
                    for piece in decoder.feed(chunk) if chunk else decoder.finish():
                        body.add(piece)
                except DecodeError as error:
                    raise FetchError(PageStatus.BAD_ENCODING, str(error), status) from error
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
        self.spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(scratch))  # noqa: SIM115
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
                    raise InputError("too many open files: raise `ulimit -n` or lower max_connections") from error
                return FetchError(PageStatus.CONNECT_FAILURE, errno.errorcode.get(error.os_error.errno or 0, "failed"))
            case aiohttp.ConnectionTimeoutError():
                return FetchError(PageStatus.CONNECT_FAILURE, "no connection within connect_timeout_s")
            case aiohttp.SocketTimeoutError():
                return FetchError(PageStatus.TIMEOUT, "silent for read_timeout_s", status)
            case asyncio.TimeoutError():
                return FetchError(PageStatus.TIMEOUT, "longer than total_timeout_s", status)
            case aiohttp.InvalidURL():
                return FetchError(PageStatus.PROTOCOL_ERROR, "not a URL that can be asked for")
            case _:
                # How far a broken answer was understood depends on its packets, so nothing of it is told.
                is_lost = isinstance(error, aiohttp.ServerDisconnectedError | OSError) and status is None
                return FetchError(PageStatus.PROTOCOL_ERROR, "not valid HTTP, or cut off", lost=is_lost)


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
