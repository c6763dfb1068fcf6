"""Two web archives on loopback: Common Crawl (indexes and range reads) and the Wayback Machine (CDX and raw captures).

The records lie in WARC files that our own writer or warcio wrote. As in the real archives, a look-up ignores the URL's
scheme, ``www.`` and case. ``wrong`` replaces the right answer by one that a test chooses.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime

from aiohttp import web
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter as WarcioWriter

from data.config import ArchiveUrls
from data.warc import WarcWriter

INDEX, DATA, WAYBACK = "index.archive.example", "data.archive.example", "wayback.archive.example"
HTML = "text/html; charset=utf-8"

Wrong = Callable[[web.BaseRequest], web.Response | None]


def key_of(url: str) -> str:
    return re.sub(r"^https?://(www\.)?", "", url.lower()).rstrip("/")


def timestamp_of(when: datetime) -> str:
    return when.strftime("%Y%m%d%H%M%S")


@dataclass(frozen=True)
class Held:
    """A capture that an archive holds."""

    url: str
    timestamp: str
    body: bytes
    status: int = 200
    content_type: str = HTML
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def media_type(self) -> str:
        return self.content_type.partition(";")[0]


@dataclass
class ArchiveServer:
    """The captures of the archives, the requests they got, and their wrong answers."""

    port: int = 0
    crawls: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, str]]] = field(default_factory=dict)  # one per crawl's index
    files: dict[str, bytes] = field(default_factory=dict)
    wayback: list[Held] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    log: list[tuple[float, float, str]] = field(default_factory=list)  # from, to, HOST/PATH?QUERY
    n_busy: dict[str, int] = field(default_factory=dict)
    most_busy: dict[str, int] = field(default_factory=dict)

    @property
    def urls(self) -> ArchiveUrls:
        return ArchiveUrls(f"http://{INDEX}", f"http://{DATA}", f"http://{WAYBACK}")

    @property
    def connect_to(self) -> tuple[str, ...]:
        return (f"*.archive.example=127.0.0.1:{self.port}",)

    def add_crawl(self, name: str, begin: datetime, end: datetime) -> None:
        self.crawls[name] = begin, end
        self.rows[name] = []

    def hold(self, crawl: str, held: Held, by: str = "ours") -> dict[str, str]:
        """Put a capture into a crawl's WARC file and index. Returns its index row."""
        file_name = f"crawl-data/{crawl}/segments/1.1/warc/{by}.warc.gz"
        data = self.files.get(file_name, b"")
        member = our_member(held) if by == "ours" else warcio_member(held)
        self.files[file_name] = data + member
        row = {
            "urlkey": key_of(held.url),
            "timestamp": held.timestamp,
            "url": held.url,
            "mime": held.media_type,
            "status": str(held.status),
            "length": str(len(member)),
            "offset": str(len(data)),
            "filename": file_name,
        }
        self.rows[crawl].append(row)
        return row

    def asked(self, host: str) -> list[str]:
        return [url.removeprefix(host) for _, _, url in self.log if url.startswith(host)]

    def answer_with(self, pattern: str, *answers: Callable[[], web.Response] | None) -> None:
        """Give these answers to matching requests, one after the other, and then repeat the last. None is the right
        answer.
        """
        left = list(answers)

        def wrong(request: web.BaseRequest) -> web.Response | None:
            if not re.search(pattern, request.host + request.raw_path):
                return None
            answer = left.pop(0) if len(left) > 1 else left[0]
            return answer() if answer else None

        self.wrong.append(wrong)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        host, began = request.host, time.monotonic()
        self.n_busy[host] = self.n_busy.get(host, 0) + 1
        self.most_busy[host] = max(self.most_busy.get(host, 0), self.n_busy[host])
        try:
            await asyncio.sleep(0.005)  # long enough to notice a second request at the same time
            for wrong in self.wrong:
                answer = wrong(request)
                if answer is not None:
                    return answer
            return self._right(request)
        finally:
            self.n_busy[host] -= 1
            self.log.append((began, time.monotonic(), host + request.raw_path))

    def _right(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path
        if request.host == INDEX and path == "/collinfo.json":
            return web.json_response([_crawl_info(name, *times) for name, times in self.crawls.items()])
        if request.host == INDEX and request.path.endswith("-index"):
            return self._commoncrawl_index(request)
        if request.host == DATA:
            return self._range(request)
        if request.host == WAYBACK and request.path == "/cdx/search/cdx":
            return self._wayback_cdx(request)
        match = re.fullmatch(r"/web/(\d{14})id_/(.*)", path)
        if request.host == WAYBACK and match:
            return self._replay(match[1], match[2])
        return web.Response(status=404, text="no such thing here")

    def _commoncrawl_index(self, request: web.BaseRequest) -> web.Response:
        query = request.query
        rows = self.rows.get(request.path.strip("/").removesuffix("-index"))
        if rows is None:
            return web.Response(status=404, text="Not Found")
        assert query["matchType"] == "exact"
        assert query["output"] == "json"
        rows = [row for row in rows if row["urlkey"] == key_of(query["url"])]
        for rule in query.getall("filter", []):
            name, _, value = rule.removeprefix("=").partition(":")
            rows = [row for row in rows if row[name] == value]
        if not rows:
            return web.json_response({"message": f"No Captures found for: {query['url']}"}, status=404)
        return web.Response(text="".join(json.dumps(row) + "\n" for row in rows[: int(query["limit"])]))

    def _range(self, request: web.BaseRequest) -> web.Response:
        data = self.files.get(request.path.removeprefix("/"))
        if data is None:
            return web.Response(status=404, text="NoSuchKey")
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if match is None:
            return web.Response(body=data)
        first, last = int(match[1]), min(int(match[2]), len(data) - 1)
        if first > last:
            return web.Response(status=416)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return web.Response(status=206, body=data[first : last + 1], headers=headers)

    def _wayback_cdx(self, request: web.BaseRequest) -> web.Response:
        query = request.query
        assert query["matchType"] == "exact"
        assert query["output"] == "json"
        assert query["sort"] == "closest"
        held = [one for one in self.wayback if key_of(one.url) == key_of(query["url"])]
        for rule in query.getall("filter", []):
            name, _, value = rule.partition(":")
            held = [one for one in held if {"statuscode": str(one.status), "mimetype": one.media_type}[name] == value]
        closest = _moment(query["closest"])
        held.sort(key=lambda one: abs(_moment(one.timestamp) - closest))
        names = query["fl"].split(",")
        rows = [[{"timestamp": one.timestamp, "original": one.url}[name] for name in names] for one in held]
        return web.json_response([names, *rows[: int(query["limit"])]] if rows else [])

    def _replay(self, timestamp: str, url: str) -> web.Response:
        for held in self.wayback:
            if (held.timestamp, held.url) == (timestamp, url):
                return memento(held)
        return web.Response(status=404, text="The Wayback Machine has not archived that URL.")


def memento(held: Held) -> web.Response:
    """A raw capture in the form of the Wayback Machine."""
    headers = {f"x-archive-orig-{name}": value for name, value in held.headers}
    headers |= {"Memento-Datetime": format_datetime(_moment(held.timestamp), usegmt=True), "server": "nginx"}
    headers |= {"Content-Type": held.content_type, "x-archive-src": "x.warc.gz"}
    return web.Response(status=held.status, body=held.body, headers=headers)


def our_member(held: Held) -> bytes:
    """A gzip member with the capture's record, written by our writer."""
    file = io.BytesIO()
    writer = WarcWriter(file, "x.warc.gz", {})
    headers = [(b"Content-Type", held.content_type.encode()), *((k.encode(), v.encode()) for k, v in held.headers)]
    start = file.tell()
    writer.write_capture(
        held.url,
        _moment(held.timestamp),
        (f"HTTP/1.1 {held.status} X".encode(), headers),
        held.body,
        hashlib.sha1(held.body).digest(),
        source_url="http://x.example/",
        taken_at=_moment(held.timestamp),
    )
    return file.getvalue()[start:]


def warcio_member(held: Held, kind: str = "response", **warc_headers: str) -> bytes:
    """A gzip member with the capture's record, written by warcio; the body is stored unchanged."""
    file = io.BytesIO()
    writer = WarcioWriter(file, gzip=True)
    date = _moment(held.timestamp).strftime("%Y-%m-%dT%H:%M:%SZ")
    names = {name.replace("_", "-"): value for name, value in warc_headers.items()}
    fields = [("Content-Type", held.content_type), *held.headers]
    writer.write_record(
        writer.create_warc_record(
            held.url,
            kind,
            payload=io.BytesIO(held.body),
            http_headers=StatusAndHeaders(f"{held.status} X", fields, protocol="HTTP/1.1"),
            warc_headers_dict={"WARC-Date": date, **names},
        )
    )
    return file.getvalue()


def _moment(timestamp: str) -> datetime:
    return datetime.strptime(timestamp, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _crawl_info(name: str, begin: datetime, end: datetime) -> dict[str, str]:
    return {
        "id": name,
        "name": "An index",
        "timegate": f"http://{INDEX}/{name}/",
        "cdx-api": f"http://{INDEX}/{name}-index",
        "from": begin.strftime("%Y-%m-%dT%H:%M:%S"),
        "to": end.strftime("%Y-%m-%dT%H:%M:%S"),
    }


@contextlib.contextmanager
def serving_archives(server: ArchiveServer | None = None) -> Iterator[ArchiveServer]:
    """Serve in a separate thread, so that the code under test may block."""
    served = server or ArchiveServer()
    loop = asyncio.new_event_loop()

    async def start() -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(served.handle))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        served.port = runner.addresses[0][1]
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield served
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
