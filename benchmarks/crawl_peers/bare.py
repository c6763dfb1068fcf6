"""A bare aiohttp loop, the least that a crawl can cost: no robots.txt, no limits, bodies discarded.

    python -m benchmarks.crawl_peers.bare URLS CONNECTIONS

Requests the URLs of a host in turn on one connection, CONNECTIONS hosts at once.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from benchmarks.crawl_peers.stopwatch import Stopwatch
from data.process import die_with_parent


async def crawl(urls: list[str], connections: int) -> int:
    """Fetch the URLs; returns the number of complete pages."""
    hosts = iter([list(of_host) for _, of_host in groupby(sorted(urls), key=lambda url: urlsplit(url).netloc)])
    pages = 0

    async def worker(session: aiohttp.ClientSession) -> None:
        nonlocal pages
        for of_host in hosts:
            for url in of_host:
                async with session.get(url) as response:
                    body = await response.read()
                    pages += response.status == 200 and len(body) == response.content_length

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(connections)))
    return pages


def main() -> None:
    die_with_parent()
    urls, connections = Path(sys.argv[1]).read_text().split(), int(sys.argv[2])
    with Stopwatch() as stopwatch:
        pages = asyncio.run(crawl(urls, connections))
    stopwatch.print_result(pages)


if __name__ == "__main__":
    main()
