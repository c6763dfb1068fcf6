from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from data.config import PagesConfig, TextConfig, content_settings
from data.errors import InputError
from data.lake.manifest import Part
from data.lake.store import Lake, write_parquet
from data.schema import PAGES
from data.stage import MakePart
from data.text import stage as text
from data.warc import WarcWriter

CONFIG = TextConfig(workers=2)
PROSE = "The ferry that links the two halves of the town was out of service for day {} in a row, said the council. " * 4


def article(n: int) -> str:
    text = PROSE.format(n, n, n, n)
    return f"<html><head><title>Day {n}</title></head><body><article><p>{text}</p></article></body></html>"


# trafilatura's time grows with the square of the inline elements of a paragraph: about a minute for this one
SLOW = "<html><body><p>" + "<span>a <b>x</b></span>" * 150_000 + "</p></body></html>"


def make_lake(root: Path, parts: dict[str, dict[str, tuple[str, str]]]) -> Lake:
    """A lake with pages; ``parts`` holds (status, HTML) by URL, by part. The WARC records are in reverse order."""
    lake = Lake(root)
    pages = lake.dataset("pages", "s")
    pages.begin(content_settings(PagesConfig()), {})
    at = datetime(2026, 11, 1, tzinfo=UTC)
    for part, by_url in parts.items():
        offsets = {}
        with lake.scratch() as folder:
            with (folder / "pages.warc.gz").open("wb") as file:
                writer = WarcWriter(file, f"{part}.warc.gz", {"software": "test"})
                for url in sorted(by_url, reverse=True):
                    if by_url[url][0] == "ok":
                        head = (b"HTTP/1.1 200 OK", [(b"Content-Type", b"text/html; charset=utf-8")])
                        body = by_url[url][1].encode()
                        sha1 = hashlib.sha1(body).digest()
                        offsets[url] = writer.write_page(url, at, (b"GET / HTTP/1.1", []), head, body, sha1)
            empty = dict.fromkeys(PAGES.names)
            rows = [
                {
                    **empty,
                    "canonical_url": url,
                    "final_url": f"{url}?final",
                    "status": status,
                    "warc_file": f"{part}.warc.gz" if url in offsets else None,
                    "warc_offset": offsets.get(url),
                    "fetched_at": at,
                    "domain": None,
                    "karma": 5,
                }
                for url, (status, _) in sorted(by_url.items())
            ]
            table = pa.Table.from_pylist(rows, schema=PAGES)
            write_parquet(table, folder / "pages.parquet")
            files = {f"{part}.parquet": folder / "pages.parquet", f"{part}.warc.gz": folder / "pages.warc.gz"}
            counts = {
                status: sum(row["status"] == status for row in rows) for status in {row["status"] for row in rows}
            }
            pages.seal(part, files, table, counts=counts)
    pages.finish(list(parts), {}, 0.0)
    return lake


def rows_by_url(lake: Lake, part: str = "part-00000") -> dict[str, dict]:
    return {row["url"]: row for row in lake.dataset("text", "s").read(f"{part}.parquet").to_pylist()}


def workers() -> list[psutil.Process]:
    """Living children of this process's fork server; other tests of the process may have left servers running."""
    found = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in found if p.ppid() != os.getpid() and "forkserver" in " ".join(p.cmdline())]


def test_each_fetched_page_has_one_row_in_page_order(tmp_path: Path) -> None:
    by_url = {f"http://a.example/{n:02}": ("ok", article(n)) for n in range(30)}
    by_url["http://a.example/05"] = ("not_found", "")
    by_url["http://a.example/07"] = ("ok", "<html><body></body></html>")
    lake = make_lake(
        tmp_path, {"part-00000": by_url, "part-1-00000": {}, "part-00001": {"http://b.example/": ("ok", article(99))}}
    )
    manifest = text.run(lake, "s", CONFIG).manifest
    assert [part.name for part in manifest.parts] == ["part-00000", "part-1-00000", "part-00001"]
    assert manifest.counts == {"empty": 1, "ok": 29}
    rows = rows_by_url(lake)
    assert list(rows) == [url for url in sorted(by_url) if by_url[url][0] == "ok"]
    for n in range(30):
        url = f"http://a.example/{n:02}"
        if n in (5, 7):
            continue
        row = rows[url]
        assert row["text"] == PROSE.format(n, n, n, n).strip()
        assert row["doc_id"] == text.document_id(url, row["text"])
        assert (row["title"], row["language"], row["domain"], row["karma"]) == (f"Day {n}", "en", "a.example", 5)
        assert row["n_chars"] == len(row["text"])
    assert rows["http://a.example/07"]["text"] is None
    assert rows["http://a.example/07"]["n_words"] is None


def test_the_digest_does_not_depend_on_workers_or_interruption(tmp_path: Path) -> None:
    parts = {
        f"part-{p:05d}": {f"http://a.example/{p}/{n}": ("ok", article(n)) for n in range(4 - 3 * p)} for p in range(2)
    }
    whole = text.run(make_lake(tmp_path / "a", parts), "s", TextConfig(workers=1, pages_per_child=3)).manifest
    lake = make_lake(tmp_path / "b", parts)

    def killed(make_part: MakePart, names: list[str]) -> None:
        make_part(names[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text.run(lake, "s", CONFIG, killed)
    made: list[Part] = []
    again = text.run(lake, "s@variant", CONFIG, lambda make_part, names: made.extend(map(make_part, names)))
    assert [part.name for part in made] == ["part-00001"]
    assert again.manifest.digest == whole.digest
    assert again.manifest.snapshot == "s"


def test_only_the_slow_page_times_out(tmp_path: Path) -> None:
    by_url = {f"http://a.example/{n}": ("ok", SLOW if n == 3 else article(n)) for n in range(8)}
    lake = make_lake(tmp_path, {"part-00000": by_url})
    manifest = text.run(lake, "s", TextConfig(workers=2, timeout_s=1.0)).manifest
    assert manifest.counts == {"ok": 7, "timeout": 1}
    assert rows_by_url(lake)["http://a.example/3"]["reason"] == "more than 1 s"


def test_memory_is_limited_by_the_kernel(tmp_path: Path) -> None:
    large = "<html><body>" + "".join(f"<p>{n} {PROSE}</p>" for n in range(20_000)) + "</body></html>"  # 9 MB
    by_url = {"http://a.example/0": ("ok", large), "http://a.example/1": ("ok", article(1))}
    lake = make_lake(tmp_path, {"part-00000": by_url})
    manifest = text.run(lake, "s", TextConfig(workers=1, worker_memory_bytes=8_000_000)).manifest
    assert manifest.counts == {"crashed": 1, "ok": 1}
    assert rows_by_url(lake)["http://a.example/0"]["status"] == "crashed"


def test_an_oversized_page_fails_with_its_size(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, {"part-00000": {"http://a.example/": ("ok", article(1))}})
    manifest = text.run(lake, "s", TextConfig(workers=1, max_html_bytes=100)).manifest
    assert manifest.counts == {"failed": 1}
    size = len(article(1))
    assert rows_by_url(lake)["http://a.example/"]["reason"] == f"{size} bytes, more than max_html_bytes 100"


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    make_lake(tmp_path / "lake", {"part-00000": {"http://a.example/": ("ok", SLOW)}})
    script = tmp_path / "stage.py"
    script.write_text(
        "import sys\nfrom data.text import stage as text\nfrom data.config import TextConfig\n"
        "from data.lake.store import Lake\n"
        "if __name__ == '__main__':\n    text.run(Lake(sys.argv[1]), 's', TextConfig(workers=2))\n"
    )
    process = subprocess.Popen([sys.executable, script, tmp_path / "lake"], cwd=Path(__file__).parents[3])
    try:
        stage = psutil.Process(process.pid)
        deadline = time.monotonic() + 120
        children: list[psutil.Process] = []
        while not any(p.ppid() != process.pid for p in children):  # a child of the fork server
            assert time.monotonic() < deadline
            time.sleep(0.1)
            children = stage.children(recursive=True)
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    for left in alive:
        left.kill()
    assert alive == []


def test_a_damaged_warc_and_a_missing_dataset_are_bad_input(tmp_path: Path) -> None:
    lake = make_lake(tmp_path, {"part-00000": {"http://a.example/": ("ok", article(1))}})
    with pytest.raises(InputError, match="pages/other: no such dataset"):
        text.run(lake, "other", CONFIG)
    path = tmp_path / "pages/s/part-00000.warc.gz"
    os.truncate(path, 100)
    with pytest.raises(InputError, match="damaged"):
        text.run(lake, "s", CONFIG)
    assert workers() == []
