"""The crawl's log: whole lines from many writers, correct numbers, bounded size, no secrets."""

import json
import multiprocessing
import os
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from data.pages import crawllog
from data.pages.crawllog import CrawlLog, CrawlStats
from data.schema import PageStatus

NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def opened(path: Path | None) -> tuple[CrawlLog, Clock]:
    clock = Clock()
    return CrawlLog(path, "2026-11", now=lambda: NOW, clock=clock), clock


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_the_task_the_time_and_all_numbers(tmp_path: Path) -> None:
    log, clock = opened(tmp_path / "logs" / "crawl.jsonl")
    stats = CrawlStats("part-00001", links=100, hosts_active=3, hosts_left=9)
    log.event(stats, "begin")
    clock.at += 10
    stats.settled, stats.pages, stats.requests, stats.wire_bytes = 20, 15, 31, 50_000
    stats.by_status.update({PageStatus.OK: 15, PageStatus.NOT_FOUND: 5})
    log.progress(stats)
    log.close()
    begin, progress = lines(tmp_path / "logs" / "crawl.jsonl")
    assert begin["event"] == "begin"
    assert begin["seconds_left"] is None
    assert progress == {
        "time": "2026-11-23T09:30:00.000+00:00",
        "event": "progress",
        "snapshot": "2026-11",
        "part": "part-00001",
        "seconds": 10.0,
        **{"links": 100, "settled": 20, "pages": 15, "requests": 31, "wire_bytes": 50_000},
        **{"hosts_active": 3, "hosts_ready": 0, "hosts_waiting": 0, "hosts_left": 9},
        "paused": "",
        "by_status": {"not_found": 5, "ok": 15},
        **{"pages_per_s": 1.5, "bytes_per_s": 5000.0, "links_per_s": 2.0, "seconds_left": 40.0, "suppressed": 0},
    }


def test_numbers_of_the_first_line_do_not_count_in_the_rate(tmp_path: Path) -> None:
    log, clock = opened(tmp_path / "log")
    stats = CrawlStats("part-00000", links=1000, settled=900, pages=800, wire_bytes=10**9)
    log.event(stats, "begin")
    clock.at += 5
    stats.settled, stats.pages, stats.wire_bytes = 905, 805, 10**9 + 500
    log.progress(stats)
    last = lines(tmp_path / "log")[-1]
    assert (last["pages_per_s"], last["bytes_per_s"], last["seconds_left"]) == (1.0, 100.0, 95.0)


def test_the_rate_of_links_covers_the_last_minute(tmp_path: Path) -> None:
    log, clock = opened(tmp_path / "log")
    stats = CrawlStats("part-00000", links=100_000)
    log.event(stats, "begin")
    for rate in [100] * 60 + [2] * 120:
        clock.at += 1
        stats.settled += rate
        log.progress(stats)
    last = lines(tmp_path / "log")[-1]
    assert last["links_per_s"] == pytest.approx(2.0)
    assert last["seconds_left"] == pytest.approx((100_000 - 6240) / 2)


def test_time_left_is_zero_when_done_and_unknown_at_a_standstill(tmp_path: Path) -> None:
    log, clock = opened(tmp_path / "log")
    stats = CrawlStats("part-00000", links=10, settled=4)
    log.event(stats, "begin")
    clock.at += 30
    log.progress(stats)
    stats.settled = 10
    log.event(stats, "end")
    stuck, end = lines(tmp_path / "log")[1:]
    assert stuck["seconds_left"] is None
    assert end["seconds_left"] == 0.0


def test_progress_is_written_every_second_and_later_every_five(tmp_path: Path) -> None:
    log, clock = opened(tmp_path / "log")
    stats = CrawlStats("part-00000", links=10)

    def written_in(seconds: int) -> int:
        before = (tmp_path / "log").read_bytes().count(b"\n")
        for _ in range(10 * seconds):
            log.progress(stats)
            clock.at += 0.1
        return (tmp_path / "log").read_bytes().count(b"\n") - before

    assert 48 <= written_in(50) <= 50
    clock.at += 86_400
    assert 19 <= written_in(100) <= 20


def test_events_of_one_kind_are_limited_and_the_rest_counted(tmp_path: Path) -> None:
    log, _ = opened(tmp_path / "log")
    stats = CrawlStats("part-00000")
    log.event(stats, "begin")
    for number in range(crawllog.MAX_EVENTS + 50):
        log.event(stats, "breaker_open", host=f"h{number}.example", reason="5 failures in a row", seconds=30.0)
    log.event(stats, "host_deferred", host="late.example")
    log.event(stats, "end")
    found = lines(tmp_path / "log")
    assert Counter(line["event"] for line in found) == {
        **{"begin": 1, "breaker_open": crawllog.MAX_EVENTS, "host_deferred": 1, "end": 1}
    }
    assert found[1] == {
        **{"time": "2026-11-23T09:30:00.000+00:00", "event": "breaker_open", "snapshot": "2026-11"},
        **{"part": "part-00000", "host": "h0.example", "reason": "5 failures in a row", "seconds": 30.0},
    }
    assert found[-1]["suppressed"] == 50


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("https://user:secret@a.example/x", "https://a.example/x"),
        (
            "from http://a.example/x?token=secret to http://b.example/#secret",
            "from http://a.example/x?... to http://b.example/?...",
        ),
        ("ftp://me@h/", "ftp://h/"),
        ("what? nothing to hide@home", "what? nothing to hide@home"),
        ("two\nlines \x00", "two\nlines \x00"),
        ("lone \ud800", "lone ?"),
        ("x" * 1000, "x" * (crawllog.MAX_TEXT - 3) + "..."),
        ("é" * 100_000, "é" * (crawllog.MAX_TEXT - 3) + "..."),
    ],
)
def test_texts_are_short_and_valid_and_without_secrets_of_urls(tmp_path: Path, text: str, written: str) -> None:
    log, _ = opened(tmp_path / "log")
    log.event(CrawlStats("part-00000"), "host_deferred", host="a.example", reason=text)
    [line] = lines(tmp_path / "log")
    assert line["reason"] == written


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log, _ = opened(None)
    log.event(CrawlStats("part-00000"), "begin")
    log.progress(CrawlStats("part-00000"))
    log.close()
    assert list(tmp_path.iterdir()) == []


def write_many(path: Path, part: str, n_lines: int) -> None:
    with CrawlLog(path, "2026-11") as log:
        stats = CrawlStats(part, by_status=Counter(dict.fromkeys(PageStatus, 10**12)))
        for number in range(n_lines):
            stats.settled = number
            log._write("progress", stats, stats.numbers())  # as fast as possible


def test_threads_and_processes_write_whole_lines_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(path, f"part-0000{n}", 500)) for n in range(3)]
    workers += [threading.Thread(target=write_many, args=(path, f"part-1-0000{n}", 500)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    settled: dict[str, list[int]] = {}
    for line in lines(path):
        settled.setdefault(line["part"], []).append(line["settled"])
    assert settled == {part: list(range(500)) for part in settled}
    assert len(settled) == 6


def test_a_full_disk_stops_nothing_and_the_next_line_counts_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path / "log")
    stats = CrawlStats("part-00000")
    write = os.write
    room = iter([100, 0, 10**6])  # a torn line, then no line at all, then there is room again

    def scarce(file: int, data: bytes) -> int:
        left = next(room)
        if not left:
            raise OSError(28, "No space left on device")
        return write(file, data[:left])

    monkeypatch.setattr(crawllog.os, "write", scarce)
    for event in ("begin", "seal", "end"):
        log.event(stats, event)
    torn, whole = (tmp_path / "log").read_text().splitlines()
    assert len(torn) == 100
    assert (json.loads(whole)["event"], json.loads(whole)["lost"]) == ("end", 2)


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        CrawlLog(tmp_path / "file" / "log", "2026-11")
