"""The archive round of pages, over real sockets: dead links are revived from web archives, other links stay as they
are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.archives.lookup import Archives
from data.config import PagesConfig, TextConfig
from data.lake.manifest import Manifest
from data.lake.names import part_name
from data.lake.store import Lake, write_parquet
from data.pages.stage import run
from data.schema import LINKS
from data.text import stage as text
from data.warc import read_payload
from tests.data.archives.server import ArchiveServer, Held, serving_archives, timestamp_of

SUBMITTED = datetime(2014, 5, 20, tzinfo=UTC)
NEAR, FAR = datetime(2014, 5, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)
BODY = b"<!doctype html><title>Then</title><p>" + b"It was told here once, and it was worth the telling. " * 20
FOUND, OPTED_OUT, UNKNOWN, PRIVATE = (
    "http://www.gone.example/found",
    "http://www.gone.example/opted-out",
    "http://other-gone.example/unknown",
    "http://127.0.0.1/private",
)


@pytest.fixture
def archives() -> Iterator[ArchiveServer]:
    with serving_archives() as server:
        noai = (("X-Robots-Tag", "noai"),)
        server.wayback += [
            Held(FOUND, timestamp_of(FAR), b"<p>later"),
            Held(FOUND, timestamp_of(NEAR), BODY),
            Held(OPTED_OUT, timestamp_of(NEAR), BODY + b"2", headers=noai),
        ]
        yield server


def _lake(folder: Path, urls: list[str]) -> Lake:
    lake = Lake(folder)
    dataset = lake.dataset("links", "s1")
    dataset.begin({"profile": "webtext", "block_domains": [], "min_karma": 3}, {})
    rows = [{"canonical_url": u, "karma": 3, "status": "ok", "submitted_at": SUBMITTED} for u in sorted(urls)]
    table = pa.Table.from_pylist(rows, schema=LINKS)
    with lake.scratch() as scratch:
        write_parquet(table, scratch / "x")
        dataset.seal(part_name(0), {"part-00000.parquet": scratch / "x"}, table, counts={"ok": len(urls)})
    dataset.finish([part_name(0)], {}, 0.0)
    return lake


def _config(server: ArchiveServer, **settings: Any) -> PagesConfig:
    return PagesConfig(
        **{
            "archives": ("wayback",),
            "archive_urls": server.urls,
            "connect_to": (*server.connect_to, "*gone.example=127.0.0.1:1"),
            "host_delay_s": 0.0,
            "backoff_s": 0.0,
            "breaker_pause_s": 0.0,
            "max_redirects": 1,
        }
        | settings
    )


def _rows(lake: Lake, manifest: Manifest) -> dict[str, dict[str, Any]]:
    dataset = lake.dataset("pages", "s1")
    tables = [dataset.read(f"{part.name}.parquet") for part in manifest.parts]
    return {row["canonical_url"]: row for table in tables for row in table.to_pylist()}


def test_only_dead_links_are_looked_up(archives: ArchiveServer, tmp_path: Path) -> None:
    lake = _lake(tmp_path / "lake", [FOUND, OPTED_OUT, UNKNOWN, PRIVATE])
    manifest = run(lake, "s1", _config(archives)).manifest
    rows = _rows(lake, manifest)
    assert {url: (row["status"], row["archive"]) for url, row in rows.items()} == {
        FOUND: ("ok", f"wayback:{timestamp_of(NEAR)}"),
        OPTED_OUT: ("opt_out_x_robots_tag", f"wayback:{timestamp_of(NEAR)}"),
        UNKNOWN: ("connect_failure", None),
        PRIVATE: ("forbidden_address", None),
    }
    assert rows[UNKNOWN]["reason"] == "ECONNREFUSED; in no archive"
    assert manifest.rows_in == 4
    assert [part.name for part in manifest.parts] == ["part-00000", "part-2-00000"]
    assert manifest.parts[0].extra["dead"] == 3
    assert not any("private" in path for _, _, path in archives.log)
    found = rows[FOUND]
    with lake.open("pages", "s1", found["warc_file"]) as file:
        assert read_payload(file, found["warc_offset"])[1] == BODY
    texts = text.run(lake, "s1", TextConfig(workers=1)).manifest
    (row,) = [
        row
        for part in texts.parts
        for row in lake.dataset("text", "s1").read(f"{part.name}.parquet").to_pylist()
        if row["status"] == "ok"
    ]
    assert (row["url"], "worth the telling" in row["text"]) == (FOUND, True)


def test_without_archives_nothing_is_looked_up(archives: ArchiveServer, tmp_path: Path) -> None:
    lake = _lake(tmp_path / "lake", [FOUND])
    row = _rows(lake, run(lake, "s1", _config(archives, archives=())).manifest)[FOUND]
    assert (row["status"], row["reason"], archives.log) == ("connect_failure", "ECONNREFUSED", [])


def test_an_unreachable_archive_is_reported(archives: ArchiveServer, tmp_path: Path) -> None:
    lake = _lake(tmp_path / "lake", [FOUND])
    connect_to = ("*.example=127.0.0.1:1",)
    row = _rows(lake, run(lake, "s1", _config(archives, connect_to=connect_to, max_attempts=1)).manifest)[FOUND]
    assert row["status"] == "connect_failure"
    assert row["reason"].startswith("ECONNREFUSED; archives: ")


def test_interrupted_look_up_resumes_without_asking_again(
    archives: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links in sealed segments are not looked up again, and the digest is that of an undisturbed run."""
    urls = [FOUND, OPTED_OUT, UNKNOWN]
    whole = _lake(tmp_path / "whole", urls)
    expected = run(whole, "s1", _config(archives)).manifest.digest
    lake = _lake(tmp_path / "lake", urls)
    asked: list[str] = []
    find = Archives.find

    async def dying(self: Archives, url: str, when: datetime | None) -> Any:
        asked.append(url)
        if url == UNKNOWN:
            await _until_sealed(lake)
            raise OSError(28, "No space left on device")
        return await find(self, url, when)

    with monkeypatch.context() as patch:
        patch.setattr(Archives, "find", dying)
        with pytest.raises(OSError, match="No space left"):
            run(lake, "s1", _config(archives, segment_rows=2))
    asked.clear()

    async def noting(self: Archives, url: str, when: datetime | None) -> Any:
        asked.append(url)
        return await find(self, url, when)

    monkeypatch.setattr(Archives, "find", noting)
    assert run(lake, "s1", _config(archives)).manifest.digest == expected
    assert asked == [UNKNOWN]


async def _until_sealed(lake: Lake) -> None:
    end = datetime.now(UTC) + timedelta(seconds=20)
    while not any(name.startswith("segment-part-2") for name in lake.dataset("pages", "s1").sealed()):
        assert datetime.now(UTC) < end
        await asyncio.sleep(0.02)
