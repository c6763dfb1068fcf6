"""The pages stage over a real lake and a real server: rounds, counts, digests, resuming."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.config import PagesConfig
from data.errors import InputError
from data.lake.manifest import Manifest, Part
from data.lake.store import Lake
from data.pages import segments
from data.pages import stage as pages
from data.pages.segments import HANDOFF
from data.pages.stage import make_part, run
from data.schema import PAGES
from data.stage import MakePart
from data.warc import read_payload
from tests.data.http.hostile import ADDRESSES, Request, Web, raw, redirect, reply
from tests.data.pages.crawling import publish_links


def _config(web: Web, **settings: Any) -> PagesConfig:
    to = (f"*.example={ADDRESSES[0]}:{web.port}",)
    fast = {"host_delay_s": 0.0, "backoff_s": 0.0, "breaker_pause_s": 0.0, "max_redirects": 3}
    return PagesConfig(**{"connect_to": to} | fast | settings)


def _rows(lake: Lake, manifest: Manifest) -> list[dict[str, Any]]:
    dataset = lake.dataset("pages", manifest.snapshot)
    return [row for part in manifest.parts for row in dataset.read(f"{part.name}.parquet").to_pylist()]


LINK_PARTS = [
    [
        "http://www.a.example/1",
        "http://www.a.example/2",
        "http://a.example/missing",
        "http://go.short.example/b",
        "http://go.short.example/dead",
        "http://go.short.example/far",
        "http://go.short.example/loop",
        "http://go.short.example/again",
        "http://go.short.example/blocked",
    ],
    ["http://b.example/1", "http://b.example/2", "http://b.example/back", "http://c.example/cut"],
    [],
]


def _fill(web: Web) -> None:
    for url in ("www.a.example/1", "www.a.example/2", "b.example/1", "b.example/2", "end.example/"):
        web[url] = reply(b"<p>Page " + url.encode())
    for path, target in (
        ("b", "http://b.example/1"),
        ("dead", "http://dead.example/x"),
        ("far", "http://one.example/"),
        ("loop", "http://two.example/"),
        ("again", "http://long0.example/"),
        ("blocked", "http://blocked.example/"),
    ):
        web[f"go.short.example/{path}"] = redirect(target)
    web["one.example/"] = redirect("http://other.example/")
    web["other.example/"] = redirect("http://end.example/")
    web["two.example/"] = redirect("http://go.short.example/loop")
    for n in range(5):
        web[f"long{n}.example/"] = redirect(f"http://long{n + 1}.example/")
    web["b.example/back"] = redirect("http://www.a.example/1")
    web["c.example/cut"] = raw(b"", then="reset")


EXPECTED = {
    "http://www.a.example/1": ("ok", "http://www.a.example/1"),
    "http://www.a.example/2": ("ok", "http://www.a.example/2"),
    "http://a.example/missing": ("not_found", "http://a.example/missing"),
    "http://go.short.example/b": ("ok", "http://b.example/1"),
    "http://go.short.example/dead": ("not_found", "http://dead.example/x"),
    "http://go.short.example/far": ("ok", "http://end.example/"),
    "http://go.short.example/loop": ("redirect_loop", "http://two.example/"),
    "http://go.short.example/again": ("redirect_limit", "http://long2.example/"),
    "http://go.short.example/blocked": ("redirect_bad", "http://go.short.example/blocked"),
    "http://b.example/1": ("ok", "http://b.example/1"),
    "http://b.example/2": ("ok", "http://b.example/2"),
    "http://b.example/back": ("ok", "http://www.a.example/1"),
    "http://c.example/cut": ("protocol_error", "http://c.example/cut"),
}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_each_link_has_one_row_across_all_rounds(web: Web, lake: Lake) -> None:
    _fill(web)
    links = publish_links(lake, LINK_PARTS)
    outcome = run(lake, "s1", _config(web))
    manifest, rows = outcome.manifest, _rows(lake, outcome.manifest)
    assert not outcome.skipped
    assert {row["canonical_url"]: (row["status"], row["final_url"]) for row in rows} == EXPECTED
    assert len(rows) == len(EXPECTED) == manifest.rows_in == links.rows_out
    assert manifest.rows_out == 7
    assert manifest.inputs == {"links": links.digest}
    names = ["part-00000", "part-00001", "part-00002", "part-1-00000", "part-2-00000", "part-3-00000"]
    assert [part.name for part in manifest.parts] == names
    assert [part.extra["handed_off"] for part in manifest.parts] == [5, 1, 0, 2, 2, 0]
    karma = {row["canonical_url"]: row["karma"] for row in rows}
    assert (karma["http://b.example/1"], karma["http://b.example/2"]) == (3, 4)
    domains = {row["canonical_url"]: row["domain"] for row in rows}
    assert domains["http://go.short.example/b"] == "b.example"  # the page's, not the link's
    assert domains["http://www.a.example/1"] == "a.example"
    assert len(web.asked("blocked.example")) == 0


def test_a_part_has_its_files(web: Web, lake: Lake) -> None:
    _fill(web)
    publish_links(lake, LINK_PARTS)
    manifest = run(lake, "s1", _config(web)).manifest
    for part in manifest.parts:
        assert {f.path for f in part.files} == {
            f"{part.name}.parquet",
            f"handoff/{part.name}.parquet",
            f"dead/{part.name}.parquet",
        } | ({f"{part.name}-00000.warc.gz"} if part.rows_in or part.extra["handed_off"] else set())
        table = pq.read_table(lake.path("pages", "s1", f"{part.name}.parquet"))
        assert table.schema.equals(PAGES)
        urls = table["canonical_url"].to_pylist()
        assert urls == sorted(urls)
        handoff = pq.read_table(lake.path("pages", "s1", "handoff", f"{part.name}.parquet"))
        assert handoff.schema.equals(HANDOFF)
        assert len(handoff) == part.extra["handed_off"]
        for row in table.to_pylist():
            if row["status"] == "ok":
                with lake.open("pages", "s1", row["warc_file"]) as file:
                    body = read_payload(file, row["warc_offset"])[1]
                assert body == b"<p>Page " + row["final_url"].removeprefix("http://").encode()
                assert row["payload_digest"].startswith("sha1:")
                assert row["content_type"] == "text/html; charset=utf-8"
                assert row["fetched_at"] is not None
            else:
                assert row["warc_file"] is row["warc_offset"] is row["payload_digest"] is None
    assert not list((Path(lake.base) / "tmp").iterdir())


def test_a_second_run_does_nothing(web: Web, lake: Lake) -> None:
    _fill(web)
    publish_links(lake, LINK_PARTS)
    first = run(lake, "s1", _config(web))
    n_requests = len(web.log)
    second = run(lake, "s1", _config(web, max_connections=3))  # an operational setting
    assert second.skipped
    assert second.manifest == first.manifest
    assert len(web.log) == n_requests
    with pytest.raises(InputError, match=r"other settings \(max_wire_bytes"):
        run(lake, "s1", _config(web, max_wire_bytes=5))


@pytest.mark.parametrize("dies_at", range(6))
def test_a_killed_run_resumes_and_loses_one_part(web: Web, tmp_path: Path, dies_at: int) -> None:
    """A crash in the n-th part, after fetching and before sealing, loses only that part."""
    _fill(web)
    whole, killed = Lake(tmp_path / "whole"), Lake(tmp_path / "killed")
    for lake in (whole, killed):
        publish_links(lake, LINK_PARTS)
    expected = run(whole, "s1", _config(web)).manifest

    class Killed(BaseException):
        pass

    made: list[str] = []

    def mapper(make: MakePart, names: Sequence[str]) -> None:
        for name in names:
            with pytest.MonkeyPatch.context() as patch:
                if len(made) == dies_at:
                    patch.setattr(segments, "write_parquet", _raise(Killed()))
                make(name)
            made.append(name)

    with pytest.raises(Killed):
        run(killed, "s1", _config(web), mapper)
    assert killed.dataset("pages", "s1").manifest() is None
    assert sorted(killed.dataset("pages", "s1").sealed()) == sorted(made)
    again: list[str] = []

    def note(make: MakePart, names: Sequence[str]) -> None:
        for name in names:
            again.append(name)
            make(name)

    manifest = run(killed, "s1", _config(web, max_connections=1, max_hosts_per_domain=1), note).manifest
    assert manifest.digest == expected.digest
    assert manifest.counts == expected.counts
    assert made + again == [part.name for part in expected.parts]  # no part was fetched twice


def _raise(error: BaseException) -> Any:
    def raising(*_: Any, **__: Any) -> None:
        raise error

    return raising


def test_parts_may_run_in_threads_and_out_of_order(web: Web, tmp_path: Path) -> None:
    threads_before = threading.active_count()
    _fill(web)
    digests = []
    for name in ("in_turn", "threads"):
        lake = Lake(tmp_path / name)
        publish_links(lake, LINK_PARTS)

        def in_threads(make: MakePart, names: Sequence[str]) -> None:
            with ThreadPoolExecutor(3) as pool:
                assert all(isinstance(part, Part) for part in pool.map(make, reversed(names)))

        outcome = run(lake, "s1", _config(web), in_threads) if name == "threads" else run(lake, "s1", _config(web))
        digests.append(outcome.manifest.digest)
    assert digests[0] == digests[1]
    assert threading.active_count() <= threads_before


def test_rounds_are_partitioned_by_domain(web: Web, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later rounds have parts too. Each target domain is in one of them, and each handoff is fetched once."""
    monkeypatch.setattr(pages, "ROUND_PART_LINKS", 5)
    urls = [f"http://go.short.example/{n}" for n in range(40)]
    for n, url in enumerate(urls):
        web[url] = redirect(f"http://h{n}.d{n % 9}.example/")
        web[f"h{n}.d{n % 9}.example/"] = reply()
    publish_links(lake, [urls])
    manifest = run(lake, "s1", _config(web)).manifest
    assert [part.name for part in manifest.parts] == ["part-00000", *(f"part-1-{n:05d}" for n in range(8))]
    assert manifest.counts == {"ok": 40}
    dataset = lake.dataset("pages", "s1")
    domains = [set(dataset.read(f"{part.name}.parquet")["domain"].to_pylist()) for part in manifest.parts]
    assert sum(map(len, domains)) == len(set.union(*domains)) == 9
    assert sum(not found for found in domains[1:]) < 8
    assert sorted(row["canonical_url"] for row in _rows(lake, manifest)) == sorted(urls)


def test_a_lost_part_that_later_parts_depend_on_is_an_error(web: Web, lake: Lake) -> None:
    _fill(web)
    publish_links(lake, LINK_PARTS)
    run(lake, "s1", _config(web))
    for name in ("_manifest.json", "part-00000.parquet"):
        lake.remove("pages", "s1", name)
    web["go.short.example/b"] = reply()  # it was handed off before
    with pytest.raises(InputError, match=r"pages/s1: 14 rows for 13 links; .* remove pages/s1 and run again"):
        run(lake, "s1", _config(web))


def test_the_byte_budget_covers_the_whole_refresh(web: Web, lake: Lake) -> None:
    """Bytes of sealed parts count against later parts."""
    body = b"<p>" + b"x" * 997
    parts = [[f"http://h{part}.example/{n}" for n in range(3)] for part in range(3)]
    for url in itertools.chain(*parts):
        web[url] = reply(body)
    publish_links(lake, parts)
    manifest = run(lake, "s1", _config(web, max_bytes=4_500)).manifest
    assert [part.counts for part in manifest.parts] == [{"deferred": 1, "ok": 2}] * 3  # each gets a third of the bytes
    assert manifest.extra["wire_bytes"] == 6_000


def test_links_after_the_deadline_are_deferred(web: Web, lake: Lake) -> None:
    _fill(web)
    publish_links(lake, LINK_PARTS)
    manifest = run(lake, "s1", _config(web, deadline_s=0.0)).manifest
    assert manifest.counts == {"deferred": 13}
    assert web.log == []


def test_links_get_a_status_without_a_network(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _raise(socket.gaierror(socket.EAI_AGAIN, "no name server")))
    urls = [f"http://host{n}.invalid/{k}" for n in range(100) for k in range(5)]
    publish_links(lake, [urls])
    manifest = run(lake, "s1", PagesConfig(host_delay_s=0.0)).manifest
    assert manifest.counts == {"dns_failure": 500}
    assert manifest.extra["requests"] == 100


def test_bad_input_is_refused(web: Web, lake: Lake) -> None:
    with pytest.raises(InputError, match="links/s1: no such dataset"):
        run(lake, "s1", _config(web))
    publish_links(lake, [["http://a.example/"]])
    with pytest.raises(InputError, match="--connect-to"):
        run(lake, "s1", _config(web, connect_to=("nonsense",)))
    assert lake.dataset("pages", "s1").begun() is None  # nothing was started


def test_an_interrupt_drops_the_part_in_flight(web: Web, lake: Lake) -> None:
    """On Ctrl-C while a body arrives, KeyboardInterrupt is raised unchanged and nothing of the part remains."""

    async def interrupt(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>")
        await writer.drain()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await asyncio.sleep(60)

    web["a.example/1"], web["a.example/2"] = reply(), interrupt
    publish_links(lake, [["http://a.example/1", "http://a.example/2"]])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
    try:
        with pytest.raises(KeyboardInterrupt):
            make_part(lake.root, "s1", _config(web), None, (), None, "part-00000")
    finally:
        signal.signal(signal.SIGINT, before)
    assert web.asked("a.example")[-1] == "/2"
    assert not list((Path(lake.base) / "tmp").iterdir())
    assert not lake.exists("pages", "s1")
