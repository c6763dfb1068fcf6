"""Pages of earlier refreshes: fetched conditionally, and kept where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.config import PagesConfig
from data.lake.manifest import Manifest
from data.lake.store import Lake
from data.pages.known import earlier_pages, known_pages
from data.pages.stage import run
from data.warc import read_payload
from tests.data.http.hostile import ADDRESSES, Handler, Request, Web, raw, redirect, reply
from tests.data.pages.crawling import fill, host_urls, publish_links


def _tagged(body: bytes, tag: str) -> Handler:
    """A page that answers 304 to conditional requests."""

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("if-none-match") == tag:
            await raw(f"HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\n\r\n".encode())(request, writer)
        else:
            await reply(body, etag=tag)(request, writer)

    return handler


def _run(web: Web, lake: Lake, snapshot: str, urls: Sequence[str], **more: Any) -> Manifest:
    to = (f"*.example={ADDRESSES[0]}:{web.port}",)
    publish_links(lake, [urls], snapshot)
    return run(lake, snapshot, PagesConfig(connect_to=to, host_delay_s=0.0, backoff_s=0.0), **more).manifest


def _rows(lake: Lake, manifest: Manifest) -> dict[str, dict[str, Any]]:
    dataset = lake.dataset("pages", manifest.snapshot)
    rows = [row for part in manifest.parts for row in dataset.read(f"{part.name}.parquet").to_pylist()]
    return {row["canonical_url"].removeprefix("http://"): row for row in rows}


def _body(lake: Lake, snapshot: str, row: dict[str, Any]) -> bytes:
    folder, _, name = row["warc_file"].rpartition("/")
    with lake.open("pages", folder or snapshot, name) as file:
        return read_payload(file, row["warc_offset"])[1]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_unchanged_pages_are_kept_over_three_refreshes(web: Web, lake: Lake) -> None:
    """Unchanged pages are fetched once and belong to every refresh. Changed pages are fetched again."""
    web["a.example/0"] = _tagged(b"<p>same", '"1"')
    web["a.example/1"] = _tagged(b"<p>old", '"1"')
    web["a.example/2"] = reply(b"<p>untagged")
    web["b.example/0"] = redirect("http://c.example/0")
    web["c.example/0"] = _tagged(b"<p>far", 'W/"far"')
    urls = ["http://a.example/0", "http://a.example/1", "http://a.example/2", "http://b.example/0"]
    first = _run(web, lake, "s1", urls)
    assert not any("if-none-match" in request.headers for request in web.log)
    web["a.example/1"] = _tagged(b"<p>new", '"2"')
    second = _run(web, lake, "s2", urls)
    third = _run(web, lake, "s3", urls)
    assert [m.counts for m in (first, second, third)] == [{"ok": 4}] * 3
    rows = [_rows(lake, manifest) for manifest in (first, second, third)]
    codes = [[row["http_status"] for _, row in sorted(found.items())] for found in rows]
    assert codes == [[200, 200, 200, 200], [304, 200, 200, 304], [304, 304, 200, 304]]
    assert [found["a.example/0"]["warc_file"] for found in rows[1:]] == ["s1/part-00000-00000.warc.gz"] * 2
    assert rows[2]["a.example/1"]["warc_file"] == "s2/part-00000-00000.warc.gz"
    assert rows[2]["b.example/0"]["warc_file"] == "s1/part-1-00000-00000.warc.gz"
    for n, found in enumerate(rows, 1):
        expected = {"a.example/0": b"<p>same", "a.example/1": b"<p>old" if n == 1 else b"<p>new"}
        expected |= {"a.example/2": b"<p>untagged", "b.example/0": b"<p>far"}
        assert {url: _body(lake, f"s{n}", row) for url, row in found.items()} == expected
    assert sorted(second.inputs) == ["known:s1", "links"]
    assert sorted(third.inputs) == ["known:s1", "known:s2", "links"]


def test_the_caller_chooses_the_history(web: Web, lake: Lake) -> None:
    web["a.example/0"] = _tagged(b"<p>same", '"1"')
    urls = ["http://a.example/0"]
    _run(web, lake, "s1", urls)
    assert _rows(lake, _run(web, lake, "s2", urls, history=[]))["a.example/0"]["http_status"] == 200
    named = _run(web, lake, "s3", urls, history=["s1@variant", "missing"])
    assert sorted(named.inputs) == ["known:s1", "links"]
    assert _rows(lake, named)["a.example/0"]["warc_file"].startswith("s1/")


def test_a_resumed_refresh_keeps_its_history(web: Web, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refreshes published meanwhile do not matter."""
    web["a.example/0"] = _tagged(b"<p>same", '"1"')
    urls = ["http://a.example/0"]
    _run(web, lake, "s1", urls)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    to = (f"*.example={ADDRESSES[0]}:{web.port}",)
    config = PagesConfig(connect_to=to, host_delay_s=0.0)
    publish_links(lake, [urls], "s3")
    with pytest.raises(KeyboardInterrupt):
        run(lake, "s3", config, interrupted)
    _run(web, lake, "s2", urls)
    assert [manifest.snapshot for manifest in earlier_pages(lake, "s3", None)] == ["s1"]
    assert sorted(run(lake, "s3", config).manifest.inputs) == ["known:s1", "links"]


def test_only_complete_pages_with_a_validator_are_known(web: Web, lake: Lake) -> None:
    """Only complete pages with an ETag or a Last-Modified date, of the requested domains."""
    web["a.example/0"] = _tagged(b"<p>0", '"1"')
    web["a.example/1"] = reply(b"<p>1", last_modified="Mon, 23 Nov 2026 12:00:00 GMT")
    web["a.example/2"] = reply(b"<p>2")
    web["a.example/3"] = reply(b"", "404 No", etag='"gone"')
    web["b.example/0"] = _tagged(b"<p>b", '"b"')
    _run(web, lake, "s1", [*host_urls("a.example", n=4), *host_urls("b.example")])
    found = known_pages(lake, ["s1"], {"a.example", "c.example"}, 0, 1)
    assert sorted(found) == ["http://a.example/0", "http://a.example/1"]
    assert found["http://a.example/0"].conditions() == {"If-None-Match": '"1"'}
    assert found["http://a.example/1"].conditions() == {"If-Modified-Since": "Mon, 23 Nov 2026 12:00:00 GMT"}
    assert len(found["http://a.example/0"].sha1()) == 20


@pytest.mark.parametrize(("n_then", "n_now"), [(1, 5), (5, 1), (3, 4), (4, 3)])
def test_known_pages_are_found_for_any_number_of_parts(web: Web, tmp_path: Path, n_then: int, n_now: int) -> None:
    """Parts are ranges of the domain's hash. Each refresh has as many parts as its links need."""
    from data.urls.canonical import domain_of, partition_of

    lake = Lake(tmp_path / "lake")
    urls = host_urls(*(f"d{n}.example" for n in range(40)))
    fill(web, urls, _tagged(b"<p>x", '"1"'))
    parts: list[list[str]] = [[] for _ in range(n_then)]
    for url in urls:
        parts[partition_of(domain_of(url)) * n_then >> 64].append(url)
    publish_links(lake, parts)
    to = (f"*.example={ADDRESSES[0]}:{web.port}",)
    run(lake, "s1", PagesConfig(connect_to=to, host_delay_s=0.0))
    found: list[str] = []
    for index in range(n_now):
        wanted = {domain_of(url) for url in urls if partition_of(domain_of(url)) * n_now >> 64 == index}
        found += known_pages(lake, ["s1"], wanted, index, n_now)
    assert sorted(found) == sorted(urls)
