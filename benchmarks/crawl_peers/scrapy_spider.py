"""Scrapy, set up to be fast: it obeys robots.txt as we do, and writes nothing.

    python -m benchmarks.crawl_peers.scrapy_spider URLS CONNECTIONS

One connection a host, as ours, and the event loop that is fastest for it. Off is all that a crawl of a list does not
need: log, statistics, console, cookies, retries, proxies, the referrer and depth of followed links, the filter of
duplicates.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.http import Response

from benchmarks.crawl_peers.meter import Meter
from data.process import die_with_parent

SETTINGS: dict[str, Any] = {
    "ROBOTSTXT_OBEY": True,
    "DOWNLOAD_DELAY": 0,
    "CONCURRENT_REQUESTS_PER_DOMAIN": 1,
    "LOG_ENABLED": False,
    "LOGSTATS_INTERVAL": 0,
    "TELNETCONSOLE_ENABLED": False,
    "COOKIES_ENABLED": False,
    "RETRY_ENABLED": False,
    "REFERER_ENABLED": False,
    "MEMUSAGE_ENABLED": False,
    "METAREFRESH_ENABLED": False,
    "HTTPPROXY_ENABLED": False,
    "DOWNLOADER_STATS": False,
    "ASYNCIO_EVENT_LOOP": "uvloop.Loop",
    "DUPEFILTER_CLASS": "scrapy.dupefilters.BaseDupeFilter",
    "SPIDER_MIDDLEWARES": {"scrapy.spidermiddlewares.depth.DepthMiddleware": None},
}


class ListSpider(scrapy.Spider):
    """Asks for every URL of a list and counts the whole answers."""

    name = "list"

    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        self.urls, self.pages = urls, 0

    async def start(self) -> AsyncIterator[Any]:
        for url in self.urls:
            yield scrapy.Request(url, dont_filter=True)

    def parse(self, response: Response) -> None:
        length = int(response.headers[b"Content-Length"] or 0)
        self.pages += response.status == 200 and len(response.body) == length


def main() -> None:
    die_with_parent()
    urls, connections = Path(sys.argv[1]).read_text().split(), int(sys.argv[2])
    process = CrawlerProcess(SETTINGS | {"CONCURRENT_REQUESTS": connections})
    crawler = process.create_crawler(ListSpider)
    with Meter() as meter:
        process.crawl(crawler, urls)
        process.start()
    assert isinstance(crawler.spider, ListSpider)
    meter.print_result(crawler.spider.pages)


if __name__ == "__main__":
    main()
