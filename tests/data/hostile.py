"""A real HTTP server on loopback that answers as it is told, down to the bytes, and notes what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

PAGE = b"<!doctype html><title>A page</title><p>Some words of a page."
ROBOTS_MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Request:
    """One request as the server saw it; ``ended`` is taken before the answer is written, so the client has it later."""

    host: str
    path: str
    headers: dict[str, str]
    connection: int
    started: float
    ended: float = 0.0


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def reply(body: bytes = PAGE, status: str = "200 OK", **headers: str) -> Handler:
    """A plain answer; header names are written with ``_`` for ``-``; the type is HTML unless said otherwise."""
    fields = {"content-type": "text/html; charset=utf-8", "content-length": str(len(body))}
    fields |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return raw(f"HTTP/1.1 {status}\r\n{head}\r\n".encode(errors="surrogateescape") + body)


def redirect(location: str, status: str = "302 Found") -> Handler:
    return reply(b"", status, location=location)


def raw(data: bytes, *, then: str = "keep") -> Handler:
    """Bytes as they are; ``then`` the connection is kept, closed, reset, or held open in silence (``hang``)."""

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        request.ended = time.monotonic()
        writer.write(data)
        await writer.drain()
        if then == "reset":
            writer.transport.abort()
        elif then == "close":
            writer.close()
        elif then == "hang":
            await asyncio.sleep(60)

    return handler


@dataclass
class Web:
    """Pages by ``host/path``. What is not listed is a 404, robots.txt too."""

    pages: dict[str, Handler] = field(default_factory=dict)
    log: list[Request] = field(default_factory=list)
    port: int = 0
    tls_port: int = 0
    open_by_host: dict[str, int] = field(default_factory=dict)
    most_by_host: dict[str, int] = field(default_factory=dict)

    def __setitem__(self, url: str, handler: Handler) -> None:
        self.pages[url.removeprefix("http://").removeprefix("https://")] = handler

    def asked(self, host: str) -> list[str]:
        """The paths asked of a host, in order."""
        return [request.path for request in self.log if request.host == host]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, hosts = id(writer), set()
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
                request = Request(host, first.split(" ")[1], headers, number, time.monotonic())
                self.log.append(request)
                missing = raw(ROBOTS_MISSING)
                await self.pages.get(host + request.path, missing)(request, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return
        finally:
            for host in hosts:
                self.open_by_host[host] -= 1
            writer.close()


@contextlib.contextmanager
def serving(web: Web, tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """Serve in a thread of its own, so that what is tested may block."""
    loop = asyncio.new_event_loop()
    stop: asyncio.Event
    ready = threading.Event()

    async def main() -> None:
        nonlocal stop
        stop = asyncio.Event()
        server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
        web.port = server.sockets[0].getsockname()[1]
        secure = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=tls) if tls else None
        web.tls_port = secure.sockets[0].getsockname()[1] if secure else 0
        ready.set()
        await stop.wait()
        for one in (server, secure):
            if one is not None:
                one.close()
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
