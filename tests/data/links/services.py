"""A loopback server for Algolia's Hacker News search, Firebase, Reddit's listings and files.

``refresh`` reads links from it, at a time that the test chooses.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from data.config import LinksConfig, PagesConfig
from data.lake.manifest import Manifest
from data.lake.store import Lake
from data.links import stage as links

NETWORK = PagesConfig(allow_net=("127.0.0.0/8",), host_delay_s=0.0, backoff_s=0.01)
DAY = 86_400
NOV_1 = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
DEC_1 = NOV_1 + 30 * DAY
NOW = DEC_1 + 5 * DAY
SHOWN = 1_000  # the maximum number of hits per query


@dataclass
class Services:
    """The data and the requests of the server. ``before`` may answer a request instead, with a status and headers."""

    stories: list[dict[str, Any]] = field(default_factory=list)
    items: dict[int, Any] = field(default_factory=dict)
    listings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"1"'
    ranges: bool = True
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    before: Callable[[str], tuple[int, dict[str, str]] | None] = lambda _: None
    phantoms: Callable[[int, int], int] = lambda start, end: 0  # noqa: ARG005 - counted in a window, never shown
    port: int = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def config(self, **settings: Any) -> LinksConfig:
        urls = {"hn_search_url": f"{self.base}/api/v1", "hn_items_url": f"{self.base}/v0", "reddit_url": self.base}
        return LinksConfig(**{**urls, **settings})

    def windows(self) -> list[tuple[int, int]]:
        """The time windows of the search requests."""
        found = []
        for path in self.asked:
            filters = parse_qs(urlsplit(path).query).get("numericFilters")
            if filters:
                found.append(_window(filters[0]))
        return found

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/api/v1/search_by_date":
            return _json(self._search(query))
        if parts.path == "/v0/maxitem.json":
            return _json(max(self.items))
        if match := re.fullmatch(r"/v0/item/(\d+)\.json", parts.path):
            return _json(self.items.get(int(match[1])))
        if parts.path in self.listings:
            return _json(_listing(self.listings[parts.path], query))
        if parts.path in self.files:
            return self._file(self.files[parts.path], headers)
        return 404, {}, b"<html>not here</html>"

    def _search(self, query: dict[str, str]) -> dict[str, Any]:
        start, end = _window(query["numericFilters"])
        assert query["tags"] == "story"
        size, page = int(query["hitsPerPage"]), int(query["page"])
        found = [story for story in self.stories if start <= story["created_at_i"] < end]
        shown = sorted(found, key=lambda story: -story["created_at_i"])[:SHOWN]
        return {
            "hits": [story | {"_highlightResult": {"title": {}}} for story in shown[page * size : (page + 1) * size]],
            "nbHits": len(found) + self.phantoms(start, end),
            "nbPages": -(-len(shown) // size),
            "page": page,
            "hitsPerPage": size,
        }

    def _file(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))
        if not self.ranges or match is None:
            return 200, {"ETag": self.etag}, body
        first, last = int(match[1]), min(int(match[2]), len(body) - 1)
        said = {"ETag": self.etag, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
        return 206, said, body[first : last + 1]


def story(number: int, at: int, points: int = 10, **fields: Any) -> dict[str, Any]:
    """A hit in Algolia's format."""
    return {
        "objectID": str(number),
        "created_at_i": at,
        "points": points,
        "url": f"https://site{number}.example/story",
        "title": f"Story {number}",
        "author": "someone",
        "num_comments": 3,
        "_tags": ["story"],
    } | fields


def submission(number: int, at: float, score: int = 10, **fields: Any) -> dict[str, Any]:
    """A submission in the format of Reddit's API."""
    return {
        "id": f"r{number}",
        "created_utc": at,
        "subreddit": "news",
        "domain": f"site{number}.example",
        "url": f"https://site{number}.example/?a=1&amp;b=2",
        "score": score,
        "is_self": False,
        "over_18": False,
    } | fields


@contextmanager
def serving(services: Services) -> Iterator[Services]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            services.asked.append(self.path)
            services.headers.append(dict(self.headers))
            instead = services.before(self.path)
            status, headers, body = (*instead, b"busy") if instead else services.answer(self.path, dict(self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    services.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield services
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refresh(
    lake: Path,
    snapshot: str,
    specs: Sequence[str],
    services: Services,
    now: int = NOW,
    network: PagesConfig = NETWORK,
    **settings: Any,
) -> Manifest:
    """Read the links of these sources at the time ``now``."""
    config = services.config(**settings)
    return links.run(Lake(lake), snapshot, specs, config, network=network, clock=lambda: now).manifest


def links_of(lake: Path, snapshot: str) -> dict[str, dict[str, Any]]:
    """The rows of a links dataset, by canonical URL."""
    dataset = Lake(lake).dataset("links", snapshot)
    names = [part.name for part in dataset.require().parts if part.name.startswith("part-")]
    rows = [row for name in names for row in dataset.read(f"{name}.parquet").to_pylist()]
    return {row["canonical_url"]: row for row in rows}


def _window(filters: str) -> tuple[int, int]:
    match = re.fullmatch(r"created_at_i>=(\d+),created_at_i<(\d+)", filters)
    assert match is not None, filters
    return int(match[1]), int(match[2])


def _listing(posts: list[dict[str, Any]], query: dict[str, str]) -> dict[str, Any]:
    names = [f"t3_{post['id']}" for post in posts]
    start = names.index(query["after"]) + 1 if "after" in query else 0
    page = posts[start : start + int(query["limit"])]
    is_last = start + len(page) >= len(posts)
    children = [{"kind": post.get("_kind", "t3"), "data": post} for post in page]
    return {
        "kind": "Listing",
        "data": {"after": None if is_last else f"t3_{page[-1]['id']}", "before": None, "children": children},
    }


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
