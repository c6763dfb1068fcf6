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
from typing import IO, Any, Self

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
RATIO_FROM_BYTES = 1 << 20
LOOK_S = 0.1  # how often exchanges that take too long are looked for
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
    ratio: int = 200  # decoded to wire bytes, from RATIO_FROM_BYTES on
    cut: bool = False


@dataclass
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
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_timeout_s)
        self._watches = _Watches(config.read_timeout_s)

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
        self.network.traffic.requests += 1
        headers = {**self.headers, **extra} if extra else self.headers
        watch = self._watches.begin(timeout_s)
        response: aiohttp.ClientResponse | None = None
        answer: Answer | None = None
        try:
            with _Typed():
                response = await self.session.get(
                    URL(url, encoded=True), headers=headers, allow_redirects=False, timeout=self._timeout
                )
            watch.has_headers, watch.last = True, time.monotonic()
            answer = _head(url, response)
            if wants(response.status, response.headers):
                await self._read_body(response, answer, limits, watch)
        except asyncio.CancelledError as error:
            self._abandon(response, answer)
            if not watch.expired:
                raise
            watch.task.uncancel()
            status = None if response is None else response.status
            raise FetchError(PageStatus.TIMEOUT, watch.expired, status) from error
        except BaseException:
            self._abandon(response, answer)
            raise
        finally:
            self._watches.end(watch)
        if keep:
            response.release()
        else:
            response.close()
        return answer

    def _abandon(self, response: aiohttp.ClientResponse | None, answer: Answer | None) -> None:
        if response is not None:
            response.close()
        if answer is not None and answer.body is not None:
            answer.body.close()

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

    async def _read_body(self, response: aiohttp.ClientResponse, answer: Answer, limits: Limits, watch: _Watch) -> None:
        status, config, traffic = response.status, self.network.config, self.network.traffic
        if not limits.cut and (response.content_length or 0) > limits.wire_bytes:
            raise FetchError(PageStatus.TOO_LARGE, f"more than {limits.wire_bytes} bytes", status)
        try:
            decoder = decoder_of(",".join(response.headers.getall("Content-Encoding", ())))
        except DecodeError as error:
            raise FetchError(PageStatus.BAD_ENCODING, str(error), status) from error
        body = answer.body = Body(self.network.scratch, limits, status)
        began = watch.last
        while not body.is_full:
            try:
                chunk = await response.content.readany()
            except _OF_THE_NETWORK as error:
                raise _failure(error, status) from error
            watch.last = time.monotonic()
            traffic.wire_bytes += len(chunk)
            body.count_wire(chunk)
            elapsed_s = watch.last - began
            if chunk and elapsed_s > config.slow_after_s and body.wire_bytes < config.min_bytes_per_s * elapsed_s:
                raise FetchError(PageStatus.TOO_SLOW, f"fewer than {config.min_bytes_per_s} bytes a second", status)
            try:
                for piece in decoder.feed(chunk) if chunk else decoder.finish():
                    body.add(piece)
            except DecodeError as error:
                raise FetchError(PageStatus.BAD_ENCODING, str(error), status) from error
            if not chunk:
                break
        answer.sha1 = body.sha1.digest()


class Body:
    """A decoded body as it arrives, in memory or beyond SPOOL_BYTES in a file, with its digest and its limits."""

    def __init__(self, scratch: Path, limits: Limits, http_status: int) -> None:
        self.scratch, self.limits, self.http_status = scratch, limits, http_status
        self.sha1 = hashlib.sha1(usedforsecurity=False)  # what WARC uses
        self.wire_bytes = self.decoded_bytes = 0
        self.is_full = False
        self._pieces: list[bytes] = []
        self._file: IO[bytes] | None = None

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
        if self.decoded_bytes > max(RATIO_FROM_BYTES, self.limits.ratio * self.wire_bytes):
            self._full(PageStatus.DECODED_TOO_LARGE, f"more than {self.limits.ratio} times its size on the wire")
        self.sha1.update(piece)
        self._pieces.append(piece)
        if self._file is not None or self.decoded_bytes > SPOOL_BYTES:
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


@dataclass(slots=True)
class _Watch:
    """An exchange under way: when it must be over, and since when nothing has come."""

    task: asyncio.Task[Any]
    ends_at: float
    last: float
    has_headers: bool = False
    expired: str = ""  # the reason


class _Watches:
    """Ends exchanges that take too long.

    One look at all of them, ten times a second, instead of three timers for each: those are a tenth of what an exchange
    costs. An exchange is ended by cancelling its task, which waits inside it.
    """

    def __init__(self, read_timeout_s: float) -> None:
        self.read_timeout_s = read_timeout_s
        self.by_id: dict[int, _Watch] = {}
        self.timer: asyncio.TimerHandle | None = None

    def begin(self, timeout_s: float) -> _Watch:
        task = asyncio.current_task()
        assert task is not None
        now = time.monotonic()
        watch = _Watch(task, now + timeout_s, now)
        self.by_id[id(watch)] = watch
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        return watch

    def end(self, watch: _Watch) -> None:
        del self.by_id[id(watch)]

    def _look(self) -> None:
        now = time.monotonic()
        for watch in self.by_id.values():
            if watch.expired:
                continue
            if now >= watch.ends_at:
                watch.expired = "longer than total_timeout_s"
            elif now - watch.last >= self.read_timeout_s:
                watch.expired = f"{'silent for' if watch.has_headers else 'no answer within'} read_timeout_s"
            if watch.expired:
                watch.task.cancel()
        self.timer = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self.by_id else None


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


_OF_THE_NETWORK = (aiohttp.ClientError, OSError, ValueError)  # TimeoutError is an OSError


class _Typed(contextlib.AbstractContextManager[None]):
    """Turns what aiohttp raises before an answer has begun into a FetchError."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, _OF_THE_NETWORK):
            raise _failure(error, None) from error


def _failure(error: Exception, status: int | None) -> FetchError:
    """What aiohttp raised, as an outcome; ``status`` is that of the answer if it had begun."""
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
