"""What a crawl task has settled survives every kind of interruption."""

from __future__ import annotations

import asyncio
import errno
import gzip
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha1
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.config import PagesConfig
from data.errors import InputError
from data.lake.manifest import Manifest
from data.lake.store import Dataset, Lake
from data.pages import segments as segments_module
from data.pages.frontier import Link
from data.pages.segments import PageRecord, Segments, remove_segments
from data.pages.stage import run
from data.warc import IDENTICAL_PAYLOAD, payload_digest, read_payload
from tests.data.http.hostile import ADDRESSES, PAGE, Web, redirect, reply
from tests.data.pages.crawling import fill, host_urls, publish_links

AT = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Lake(tmp_path / "lake").dataset("pages", "s1")


def _open(dataset: Dataset, tmp_path: Path, **settings: Any) -> Segments:
    return Segments(dataset, "part-00000", tmp_path, PagesConfig(**settings))


def _page(segments: Segments, url: str, body: bytes, status: str = "ok") -> None:
    digest = sha1(body).digest()
    request = (b"GET / HTTP/1.1", [(b"Host", b"x")])
    response = (b"HTTP/1.1 200 OK", [(b"Content-Type", b"text/html")])
    file, offset = segments.page(PageRecord(url, AT, request, response, body, digest))
    segments.settle(
        {
            "canonical_url": url,
            "status": status,
            "payload_digest": payload_digest(digest),
            "warc_file": file,
            "warc_offset": offset,
        }
    )


def _body(dataset: Dataset, row: dict[str, Any]) -> bytes:
    with dataset.lake.open("pages", "s1", row["warc_file"]) as file:
        return read_payload(file, row["warc_offset"])[1]


async def test_segments_are_sealed_by_number_of_links(dataset: Dataset, tmp_path: Path) -> None:
    """Rows and handoffs both count. A part is the sorted union of its segments."""
    with _open(dataset, tmp_path, segment_rows=2) as segments:
        for n, name in enumerate("dbace"):
            _page(segments, f"http://{name}.example/", b"<p>%d" % n)
            assert segments.is_due() == (n % 2 == 1)
            if segments.is_due():
                segments.rotate()
        segments.hand_off(Link("http://f.example/", "http://g.example/", 3, ("http://f.example/",)))
        assert segments.is_due()
        segments.count(7, 1000)
        await segments.settle_all()
        assert len(segments.sealed) == 3
        part = segments.finish()
    rows = dataset.read("part-00000.parquet").to_pylist()
    assert [row["canonical_url"] for row in rows] == [f"http://{name}.example/" for name in "abcde"]
    assert [_body(dataset, row) for row in rows] == [b"<p>2", b"<p>1", b"<p>3", b"<p>0", b"<p>4"]
    assert len({row["warc_file"] for row in rows}) == 3
    assert (part.counts, part.extra) == ({"ok": 5}, {"handed_off": 1, "dead": 0, "requests": 7, "wire_bytes": 1000})
    assert list(dataset.sealed()) == ["part-00000"]
    assert dataset.lake.names("pages", "s1", "segments") == []
    dataset.verify([part])


async def test_segments_are_sealed_by_size_and_by_age(dataset: Dataset, tmp_path: Path) -> None:
    with _open(dataset, tmp_path, segment_bytes=3_000) as segments:
        _page(segments, "http://a.example/", b"<p>small")
        assert not segments.is_due()
        _page(segments, "http://b.example/", b"".join(sha1(b"%d" % n).digest() for n in range(200)))
        assert segments.is_due()
        segments.rotate()
        assert not segments.is_due()
        await segments.settle_all()
    with _open(dataset, tmp_path, segment_s=0.05) as segments:
        _page(segments, "http://c.example/", b"<p>old")
        assert not segments.is_due()
        await asyncio.sleep(0.06)
        assert segments.is_due()


async def test_the_same_payload_is_written_once(dataset: Dataset, tmp_path: Path) -> None:
    """This holds for later segments of the task too."""
    with _open(dataset, tmp_path, segment_rows=1) as segments:
        for name in "ab":
            _page(segments, f"http://{name}.example/", PAGE)
            segments.rotate()
        await segments.settle_all()
        segments.finish()
    rows = dataset.read("part-00000.parquet").to_pylist()
    assert {(row["warc_file"], row["warc_offset"]) for row in rows} == {
        ("part-00000-00000.warc.gz", rows[0]["warc_offset"])
    }
    assert _body(dataset, rows[1]) == PAGE
    content = _unzipped(dataset, "part-00000-00001.warc.gz")
    assert f"WARC-Profile: {IDENTICAL_PAYLOAD}".encode() in content
    assert b"WARC-Refers-To-Target-URI: http://a.example/" in content
    assert PAGE not in content


def _unzipped(dataset: Dataset, name: str) -> bytes:
    with dataset.lake.open("pages", "s1", name) as file:
        return gzip.decompress(file.read())


async def test_remembered_payloads_are_bounded(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "PAYLOADS", 3)
    with _open(dataset, tmp_path) as segments:
        for n, body in enumerate([b"a", b"b", b"c", b"a", b"d", b"b"]):  # d pushed out b; a was seen again
            _page(segments, f"http://{n}.example/", b"<p>" + body)
            assert len(segments.payloads) <= 3
        await segments.settle_all()
        segments.finish()
    rows = dataset.read("part-00000.parquet").to_pylist()
    assert rows[0]["warc_offset"] == rows[3]["warc_offset"]
    assert rows[1]["warc_offset"] != rows[5]["warc_offset"]


async def test_crawl_resumes_after_the_last_sealed_segment(dataset: Dataset, tmp_path: Path) -> None:
    with _open(dataset, tmp_path) as segments:
        _page(segments, "http://a.example/", b"<p>a")
        segments.hand_off(Link("http://b.example/", "http://x.example/", 3, ("http://b.example/",)))
        segments.count(2, 50)
        await segments.settle_all()
        _page(segments, "http://c.example/", b"<p>lost")
    assert dataset.sealed().keys() == {"segment-part-00000-00000"}
    with _open(dataset, tmp_path) as segments:
        assert segments.settled_urls() == {"http://a.example/", "http://b.example/"}
        assert segments.wire_bytes == 50
        _page(segments, "http://c.example/", b"<p>c")
        segments.count(1, 25)
        await segments.settle_all()
        part = segments.finish()
    rows = dataset.read("part-00000.parquet").to_pylist()
    assert [(row["warc_file"][-13:-8], _body(dataset, row)) for row in rows] == [("00000", b"<p>a"), ("00001", b"<p>c")]
    assert part.extra["wire_bytes"] == 75


async def test_a_segment_is_durable_only_after_the_segments_it_refers_to(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its revisit records and rows point into earlier WARC files. Writing the first of them takes long."""
    publish, done = Lake.publish, list[str]()

    def slow_first(self: Lake, local: Path, *names: str) -> None:
        if names[-1] == "part-00000-00000.warc.gz":
            threading.Event().wait(0.3)
        publish(self, local, *names)
        done.append(names[-1])

    monkeypatch.setattr(Lake, "publish", slow_first)
    with _open(dataset, tmp_path) as segments:
        for name in "abc":
            _page(segments, f"http://{name}.example/", PAGE)
            segments.rotate()
        await segments.settle_all()
    records = [name for name in done if name.startswith("segment-")]
    assert records == [f"segment-part-00000-0000{n}.json" for n in range(3)]


@pytest.mark.parametrize("torn", [0, 1])
async def test_a_torn_segment_invalidates_the_segments_that_refer_to_it(
    dataset: Dataset, tmp_path: Path, torn: int
) -> None:
    """A row that points into a lost WARC file is not a page."""
    with _open(dataset, tmp_path) as segments:
        for name, body in (("a", PAGE), ("b", PAGE + b"!"), ("c", PAGE)):
            _page(segments, f"http://{name}.example/", body)
            segments.rotate()
            await segments.check(wait=True)
    path = Path(dataset.lake.path("pages", "s1", f"part-00000-0000{torn}.warc.gz"))
    path.write_bytes(path.read_bytes()[:100])
    with _open(dataset, tmp_path) as segments:
        settled = segments.settled_urls()
        for name, body in (("a", PAGE), ("b", PAGE + b"!"), ("c", PAGE)):
            if f"http://{name}.example/" not in settled:
                _page(segments, f"http://{name}.example/", body)
        await segments.settle_all()
        segments.finish()
    assert settled == ({"http://b.example/"} if torn == 0 else {"http://a.example/", "http://c.example/"})
    rows = dataset.read("part-00000.parquet").to_pylist()
    assert [_body(dataset, row) for row in rows] == [PAGE, PAGE + b"!", PAGE]


async def test_segments_of_another_part_are_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    for name in ("part-00000", "part-1-00000", "part-00001"):
        with Segments(dataset, name, tmp_path, PagesConfig()) as segments:
            _page(segments, f"http://{name}.example/", b"<p>x")
            await segments.settle_all()
    with _open(dataset, tmp_path) as segments:
        assert segments.settled_urls() == {"http://part-00000.example/"}
        segments.finish()
    assert sorted(dataset.sealed()) == ["part-00000", "segment-part-00001-00000", "segment-part-1-00000-00000"]


async def test_an_error_while_sealing_is_raised(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with _open(dataset, tmp_path) as segments:
        _page(segments, "http://a.example/", b"<p>a")
        monkeypatch.setattr(Lake, "publish", full)
        segments.rotate()
        with pytest.raises(OSError, match="No space left"):
            await segments.check(wait=True)
    assert dataset.sealed() == {}


async def test_rows_with_a_revivable_status_go_to_a_file_for_the_archives(dataset: Dataset, tmp_path: Path) -> None:
    with _open(dataset, tmp_path) as segments:
        _page(segments, "http://a.example/", b"<p>a")
        _page(segments, "http://b.example/", b"<p>b", status="not_found")
        await segments.settle_all()
        part = segments.finish(frozenset({"not_found"}))
    assert (part.counts, part.extra["dead"]) == ({"ok": 1}, 1)
    assert dataset.read("dead/part-00000.parquet")["canonical_url"].to_pylist() == ["http://b.example/"]


async def test_a_part_without_links_is_sealed(dataset: Dataset, tmp_path: Path) -> None:
    with _open(dataset, tmp_path) as segments:
        await segments.settle_all()
        assert segments.rotate() is None
        part = segments.finish()
    assert (part.rows_in, len(dataset.read("part-00000.parquet"))) == (0, 0)


# The whole stage, stopped at every step of publishing


class Killed(BaseException):
    """Nothing runs after this error, as after a kill."""


N_HOSTS, N_PAGES = 4, 5


def _urls(web: Web) -> Sequence[str]:
    urls = host_urls(*(f"h{n}.site{n % 2}.example" for n in range(N_HOSTS)), n=N_PAGES)
    for n, url in enumerate(urls):
        web[url] = reply(b"<p>Page %d" % (n % 7))
    web[urls[3]] = redirect("http://www.far.example/x")
    web["www.far.example/x"] = reply(b"<p>far")
    return urls


def _run(web: Web, lake: Lake, **settings: Any) -> Manifest:
    to = (f"*.example={ADDRESSES[0]}:{web.port}",)
    config = PagesConfig(**{"connect_to": to, "host_delay_s": 0.0, "backoff_s": 0.0, "segment_rows": 4} | settings)
    return run(lake, "s1", config).manifest


def test_a_run_killed_at_any_step_of_publishing_resumes(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run gets a few steps further than the one before. The last one has the digest of an undisturbed run, and no
    page was fetched again after it was durable.
    """
    urls = _urls(web)
    whole, broken = Lake(tmp_path / "whole"), Lake(tmp_path / "broken")
    for lake in (whole, broken):
        publish_links(lake, [urls])
    expected = _run(web, whole)
    web.log.clear()
    publish, steps, allowed, dead = Lake.publish, 0, 3, threading.Event()

    def counting(self: Lake, local: Path, *names: str) -> None:
        nonlocal steps
        if dead.is_set() or steps >= allowed:
            dead.set()
            raise Killed
        steps += 1
        publish(self, local, *names)

    monkeypatch.setattr(Lake, "publish", counting)
    durable, n_kills = set[str](), 0
    while True:
        steps, before, allowed = 0, len(web.log), allowed + 2
        dead.clear()
        try:
            manifest = _run(web, broken)
            break
        except Killed:
            n_kills += 1
        asked = {f"http://{request.host}{request.path}" for request in web.log[before:]}
        assert asked & durable == set()
        durable = _settled(broken.dataset("pages", "s1")) | durable
    assert n_kills >= 4
    _prove_payloads(broken, manifest)
    assert manifest.digest == expected.digest
    assert manifest.counts == expected.counts == {"ok": len(urls)}
    assert sorted(broken.names("pages", "s1", "_parts")) == ["part-00000.json", "part-1-00000.json"]
    assert broken.names("pages", "s1", "segments") == []


def _prove_payloads(lake: Lake, manifest: Manifest) -> None:
    """Each page is where its row says, and has the bytes that the server sent."""
    for row in _rows(lake, manifest):
        if row["status"] == "ok":
            body = _body(lake.dataset("pages", "s1"), row)
            assert payload_digest(sha1(body).digest()) == row["payload_digest"], row["canonical_url"]


def _settled(dataset: Dataset) -> set[str]:
    found: set[str] = set()
    for part in dataset.sealed().values():
        for file in part.files:
            if file.path.endswith(".parquet"):
                found.update(dataset.read(file.path)["canonical_url"].to_pylist())
    return found


@pytest.fixture
def half(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake whose run stopped after it sealed three segments."""
    lake = Lake(tmp_path / "half")
    publish_links(lake, [_urls(web)])
    seal, n_sealed = Dataset.seal, 0

    def counting(self: Dataset, name: str, *arguments: Any, **named: Any) -> Any:
        nonlocal n_sealed
        if self.stage == "pages":
            if n_sealed == 3:
                raise Killed
            n_sealed += 1
        return seal(self, name, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "seal", counting)
        with pytest.raises(Killed):
            _run(web, lake, max_connections=1)
    assert len(lake.dataset("pages", "s1").sealed()) == 3
    return lake


@pytest.mark.parametrize("ending", [".warc.gz", ".parquet", ".handoff.parquet"])
def test_a_torn_file_loses_only_its_segment(web: Web, tmp_path: Path, half: Lake, ending: str) -> None:
    """Power failed before the file reached the disk: the segment counts as not sealed."""
    folder = Path(half.path("pages", "s1"))
    paths = sorted(path for path in folder.rglob(f"part-00000-00001{ending}"))
    with paths[0].open("rb+") as file:
        file.truncate(paths[0].stat().st_size // 2)
    lost = 4
    assert len(half.dataset("pages", "s1").sealed()) == 2
    n_requests = len(web.log)
    manifest = _run(web, half)
    pages = [r for r in web.log[n_requests:] if not r.path.startswith(("/robots", "/."))]
    assert len(pages) >= N_HOSTS * N_PAGES + 1 - 3 * 4 + lost
    _prove_payloads(half, manifest)
    whole = Lake(tmp_path / "whole")
    publish_links(whole, [_urls(web)])
    assert manifest.digest == _run(web, whole).digest
    half.dataset("pages", "s1").verify()


def test_an_error_names_the_damaged_file(web: Web, half: Lake) -> None:
    """The size is the same, so only the hash tells."""
    path = Path(half.path("pages", "s1", "part-00000-00001.warc.gz"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    n_requests = len(web.log)
    with pytest.raises(InputError, match=r"part-00000-00001\.warc\.gz: sha256 is .* the file was damaged"):
        _run(web, half)
    assert len(web.log) == n_requests


def test_an_error_names_the_torn_record(web: Web, half: Lake) -> None:
    path = Path(half.path("pages", "s1", "_parts", "segment-part-00000-00001.json"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(InputError, match=r"segment-part-00000-00001\.json: not JSON"):
        _run(web, half)


def test_leftover_files_of_a_killed_run_are_removed(web: Web, half: Lake) -> None:
    """Files of an unsealed segment, which no record names, are overwritten or ignored and in no manifest."""
    orphan = Path(half.path("pages", "s1", "part-00000-00003.warc.gz"))
    orphan.write_bytes(b"half of a file")
    manifest = _run(web, half)
    half.dataset("pages", "s1").verify()
    assert Counter(row["status"] for row in _rows(half, manifest)) == {"ok": N_HOSTS * N_PAGES}


def _rows(lake: Lake, manifest: Manifest) -> list[dict[str, Any]]:
    paths = [lake.path("pages", "s1", f"{part.name}.parquet") for part in manifest.parts]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_run_killed_before_it_removes_the_segment_records_resumes(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path / "lake")
    publish_links(lake, [_urls(web)])

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(segments_module, "remove_segments", killed)
        with pytest.raises(Killed):
            _run(web, lake)
    n_requests = len(web.log)
    assert _run(web, lake).counts == {"ok": N_HOSTS * N_PAGES}
    assert [r.path for r in web.log[n_requests:] if r.host != "www.far.example"] == []
    assert all(name.startswith("part-") for name in lake.names("pages", "s1", "_parts"))
    before = lake.names("pages", "s1", "_parts")
    remove_segments(lake.dataset("pages", "s1"), [])
    assert lake.names("pages", "s1", "_parts") == before


def test_bytes_of_killed_runs_count_against_the_budget(web: Web, half: Lake) -> None:
    """Bytes that an earlier run received are spent."""
    spent = sum(part.extra["wire_bytes"] for part in half.dataset("pages", "s1").sealed().values())
    assert spent > 0
    manifest = _run(web, half, max_bytes=spent)
    assert manifest.counts == {"ok": 11, "deferred": 9}  # one of the twelve settled links was handed off


def test_rows_are_sealed_by_age_while_a_host_is_slow(web: Web, tmp_path: Path) -> None:
    """Rows become durable without waiting for the slowest host of a task."""
    lake = Lake(tmp_path / "lake")
    urls = [*fill(web, host_urls("www.fast.example", n=2), reply()), *host_urls("www.slow.example")]
    seen: list[int] = []

    async def slow(request: Any, writer: Any) -> None:
        await asyncio.sleep(2.5)
        seen.append(len(lake.dataset("pages", "s1").sealed()))
        await reply(b"<p>slow")(request, writer)

    web["www.slow.example/0"] = slow
    publish_links(lake, [urls])
    _run(web, lake, segment_s=0.3, segment_rows=1000)
    assert seen == [1]
