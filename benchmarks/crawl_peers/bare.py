"""A bare aiohttp loop: what the least that can be called a crawl costs. No robots.txt, no limits, bodies thrown away.

    python -m benchmarks.crawl_peers.bare URLS CONNECTIONS

The URLs of one host are asked for in turn on one connection; CONNECTIONS hosts at once.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from benchmarks.crawl_peers.meter import Meter
from data.process import die_with_parent


async def crawl(urls: list[str], connections: int) -> int:
    """How many pages came whole."""
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
    with Meter() as meter:
        pages = asyncio.run(crawl(urls, connections))
    meter.print_result(pages)


if __name__ == "__main__":
    main()
