"""Scrapy with the fastest settings we found: it obeys robots.txt like ours, and writes nothing.

    python -m benchmarks.crawl_peers.scrapy_spider URLS CONNECTIONS

One connection per host, like ours, and Scrapy's fastest event loop. Everything that the crawl of a list does not need
is off: log, statistics, console, cookies, retries, proxies, referrer, depth and duplicate filter.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import scrapy
from scrapy.crawler import CrawlerProcess
from scrapy.http import Response

from benchmarks.crawl_peers.stopwatch import Stopwatch
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
    """Requests every URL of a list and counts the complete pages."""

    name = "list"

    def __init__(self, urls: list[str]) -> None:
        super().__init__()
        self.urls = urls
        self.pages = 0

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
    with Stopwatch() as stopwatch:
        process.crawl(crawler, urls)
        process.start()
    assert isinstance(crawler.spider, ListSpider)
    stopwatch.print_result(crawler.spider.pages)


if __name__ == "__main__":
    main()
