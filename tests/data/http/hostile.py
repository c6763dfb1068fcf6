"""A real HTTP server on loopback whose answers a test controls down to the bytes, and which records its requests.

Each host has an address (127.1.0.1 and up), which `Names`, a name server for tests, resolves. With ``allow_net=(NET,)``
these addresses play the public Internet; all others stay forbidden.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

NET = "127.1.0.0/16"
ADDRESSES = tuple(f"127.1.0.{n}" for n in range(1, 17))
PAGE = b"<!doctype html><title>A page</title><p>Some words of a page."
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
BUSY = "503 Service Unavailable"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
TDMREP = "/.well-known/tdmrep.json"


@dataclass
class Request:
    """One request as the server saw it. ``ended`` is taken before the answer is written, so the client has it later.

    Times are of the monotonic clock, which all processes of a machine share.
    """

    host: str
    path: str
    headers: dict[str, str]
    connection: int
    address: str  # the address that the client connected to
    started: float
    ended: float = 0.0


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes = PAGE, status: str = "200 OK", **headers: str) -> Handler:
    """A plain answer. Header names are written with ``_`` for ``-``; the type is HTML by default."""
    fields = {"content-type": "text/html; charset=utf-8", "content-length": str(len(body))}
    fields |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return raw(f"HTTP/1.1 {status}\r\n{head}\r\n".encode(errors="surrogateescape") + body)


def redirect(location: str, status: str = "302 Found") -> Handler:
    return reply(b"", status, location=location)


def rules(text: str) -> Handler:
    """A robots.txt."""
    return reply(text.encode(), content_type="text/plain")


def raw(*pieces: bytes, then: str = "keep", pause_s: float = 0.05) -> Handler:
    """Raw bytes, with a pause between the pieces. ``then`` the connection is kept, closed, reset, or held open in
    silence (``hang``).
    """

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        request.ended = time.monotonic()
        for n, piece in enumerate(pieces):
            if n:
                await asyncio.sleep(pause_s)
            writer.write(piece)
            await writer.drain()
        if then == "reset":
            if pieces != (b"",):
                await asyncio.sleep(pause_s)  # a reset overtakes bytes sent just before
            reset(writer)
        elif then == "close":
            writer.close()
        elif then == "hang":
            await asyncio.sleep(60)

    return handler


def drip(head: bytes, piece: bytes, pause_s: float) -> Handler:
    """Send the head, and then the piece again and again until the client goes away."""

    async def handler(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handler


def in_turn(*handlers: Handler) -> Handler:
    """Answer with each in turn, and then repeat the last one."""
    left = list(handlers)

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(request, writer)

    return handler


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset."""
    opened = writer.transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # the client was faster
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@dataclass
class Web:
    """Pages by ``host/path``. Anything else is a 404, including robots.txt."""

    pages: dict[str, Handler] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)  # the address of each connection
    resets: set[int] = field(default_factory=set)  # the connections, counted from 0, that are reset on accept
    greeting: Handler | None = None  # bytes that a connection gets before any request, and nothing after them
    port: int = 0
    tls_port: int = 0
    n_open: int = 0
    most_open: int = 0
    open_by_host: dict[str, int] = field(default_factory=dict)
    most_by_host: dict[str, int] = field(default_factory=dict)
    _addresses: dict[str, str] = field(default_factory=dict)
    _listening: list[asyncio.Server] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tls: ssl.SSLContext | None = None

    def __setitem__(self, url: str, handler: Handler) -> None:
        self.pages[url.removeprefix("http://").removeprefix("https://")] = handler

    def asked(self, host: str) -> list[str]:
        """The paths requested from a host, in order."""
        return [request.path for request in self.log if request.host == host]

    def requests(self, host: str) -> list[Request]:
        return [request for request in self.log if request.host == host]

    def address(self, host: str) -> str:
        """The address of a host. Hosts share addresses once there are too few."""
        return self._addresses.setdefault(host, ADDRESSES[len(self._addresses) % len(ADDRESSES)])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, hosts = len(self.opened), set[str]()
        address = writer.get_extra_info("sockname")[0]
        self.opened.append(address)
        if number in self.resets:
            reset(writer)
            return
        if self.greeting is not None:
            with contextlib.suppress(ConnectionError):
                await self.greeting(Request("", "", {}, number, address, time.monotonic()), writer)
            return
        self._writers.add(writer)
        self.n_open += 1
        self.most_open = max(self.most_open, self.n_open)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = head.split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                host = headers["host"]
                if host not in hosts:
                    hosts.add(host)
                    self.open_by_host[host] = self.open_by_host.get(host, 0) + 1
                    self.most_by_host[host] = max(self.most_by_host.get(host, 0), self.open_by_host[host])
                request = Request(host, first.split(" ")[1], headers, number, address, time.monotonic())
                self.log.append(request)
                await self.pages.get(host + request.path, raw(MISSING))(request, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return
        finally:
            for host in hosts:
                self.open_by_host[host] -= 1
            self._writers.discard(writer)
            self.n_open -= 1
            writer.close()

    async def go_up(self) -> None:
        """Listen, on the same ports as last time, if any."""
        for _ in range(20):
            ports = [self.port or _free_port(), *([self.tls_port or _free_port()] if self._tls else [])]
            try:
                self._listening = [
                    await asyncio.start_server(self.serve, ADDRESSES, port, ssl=tls)
                    for port, tls in zip(ports, (None, self._tls), strict=False)
                ]
            except OSError:
                continue  # another process took the port meanwhile
            self.port, self.tls_port = [*ports, 0][:2]
            return
        raise AssertionError("no port is free")

    async def go_down(self) -> None:
        """Stop listening and reset open connections."""
        for server in self._listening:
            server.close()
        self._listening.clear()
        for writer in list(self._writers):
            reset(writer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESSES[0], 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(web: Web, tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """Serve in a separate thread, so that the code under test may block."""
    web._tls = tls
    loop = asyncio.new_event_loop()
    stop: asyncio.Event
    ready = threading.Event()

    async def main() -> None:
        nonlocal stop
        stop = asyncio.Event()
        try:
            await web.go_up()
        finally:
            ready.set()
        await stop.wait()
        await web.go_down()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait()
    try:
        yield web
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


Records = Sequence[str] | Exception | None
"""The addresses of a name, or what the look-up raises; None: it never ends."""


class Names(AbstractResolver):
    """A name server. Hosts in ``records`` have those addresses, all others an address of the web.

    If a name has several records, each look-up takes the next and the last one stays. Ports 80 and 443 lead to the
    server, except for names in ``records`` that are not in ``at_server``.
    """

    def __init__(self, web: Web, records: Mapping[str, Sequence[Records]] | None = None, *, at_server: bool = False):
        self.web, self.at_server = web, at_server
        self.left = {name: list(answers) for name, answers in (records or {}).items()}
        self.asked: list[str] = []
        self.is_down = False  # nothing resolves any more

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if self.is_down:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")
        found: Records = [self.web.address(host)]
        if answers := self.left.get(host):
            found = answers.pop(0) if len(answers) > 1 else answers[0]
        if found is None:
            await asyncio.sleep(60)
        if found is None or isinstance(found, Exception):
            raise found or AssertionError
        if self.at_server or host not in self.left:
            port = {80: self.web.port, 443: self.web.tls_port}.get(port, port)
        return [_record(host, address, port) for address in found]

    async def close(self) -> None:
        pass


def _record(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


def gaps_s(requests: Sequence[Request]) -> list[float]:
    """From the end of each request to the start of the next."""
    return [later.started - earlier.ended for earlier, later in itertools.pairwise(requests)]


def prove_polite(web: Web, delays_s: Mapping[str, float] | float, forbidden: Sequence[str] = ()) -> None:
    """Check the access log. No host got a request earlier than its delay after its last answer, or over two connections
    at once. Its robots.txt came first. Nothing below a forbidden ``host/path`` was requested.
    """
    assert web.log, "nothing was asked at all"
    for host in {request.host for request in web.log}:
        requests = web.requests(host)
        delay_s: Any = delays_s if isinstance(delays_s, float) else delays_s[host]
        assert min(gaps_s(requests), default=delay_s) >= delay_s, host
        assert web.most_by_host[host] == 1, host
        assert requests[0].path == "/robots.txt", host
    assert not [r for r in web.log if (r.host + r.path).startswith(tuple(forbidden))]
