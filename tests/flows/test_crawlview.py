"""The view of a crawl: read from the log, summed over tasks, and shown on a terminal, as lines and in Prefect."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from data.pages.crawllog import CrawlLog, CrawlStats
from flows import crawlview, services
from flows.crawlview import CrawlState, CrawlView, Tail, Whole
from flows.progress import duration, size
from tests.flows.serving import wait_until


class Clock:
    def __init__(self) -> None:
        self.at = 50.0

    def __call__(self) -> float:
        return self.at


class Crawl:
    """A real log, written on a fake clock, and the state that reads it."""

    def __init__(self, path: Path, whole: Whole) -> None:
        self.path, self.clock = path, Clock()
        self.tail, self.state = Tail(path), CrawlState(whole, self.clock)

    def task(self, part: str, links: int, **counters: int) -> tuple[CrawlLog, CrawlStats]:
        log, stats = CrawlLog(self.path, "s", clock=self.clock), CrawlStats(part, links=links, **counters)
        log.event(stats, "begin")
        return log, stats

    def numbers(self) -> crawlview.Numbers:
        for line in self.tail.lines():
            self.state.feed(line)
        return self.state.numbers()


def settle(stats: CrawlStats, **by_status: int) -> None:
    stats.by_status.update(by_status)
    stats.settled = stats.by_status.total()
    stats.pages = stats.by_status["ok"]


def test_a_tail_returns_complete_new_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(b'{"n": 1}\n{"n"')
    assert list(tail.lines()) == [{"n": 1}]
    with path.open("ab") as file:
        file.write(b': 2}\n{"torn": \n[3]\n{"n": 4}\n')
    assert list(tail.lines()) == [{"n": 2}, {"n": 4}]
    assert list(Tail(path).lines()) == []  # earlier lines are not read


def test_a_truncated_log_is_read_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"n": 1}\n{"n": 2}\n{"half')
    tail = Tail(path)
    path.write_bytes(b'{"n": 3}\n')
    assert list(tail.lines()) == [{"n": 3}]


def test_a_tail_reads_more_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawlview, "READ_BYTES", 7)
    tail = Tail(tmp_path / "log")
    (tmp_path / "log").write_text("".join(f'{{"n": {n}}}\n' for n in range(100)))
    assert [line["n"] for line in tail.lines()] == list(range(100))


def test_numbers_are_sums_over_the_running_tasks(tmp_path: Path) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=1000, deadline_s=3600.0, max_bytes=10**9))
    (log_a, a), (log_b, b) = crawl.task("part-00000", 600), crawl.task("part-00001", 400)
    crawl.numbers()
    crawl.clock.at += 10
    settle(a, ok=80, not_found=20)
    settle(b, ok=100)
    a.wire_bytes, b.wire_bytes = 3_000_000, 1_000_000
    a.hosts_active, a.hosts_ready, a.hosts_waiting, a.hosts_left = 1, 2, 3, 7
    b.hosts_active, b.hosts_waiting, b.hosts_left = 10, 20, 40
    log_a.progress(a)
    log_b.progress(b)
    found = crawl.numbers()
    assert (found.settled, found.by_status, found.percent) == (200, {"not_found": 20, "ok": 180}, 20.0)
    assert (found.pages_per_s, found.bytes_per_s, found.links_per_s) == (18.0, 400_000.0, 20.0)
    assert (found.hosts_active, found.hosts_ready, found.hosts_waiting, found.hosts_left) == (11, 2, 23, 47)
    assert (found.tasks, found.wire_bytes, found.seconds_left) == (2, 4_000_000, 40.0)
    assert found.line() == (
        "200/1,000 links; 18.0 pages/s; 400.0 kB/s; 11 hosts active, 2 ready, 23 waiting, 47 left; "
        "about 0:00:40 left; 4.0 MB of 1.0 GB, 0:00:10 of 1:00:00; ok 180, not_found 20"
    )
    log_a.event(a, "end")
    found = crawl.numbers()
    assert (found.tasks, found.hosts_active, found.settled) == (1, 10, 200)


def test_links_of_earlier_runs_count_as_settled_but_not_in_the_rates(tmp_path: Path) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=1000, by_status=Counter(ok=350, gone=100), wire_bytes=5_900))
    assert crawl.numbers().settled == 450
    log, stats = crawl.task("part-00001", 550)
    crawl.numbers()
    crawl.clock.at += 5
    settle(stats, ok=5)
    stats.wire_bytes = 500
    log.progress(stats)
    found = crawl.numbers()
    assert (found.settled, found.pages_per_s, found.bytes_per_s, found.seconds_left) == (455, 1.0, 100.0, 545.0)
    assert found.wire_bytes == 6_400


def test_a_retried_task_keeps_its_sealed_links(tmp_path: Path) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=100))
    log, stats = crawl.task("part-00000", 100)
    settle(stats, ok=30)
    log.event(stats, "seal")
    settle(stats, ok=10)
    crawl.clock.at += 10
    log.progress(stats)
    assert crawl.numbers().settled == 40
    log, stats = crawl.task("part-00000", 70)
    found = crawl.numbers()
    assert (found.settled, found.pages_per_s, found.tasks) == (30, 4.0, 1)
    settle(stats, ok=70)
    log.event(stats, "end")
    assert crawl.numbers().settled == 100


def test_rates_cover_the_last_seconds(tmp_path: Path) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=10**6))
    log, stats = crawl.task("part-00000", 10**6)
    for rate in [100] * 60 + [10] * 60:
        crawl.clock.at += 1
        settle(stats, ok=rate)
        log.progress(stats)
        found = crawl.numbers()
    assert (found.pages_per_s, found.links_per_s) == (10.0, 10.0)


def test_the_slower_of_two_rates_determines_the_time_left(tmp_path: Path) -> None:
    """Slow hosts own the last links, and a burst does not last."""
    for rates, slower in ([100] * 90 + [1] * 30, 1), ([2] * 90 + [100] * 30, (180 + 3000) / 120):
        path = tmp_path / str(slower)
        crawl = Crawl(path, Whole(links=10**6))
        log, stats = crawl.task("part-00000", 10**6)
        for rate in rates:
            crawl.clock.at += 1
            settle(stats, ok=rate)
            log.progress(stats)
            found = crawl.numbers()
        assert found.seconds_left == pytest.approx((10**6 - found.settled) / slower)


@pytest.mark.parametrize(("rate", "left"), [(100, 9.0), (1, 90.0), (0, 90.0)])
def test_the_time_left_ends_with_the_deadline(tmp_path: Path, rate: int, left: float) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=1900, deadline_s=100.0))
    log, stats = crawl.task("part-00000", 1900)
    crawl.numbers()
    crawl.clock.at += 10
    settle(stats, ok=10 * rate)
    log.progress(stats)
    assert crawl.numbers().seconds_left == left


def test_pauses_are_shown_with_their_reason(tmp_path: Path) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=10))
    (log_a, a), (log_b, b) = crawl.task("part-00000", 5), crawl.task("part-00001", 5)
    a.paused = "network down"
    log_a.event(a, "pause")
    assert "1 of 2 tasks paused: network down" in crawl.numbers().line()
    assert "time left unknown" in crawl.numbers().line()
    b.paused = "network down"
    log_b.event(b, "pause")
    assert "; paused: network down;" in crawl.numbers().line()
    a.paused = b.paused = ""
    log_a.event(a, "resume")
    log_b.event(b, "resume")
    assert "paused" not in crawl.numbers().line()


def test_the_latest_event_of_a_host_is_shown_for_a_while(tmp_path: Path) -> None:
    crawl = Crawl(tmp_path / "log", Whole(links=10))
    log, stats = crawl.task("part-00000", 10)
    log.event(stats, "breaker_closed", host="a.example")
    assert crawl.numbers().latest == "a.example: breaker_closed"
    log.event(stats, "host_deferred", host="b.example", retry_after="86400", links=3)
    assert crawl.numbers().latest == "b.example: host_deferred (retry_after 86400, links 3)"
    assert crawl.numbers().settled == 0
    crawl.clock.at += crawlview.LATEST_S
    assert crawl.numbers().latest == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (99.6, "0:01:40"), (6 * 3600, "6:00:00"), (864_000 + 60, "10 days, 0:01:00")],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (123_456, "123.5 kB"), (2e12, "2.0 TB")]
)
def test_sizes_are_formatted(n_bytes: float, text: str) -> None:
    assert size(n_bytes) == text


def test_without_a_terminal_plain_lines_come_every_few_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crawlview, "LINE_EVERY_S", 0.3)
    monkeypatch.setattr(crawlview, "REFRESH_S", 0.02)
    said: list[str] = []

    def read() -> int:
        said.extend(capsys.readouterr().err.splitlines())
        return len(said)

    started = time.monotonic()
    with CrawlView(tmp_path / "log", Whole(links=10)):
        time.sleep(0.5)
        assert read() == 0  # nothing before the first line of the log
        with CrawlLog(tmp_path / "log", "s") as log:
            stats = CrawlStats("part-00000", links=10)
            log.event(stats, "begin")
            settle(stats, ok=3)
            log.event(stats, "seal")
            wait_until(lambda: read() >= 4)
    read()
    assert said[0] == f"pages: the crawl's log is {tmp_path / 'log'}"
    assert len(said) <= 2 + (time.monotonic() - started) / 0.3  # no more often than LINE_EVERY_S
    assert all(line.startswith("pages: 3/10 links; ") for line in said[2:])


def test_a_failing_publisher_is_reported_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    def publish(_numbers: crawlview.Numbers) -> None:
        nonlocal tries
        tries += 1
        raise ConnectionError("no server")

    monkeypatch.setattr(crawlview, "PUBLISH_EVERY_S", 0.05)
    monkeypatch.setattr(crawlview, "REFRESH_S", 0.02)
    with CrawlView(tmp_path / "log", Whole(links=10), publish), CrawlLog(tmp_path / "log", "s") as log:
        log.event(CrawlStats("part-00000", links=10), "begin")
        wait_until(lambda: tries > 2)
    assert capsys.readouterr().err.count("out of date: ConnectionError: no server") == 1


IN_A_TERMINAL = """
import sys, time
from pathlib import Path
from flows import crawlview
from flows.crawlview import CrawlView, Whole
crawlview.REFRESH_S = 0.05
log = Path(sys.argv[1])
with CrawlView(log, Whole(links=4000, deadline_s=3600.0)):
    while not log.with_name("over").exists():
        time.sleep(0.05)
print("the end")
"""


def test_a_terminal_shows_the_numbers_of_tasks_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "log"
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, str(path)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = ""

    def read_until(text: str) -> None:
        nonlocal shown
        until = time.monotonic() + 30
        while text not in shown:
            assert time.monotonic() < until, f"{text!r} is not in {shown!r}"
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65536).decode()

    try:
        time.sleep(0.5)
        with CrawlLog(path, "s") as log:
            stats = CrawlStats("part-00000", links=4000, hosts_active=12, hosts_waiting=1234, hosts_left=2000)
            # The view may start only now, and it counts from its first line.
            until = time.monotonic() + 30
            while "links" not in shown and time.monotonic() < until:
                log.event(stats, "begin")
                time.sleep(0.2)
                if select.select([ours], [], [], 0)[0]:
                    shown += os.read(ours, 65536).decode()
            settle(stats, ok=1100, not_found=80)
            stats.paused = "network down"
            log.event(stats, "breaker_open", host="slow.example", pause_s=30.0)
            log.event(stats, "pause")
            read_until("1,180/4,000 links")
            read_until("12 hosts active, 0 ready, 1,234 waiting, 2,000 left")
            read_until("ok 1,100, not_found 80")
            read_until("1 of 1 tasks paused: network down")
            read_until("slow.example: breaker_open (pause_s 30.0)")
        (tmp_path / "over").touch()
        read_until("the end")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert str(path) in "".join(shown.split("\r\n"))


def test_prefect_shows_the_progress_and_the_outcomes(
    servers: services.Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow, runtime
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    from flows.artifacts import CrawlArtifacts

    monkeypatch.setattr(crawlview, "REFRESH_S", 0.02)
    monkeypatch.setattr(crawlview, "PUBLISH_EVERY_S", 0.1)

    def artifacts_of(flow_run_id: str) -> dict[str, tuple[object, str]]:
        with get_client(sync_client=True) as client:
            wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
            found = client.read_artifacts(artifact_filter=wanted)
        assert len({artifact.key for artifact in found}) == len(found)  # updated, not created again
        return {str(artifact.key): (artifact.data, str(artifact.description)) for artifact in found}

    @flow(name="crawl-view", persist_result=False)
    def crawl() -> tuple[str, dict[str, tuple[object, str]]]:
        run_id = str(runtime.flow_run.id)
        with CrawlView(tmp_path / "log", Whole(links=200), CrawlArtifacts("2026-11@x").publish):
            log, stats = CrawlLog(tmp_path / "log", "s"), CrawlStats("part-00000", links=200)
            log.event(stats, "begin")
            settle(stats, ok=50)
            log.event(stats, "seal")
            until = time.monotonic() + 30
            while not (half := artifacts_of(run_id)).get("crawl-2026-11-x", (0, ""))[1].startswith("50/200"):
                assert time.monotonic() < until, half
                time.sleep(0.1)
            settle(stats, ok=100, gone=50)
            log.event(stats, "end")
        return run_id, half

    run_id, half = crawl()
    assert half["crawl-2026-11-x"][0] == 25.0
    whole = artifacts_of(run_id)
    assert whole["crawl-2026-11-x"][0] == 100.0
    assert whole["crawl-2026-11-x"][1].startswith("200/200 links; ")
    table = json.loads(str(whole["crawl-outcomes-2026-11-x"][0]))
    assert table == [{"status": "gone", "links": 50}, {"status": "ok", "links": 150}]
