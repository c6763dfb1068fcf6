"""A guarded and bounded HTTP/1.1 client: send a GET request, receive a whole answer or a typed failure.

The guard checks every address where the socket is made, whether the address was in the URL or came from a name server.
The client knows no proxies, cookies or credentials; it follows no redirects and repeats no request. It decompresses
bodies as they arrive (data/http/exchange.py), so a compression bomb hits its limit before it fills the memory. A body
stays in memory up to ``SPOOL_BYTES`` and then moves to a file in the scratch directory. So memory is bounded by
connections x SPOOL_BYTES, and no slow server makes a fast one wait for memory.

Reasons are fixed words without addresses, ports or times, because they are part of a dataset's digest.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Self

import ada_url
import aiohappyeyeballs
import aiohttp

from data.config import PagesConfig
from data.errors import InputError
from data.http.connection import Connection, Watch
from data.http.decode import ACCEPT_ENCODING
from data.http.exchange import BROKEN, Answer, Exchange, FetchError, Limits, Traffic, Wants
from data.http.guard import ForbiddenAddress, Guard, Resolver
from data.lake.store import code_version
from data.schema import PageStatus
from data.urls.canonical import host_of
from data.warc import HeaderList

IDLE_S = 5.0  # how long an idle connection stays open beyond the host's delay
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
REDIRECTS = frozenset({301, 302, 303, 307, 308})

_RAW_BYTE = re.compile(r"[\udc80-\udcff]")  # how surrogateescape decodes a byte that is not UTF-8
_UNSENDABLE = re.compile(r"[^\x21-\x7e]")
_HAPPY_EYEBALLS_S = 0.25  # RFC 8305, section 8


@dataclass(frozen=True)
class Network:
    """What the clients of one part share. Create it inside a running event loop."""

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


class Client:
    """The connections of one crawl task: at most one idle one per origin, and at most ``max_connections`` in all.

    The caller limits the busy connections. Create it inside a running event loop.
    """

    def __init__(self, network: Network) -> None:
        config = network.config
        self._loop = asyncio.get_running_loop()
        self.network = network
        self.idle_s = config.host_delay_s + IDLE_S
        self.headers: HeaderList = [
            (b"User-Agent", network.user_agent.encode()),
            (b"Accept", b"text/html,application/xhtml+xml"),
            (b"Accept-Encoding", ACCEPT_ENCODING.encode()),
        ]
        self._watch = Watch(config)
        self._idle: OrderedDict[str, tuple[Connection, float]] = OrderedDict()  # by origin, the oldest first
        self._n_busy = 0

    @property
    def n_pauses(self) -> int:
        """How often this process was stopped for seconds. What failed meanwhile says nothing about its host."""
        return self._watch.n_pauses

    async def close(self) -> None:
        self._watch.stop()
        while self._idle:
            self._idle.popitem()[1][0].abort()
        await asyncio.sleep(0)  # transports close in the next iteration of the loop

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
        """Send a GET request. A redirect is an answer like any other. Raises FetchError.

        ``extra`` headers replace ours. With ``keep`` the connection may be used again, otherwise it closes.
        """
        ends_at = time.monotonic() + timeout_s
        self._watch.start()
        self.network.traffic.requests += 1
        if _UNSENDABLE.search(url):
            raise FetchError(PageStatus.PROTOCOL_ERROR, "not a URL that can be asked for")
        origin = origin_of(url)
        request = self._request(url, origin, extra)
        self._n_busy += 1
        try:
            connection = self._take_idle(origin) or await self._connect(origin, timeout_s)
            done = self._loop.create_future()
            exchange = Exchange(done, url, request, wants, limits, self.network.scratch, self.network.traffic)
            self._watch.begin(exchange, ends_at)
            try:
                connection.send(exchange, _head(request))
                answer = await exchange.done
            except BaseException:
                connection.abort()
                exchange.fail(FetchError(PageStatus.PROTOCOL_ERROR, "given up"))
                raise
            finally:
                self._watch.end(exchange)
                connection.exchange = None
                exchange.close()
        finally:
            self._n_busy -= 1
        if keep and exchange.is_reusable and connection.is_open:
            self._keep(origin, connection)
        else:
            connection.abort()
        return answer

    async def connects(self, origin: str) -> bool:
        """Whether ``https://host:port`` accepts a connection. Sends nothing."""
        try:
            async with asyncio.timeout(self.network.config.connect_timeout_s):
                opened = await self._socket(await self._addresses(*_target(origin)[:2]))
        except (FetchError, OSError):  # TimeoutError is an OSError
            return False
        opened.close()
        return True

    def _request(self, url: str, origin: str, extra: Mapping[str, str]) -> tuple[bytes, HeaderList]:
        host = (b"Host", origin[origin.index("//") + 2 :].encode())
        if extra:
            replaced = {name.lower().encode() for name in extra}
            ours = [header for header in self.headers if header[0].lower() not in replaced]
            theirs = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in extra.items()]
            if any(b"\r" in value or b"\n" in value for _, value in theirs):
                raise FetchError(PageStatus.PROTOCOL_ERROR, "a header that cannot be sent")
            return f"GET {url[len(origin) :]} HTTP/1.1".encode(), [host, *ours, *theirs]
        return f"GET {url[len(origin) :]} HTTP/1.1".encode(), [host, *self.headers]

    def _take_idle(self, origin: str) -> Connection | None:
        """The idle connection of an origin. Closes others that have been idle for too long."""
        now = time.monotonic()
        found, since = self._idle.pop(origin, (None, now))
        while self._idle:
            first = next(iter(self._idle))
            connection, kept_at = self._idle[first]
            is_room = self._n_open() <= self.network.config.max_connections
            if connection.is_open and now - kept_at <= self.idle_s and is_room:
                break
            del self._idle[first]
            connection.abort()
        if found is None or (found.is_open and now - since <= self.idle_s):
            return found
        found.abort()
        return None

    def _keep(self, origin: str, connection: Connection) -> None:
        before = self._idle.pop(origin, None)
        if before is not None:
            before[0].abort()
        self._idle[origin] = connection, time.monotonic()
        while self._n_open() > self.network.config.max_connections:
            self._idle.popitem(last=False)[1][0].abort()

    def _n_open(self) -> int:
        return self._n_busy + len(self._idle)

    async def _connect(self, origin: str, timeout_s: float) -> Connection:
        """Raises FetchError, or InputError if this process may open no more files."""
        config = self.network.config
        host, port, is_tls = _target(origin)
        addresses = await self._addresses(host, port)
        try:
            async with asyncio.timeout(min(timeout_s, config.connect_timeout_s)):
                opened = await self._socket(addresses)
                try:
                    _, connection = await self._loop.create_connection(
                        Connection,
                        sock=opened,
                        ssl=self.network.tls if is_tls else None,
                        server_hostname=host if is_tls else None,
                    )
                except BaseException:
                    opened.close()
                    raise
        except TimeoutError as error:
            raise FetchError(PageStatus.CONNECT_FAILURE, "no connection within connect_timeout_s") from error
        except ssl.SSLCertVerificationError as error:
            raise FetchError(PageStatus.TLS_FAILURE, f"certificate: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise FetchError(PageStatus.TLS_FAILURE, str(error.reason or "handshake")) from error
        except ForbiddenAddress as error:
            raise FetchError(PageStatus.FORBIDDEN_ADDRESS, str(error)) from error
        except ConnectionResetError as error:
            if not is_tls:  # it is chance whether the reset comes before or after the request
                raise FetchError(PageStatus.PROTOCOL_ERROR, BROKEN, lost=True) from error
            raise FetchError(PageStatus.CONNECT_FAILURE, "ECONNRESET") from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise InputError("too many open files: raise `ulimit -n` or lower max_connections") from error
            raise FetchError(PageStatus.CONNECT_FAILURE, errno.errorcode.get(error.errno or 0, "failed")) from error
        return connection

    async def _socket(self, addresses: list[aiohappyeyeballs.AddrInfoType]) -> socket.socket:
        """A connected socket. The guard makes the sockets, so it checks every address. Raises OSError."""
        return await aiohappyeyeballs.start_connection(
            addresses,
            happy_eyeballs_delay=_HAPPY_EYEBALLS_S,
            interleave=1,
            socket_factory=self.network.guard.socket,
        )

    async def _addresses(self, host: str, port: int) -> list[aiohappyeyeballs.AddrInfoType]:
        """The addresses of a host name, or the literal address itself. Raises FetchError."""
        try:
            literal = ip_address(host)
        except ValueError:
            try:
                found = await self.network.resolver.resolve(host, port)
            except OSError as error:
                raise FetchError(PageStatus.DNS_FAILURE, "the host name does not resolve") from error
            return [(f["family"], socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (f["host"], f["port"])) for f in found]
        family = socket.AF_INET if literal.version == 4 else socket.AF_INET6
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (str(literal), port))]


def _target(origin: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is used, from ``https://host:port``."""
    scheme, _, authority = origin.partition("://")
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    is_tls = scheme == "https"
    return host.removesuffix("."), int(port) if port else 443 if is_tls else 80, is_tls


def _head(request: tuple[bytes, HeaderList]) -> bytes:
    line, headers = request
    return b"\r\n".join((line, *map(b": ".join, headers), b"", b""))


def percent_encode_raw(text: str) -> str:
    """Text that was decoded with surrogateescape, with ``%E9`` for a byte 0xE9 that is not UTF-8."""
    return _RAW_BYTE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def resolve_redirect(base: str, location: str) -> str | None:
    """The absolute http(s) URL of a Location header, without fragment; None if it is not usable.

    Bytes that are not UTF-8 are percent-encoded, as browsers do. The URL is not canonicalized: a server that redirects
    to itself with another parameter wants to see that parameter.
    """
    try:
        url = ada_url.URL(percent_encode_raw(location), base=base)
    except (ValueError, UnicodeError):
        return None
    if url.protocol not in ("http:", "https:") or not url.hostname or url.username or url.password:
        return None
    url.hash = ""
    return str(url.href)


def origin_of(url: str) -> str:
    """``https://host:port``, the unit that a robots.txt belongs to. ``url`` is as a parser writes it."""
    return url[: url.index("/", 8)]  # after http:// or https://


def fast_host_of(url: str) -> str:
    """The host of a URL as a parser writes it. The same as ``host_of``, fifty times as fast."""
    authority = url[url.index("//") + 2 : url.index("/", 8)]
    if authority.startswith("[") or "@" in authority:
        return host_of(url)
    return authority.partition(":")[0].removesuffix(".")
