"""The web that benchmarks/crawl.py crawls: every address of 127.0.0.0/8 is a host, and every path is a page.

    python -m benchmarks.crawl_server [--page-bytes N] [--slow CIDR]...     prints its port, serves until terminated

Pages look like those of a news site: markup, navigation, scripts, and prose of made-up words. gzip at level 6 shrinks
them 4.0 times, and real news pages of that size 4.2 times. The server makes a few pages at its start and writes the
requested address and path into the title, so every page differs. It answers from prepared bytes in one callback per
request, so the clients are the bottleneck.

    /robots.txt     rules that allow the pages
    /.well-known/   404
    /-/served       the number of requests answered so far, without those for this path

Hosts in a ``--slow`` network send one byte/s. Hosts with an odd last number send every answer that slowly. The others
are fast for robots.txt and headers and slow for the bodies of pages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import zlib
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import cast

from data.process import die_with_parent

ROBOTS = b"User-agent: *\nDisallow: /private/\nDisallow: /search\n"
TEMPLATES = 32  # distinct pages; more would only cost memory
MARK = b"@" * 96  # placeholder for the page's address and path
BACKLOG = 4096

_SYLLABLES = (
    "an be cor da en fi gra hel in jo ka li mon ne or pe qui ra sta te ul ver wi xa yo zen ing ed er ly".split()
)


def template(page_bytes: int, seed: int) -> bytes:
    """A page of exactly ``page_bytes`` bytes that holds MARK once."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]  # Zipf's law

    def prose(n: int) -> str:
        return " ".join(rng.choices(words, weights, k=n)).capitalize() + "."

    def link() -> str:
        slug = "-".join(rng.choices(words, k=5))
        href = f"/{rng.randint(2000, 2026)}/{slug}.html"
        return f'<li class="menu-item menu-item-type-post_type"><a href="{href}">{prose(5)}</a></li>'

    head = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{MARK.decode()}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta property="og:description" content="{prose(30)}">\n'
        '<link rel="stylesheet" href="/static/main.css">\n</head>\n<body class="article">\n'
    )
    parts = [head]
    size = len(head)
    while size < page_bytes:
        block = (
            f'<nav class="navigation"><ul id="menu-{rng.randint(1, 9999)}">'
            + "\n".join(link() for _ in range(12))
            + "</ul></nav>\n"
            + f'<script type="text/javascript">window.dataLayer.push({{"id": "{rng.getrandbits(64):x}"}});</script>\n'
            + "".join(f'<p class="article__paragraph">{prose(rng.randint(30, 70))}</p>\n' for _ in range(2))
        )
        parts.append(block)
        size += len(block)
    tail = "</body></html>\n"
    page = "".join(parts)[: page_bytes - len(tail)] + tail
    return page.encode()


class PreparedPages:
    """The pages, and how many requests were answered."""

    def __init__(self, page_bytes: int, slow: tuple[IPv4Network, ...]) -> None:
        pages = (template(page_bytes, seed) for seed in range(TEMPLATES))
        self.pages = [tuple(page.split(MARK)) for page in pages]
        self.page_head = _head(page_bytes, "text/html; charset=utf-8")
        self.slow = slow
        self.served = 0

    def answer(self, host: bytes, path: bytes) -> tuple[bytes, list[bytes]]:
        """The head and the body that answer a GET."""
        if path == b"/-/served":
            body = str(self.served).encode()
            return _head(len(body), "text/plain"), [body]
        self.served += 1
        if path == b"/robots.txt":
            return _head(len(ROBOTS), "text/plain"), [ROBOTS]
        if path.startswith(b"/.well-known/"):
            return _head(0, "text/plain", "404 Not Found"), []
        before, after = self.pages[zlib.crc32(path) % len(self.pages)]
        return self.page_head, [before, (host + path)[: len(MARK)].ljust(len(MARK)), after]


def _head(length: int, kind: str, status: str = "200 OK") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nServer: nginx\r\nDate: Mon, 23 Nov 2026 12:00:00 GMT\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {length}\r\nConnection: keep-alive\r\nCache-Control: max-age=60\r\n"
        "Vary: Accept-Encoding\r\nX-Frame-Options: SAMEORIGIN\r\n\r\n"
    ).encode()


class PageConnection(asyncio.Protocol):
    """One connection; answers its requests in order."""

    def __init__(self, site: PreparedPages) -> None:
        self.site = site
        self.buffer = b""
        self.trickle: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.host = transport.get_extra_info("sockname")[0].encode()
        address = ip_address(self.host.decode())
        self.is_slow = any(address in net for net in self.site.slow)
        self.is_slow_at_once = int(cast(IPv4Address, address)) % 2 == 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            request, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            path = request.split(b" ", 2)[1]
            head, body = self.site.answer(self.host, path)
            if not self.is_slow or (path == b"/robots.txt" and not self.is_slow_at_once):
                self.transport.writelines([head, *body])
            elif self.is_slow_at_once:
                self.trickle = asyncio.ensure_future(self._trickle(b"", head + b"".join(body)))
            else:
                self.trickle = asyncio.ensure_future(self._trickle(head, b"".join(body)))

    def connection_lost(self, _error: Exception | None) -> None:
        if self.trickle is not None:
            self.trickle.cancel()

    async def _trickle(self, at_once: bytes, rest: bytes) -> None:
        self.transport.write(at_once)
        for index in range(len(rest)):
            self.transport.write(rest[index : index + 1])
            await asyncio.sleep(1.0)


async def serve(port: int, page_bytes: int, slow: tuple[IPv4Network, ...]) -> None:
    """Listen on all addresses and print the port."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    site = PreparedPages(page_bytes, slow)
    server = await loop.create_server(lambda: PageConnection(site), "0.0.0.0", port, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0: any free one")
    parser.add_argument("--page-bytes", type=int, default=60_000)
    parser.add_argument("--slow", type=IPv4Network, action="append", default=[], metavar="CIDR")
    arguments = parser.parse_args()
    die_with_parent()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.port, arguments.page_bytes, tuple(arguments.slow)))


if __name__ == "__main__":
    main()
