"""The local web's server: a few hundred host names on one loopback port.

    python -m flows.localweb.server --home DIR [--port 0]     prints {"port": N, "dump": PATH} when it is ready

``--connect-to '*.example=127.0.0.1:PORT'`` directs a crawler here. The Host header selects the site, so no URL has a
port or an address. The plan (flows/localweb/plan.py) decides every answer. Most are pages, the others are what goes
wrong on the web: endless bodies, decompression bombs, silence. None is held in memory.

The server ends on SIGTERM, and when the process that started it dies. It serves about 1,100 pages/s (0.75 ms of CPU
per page).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gzip
import json
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import brotli
from aiohttp import web

from data.process import die_with_parent
from flows.localweb.build import Built, build
from flows.localweb.dump import DumpCounts
from flows.localweb.site import Route, Site, host_of

BOMB_BYTES = 160_000_000  # decoded
SILENCE_S = 600.0  # longer than any crawler waits
DRIP_EVERY_S = 0.5
_MIB = 1 << 20
_FILES = {
    "application/pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
    "image/png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00",
    "application/json": b'{"items": [{"id": 1, "title": "not a page"}]}',
    "text/plain; charset=utf-8": b"Plain text is no page either.\n",
}


@dataclass(frozen=True)
class LocalWeb:
    """A running server. ``connect_to`` is for PagesConfig, ``dump`` a source for the links stage."""

    port: int
    connect_to: tuple[str, ...]
    dump: Path
    dump_counts: DumpCounts
    site: Site


@contextlib.contextmanager
def running(home: Path) -> Iterator[LocalWeb]:
    """The local web, served by a child process until the block ends, or until the thread that entered it ends.

    Raises InputError as ``build`` does, and RuntimeError if the child does not start.
    """
    built = build(home)
    log = home / "localweb" / "server.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.localweb.server", "--home", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C must not end it before the crawler: good links would fail
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the local web did not start, exit code {process.wait()}; see {log}")
        port = json.loads(line)["port"]
        yield LocalWeb(port, (f"*.example=127.0.0.1:{port}",), built.dump, built.dump_counts, built.site)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    """The command line of the server."""
    parser = argparse.ArgumentParser(prog="python -m flows.localweb.server", description="Serve the bundled local web.")
    parser.add_argument(
        "--home", type=Path, required=True, help="state directory, where the local web is built and kept"
    )
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free port")
    arguments = parser.parse_args()
    die_with_parent(signal.SIGTERM)
    asyncio.run(_serve(build(arguments.home), arguments.port))


async def _serve(built: Built, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", functools.partial(_handle, built.site))
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    print(json.dumps({"port": runner.addresses[0][1], "dump": str(built.dump)}), flush=True)
    await stop.wait()
    await runner.cleanup()


async def _handle(site: Site, request: web.Request) -> web.StreamResponse:
    name = request.host.partition(":")[0].lower()
    host = site.hosts.get(name)
    if host is not None and request.raw_path == "/robots.txt":
        return web.Response(status=host.robots_status, text=host.robots, content_type="text/plain")
    url = f"http://{name}{request.raw_path}"
    route = site.routes.get(url)
    if host is None or route is None:
        return web.Response(status=404, text="<h1>Not found</h1>", content_type="text/html")
    if route.answer in ("page", "copy"):
        return _page(site, url, route, request)
    return await ANSWERS[route.answer](request, route)


def _page(site: Site, url: str, route: Route, request: web.Request) -> web.Response:
    headers = {"Content-Type": route.content_type}
    body = site.html(url)
    encoding = site.hosts[host_of(url)].encoding
    if encoding and encoding in request.headers.get("Accept-Encoding", ""):
        body = _COMPRESS[encoding](body)
        headers["Content-Encoding"] = encoding
    return web.Response(body=body, headers=headers)


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, compresslevel=1, mtime=0),
    "deflate": functools.partial(zlib.compress, level=1),
    "br": functools.partial(brotli.compress, quality=1),
}


async def _redirect(_request: web.Request, route: Route) -> web.StreamResponse:
    return web.Response(status=route.status, headers={"Location": route.location} if route.location else {})


async def _status(_request: web.Request, route: Route) -> web.StreamResponse:
    body = None if route.status == 204 else f"<html><body><h1>{route.status}</h1></body></html>"
    return web.Response(status=route.status, text=body, content_type="text/html")


async def _file(_request: web.Request, route: Route) -> web.StreamResponse:
    return web.Response(body=_FILES[route.content_type], headers={"Content-Type": route.content_type})


async def _empty(_request: web.Request, route: Route) -> web.StreamResponse:
    return web.Response(headers={"Content-Type": route.content_type})


async def _opted_out(meta: str, headers: dict[str, str], _request: web.Request, route: Route) -> web.StreamResponse:
    text = f"<!DOCTYPE html><html><head><title>Ours</title>{meta}</head><body><p>For people to read.</p></body></html>"
    return web.Response(text=text, headers={"Content-Type": route.content_type, **headers})


async def _begin(request: web.Request, route: Route, **headers: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": route.content_type, **headers})
    await response.prepare(request)
    return response


async def _endless(request: web.Request, route: Route) -> web.StreamResponse:
    response = await _begin(request, route)
    await response.write(b"<!DOCTYPE html><html><body>")
    paragraphs = b"<p>And then the story went on for a while, as stories do.</p>\n" * 1_000
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(paragraphs)
            await asyncio.sleep(0)  # let other clients have their turn
    return response


async def _bomb(request: web.Request, route: Route) -> web.StreamResponse:
    response = await _begin(request, route, **{"Content-Encoding": "gzip"})
    stream = zlib.compressobj(9, wbits=31)
    with contextlib.suppress(ConnectionError):
        await response.write(stream.compress(b"<!DOCTYPE html><html><body>"))
        for _ in range(0, BOMB_BYTES, _MIB):
            await response.write(stream.compress(b" " * _MIB))
            await asyncio.sleep(0)
        await response.write(stream.flush())
    return response


async def _broken_gzip(_request: web.Request, route: Route) -> web.StreamResponse:
    broken = bytearray(gzip.compress(b"<html><body>" + b"something else " * 500, mtime=0))
    broken[20:40] = b"\xff" * 20
    headers = {"Content-Type": route.content_type, "Content-Encoding": "gzip"}
    return web.Response(body=bytes(broken), headers=headers)


async def _reset(request: web.Request, _route: Route) -> web.StreamResponse:
    _abort(request)
    return web.Response()


async def _cut(request: web.Request, route: Route) -> web.StreamResponse:
    response = await _begin(request, route, **{"Content-Length": "50000"})
    await response.write(b"<!DOCTYPE html><html><body><p>This page is about to")
    await asyncio.sleep(0.05)  # the beginning must be on the wire first
    _abort(request)
    return response


def _abort(request: web.Request) -> None:
    """Close the connection with a TCP reset, which SO_LINGER with a time of zero causes."""
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


async def _silent(_request: web.Request, _route: Route) -> web.StreamResponse:
    await asyncio.sleep(SILENCE_S)
    return web.Response(status=503)


async def _drip(request: web.Request, route: Route) -> web.StreamResponse:
    response = await _begin(request, route)
    for _ in range(int(SILENCE_S / DRIP_EVERY_S)):
        await response.write(b".")
        await asyncio.sleep(DRIP_EVERY_S)
    return response


ANSWERS: dict[str, Callable[[web.Request, Route], Awaitable[web.StreamResponse]]] = {
    "redirect": _redirect,
    "status": _status,
    "file": _file,
    "empty": _empty,
    "endless": _endless,
    "bomb": _bomb,
    "broken_gzip": _broken_gzip,
    "reset": _reset,
    "cut": _cut,
    "silent": _silent,
    "drip": _drip,
    "noai_header": functools.partial(_opted_out, "", {"X-Robots-Tag": "noai"}),
    "noai_meta": functools.partial(_opted_out, '<meta name="robots" content="index, noai">', {}),
    "reserved": functools.partial(_opted_out, "", {"tdm-reservation": "1"}),
}
"""How to answer a route that is not a page, by ``Route.answer``."""


if __name__ == "__main__":
    main()
