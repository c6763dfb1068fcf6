"""A crawl while it runs: live numbers on a terminal, a plain line every few seconds elsewhere, artifacts in Prefect.

The view reads the crawl's log (data/pages/crawllog.py) as `tail -f` does, so crawl tasks may be threads or processes.
``CrawlState`` adds up the numbers of the tasks; ``CrawlView`` shows the sums.

The view counts links of the stage. A link handed off to another domain's part is settled when it has its row there.
Links settled by earlier runs count as settled, but not in the rates, which are of this run.
"""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
from pydantic import TypeAdapter, ValidationError
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data.pages.crawllog import HOST_EVENTS, CrawlStats
from flows.progress import LINE_EVERY_S, console, duration, say, size

REFRESH_S = 0.5
PUBLISH_EVERY_S = 5.0
RATE_WINDOW_S = 15.0  # for the rates of pages and bytes; a long-running task writes a line every five seconds
LEFT_WINDOWS_S = (30.0, 120.0)  # the slower of these two rates of settled links gives the time left
LATEST_S = 30.0  # how long the latest event of a host is shown
READ_BYTES = 4_000_000  # of the log at a time

Line = dict[str, Any]
_HEAD = ("time", "event", "snapshot", "part")
_STATS = TypeAdapter(CrawlStats)


class Tail:
    """The lines added to a file from now on. The file need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def lines(self) -> Iterator[Line]:
        """The complete JSON lines since the last call. A line torn by a full disk is skipped."""
        while block := self._read():
            *whole, self._rest = (self._rest + block).split(b"\n")
            for text in whole:
                try:
                    line = orjson.loads(text)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(line, dict):
                    yield line

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._offset:  # truncated or replaced
                    self._offset = 0
                    self._rest = b""
                file.seek(self._offset)
                block = file.read(READ_BYTES)
        except FileNotFoundError:
            return b""
        self._offset += len(block)
        return block


@dataclass(frozen=True)
class Whole:
    """What the sums are compared with: the links of the stage, what earlier runs sealed, and the budget."""

    links: int
    by_status: Counter[str] = field(default_factory=Counter)  # before this run
    wire_bytes: int = 0  # before this run
    deadline_s: float | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class Numbers:
    """The crawl at one moment."""

    links: int
    by_status: dict[str, int]
    seconds: float
    pages_per_s: float
    bytes_per_s: float
    links_per_s: float
    wire_bytes: int
    tasks: int  # running
    hosts_active: int
    hosts_ready: int
    hosts_waiting: int
    hosts_left: int
    paused: tuple[str, ...]  # the reason of each paused task
    seconds_left: float | None
    deadline_s: float | None
    max_bytes: int | None
    latest: str  # the latest event of a host, such as a breaker that opened

    @property
    def settled(self) -> int:
        return sum(self.by_status.values())

    @property
    def percent(self) -> float:
        return 100.0 if self.links == 0 else min(100.0, 100 * self.settled / self.links)

    def outcomes(self, most: int | None = None) -> str:
        """``ok 1,100, not_found 80``: the most frequent first."""
        return ", ".join(f"{status} {count:,}" for status, count in Counter(self.by_status).most_common(most))

    def hosts(self) -> str:
        return (
            f"{self.hosts_active:,} hosts active, {self.hosts_ready:,} ready, {self.hosts_waiting:,} waiting, "
            f"{self.hosts_left:,} left"
        )

    def budget(self) -> str:
        """The bytes received and, if there are limits, how much of them is used."""
        used = [f"{size(self.wire_bytes)}" + ("" if self.max_bytes is None else f" of {size(self.max_bytes)}")]
        if self.deadline_s is not None:
            used.append(f"{duration(self.seconds)} of {duration(self.deadline_s)}")
        return ", ".join(used)

    def left(self) -> str:
        if self.paused and len(self.paused) == self.tasks:
            return f"paused: {self.paused[0]}"
        return "time left unknown" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"

    def line(self) -> str:
        """All numbers in one line, for logs and artifacts."""
        parts = [
            f"{self.settled:,}/{self.links:,} links",
            f"{self.pages_per_s:.1f} pages/s",
            f"{size(self.bytes_per_s)}/s",
            self.hosts(),
            self.left(),
            self.budget(),
        ]
        if self.paused and len(self.paused) < self.tasks:
            parts.append(f"{len(self.paused)} of {self.tasks} tasks paused: {self.paused[0]}")
        return "; ".join(parts) + (f"; {self.outcomes()}" if self.by_status else "")


class CrawlState:
    """Adds up the lines of all tasks. ``clock`` is for tests."""

    def __init__(self, whole: Whole, clock: Callable[[], float] = time.monotonic) -> None:
        self.whole = whole
        self._clock = clock
        self._started = clock()
        self._tasks: dict[str, CrawlStats] = {}  # the latest counters of each part that is being fetched
        self._sealed: dict[str, CrawlStats] = {}  # the counters of each part when its last segment was sealed
        self._done_by_status = Counter(whole.by_status)  # finished parts and earlier runs
        self._done_bytes = whole.wire_bytes
        self._made = Counter[str]()  # pages, bytes and links of this run
        self._history = deque([(self._started, Counter[str]())])
        self._latest = ""
        self._latest_at = 0.0
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        return self._has_begun

    def feed(self, line: Line) -> None:
        """Take one line of the log."""
        event = line.get("event")
        if event in HOST_EVENTS:
            details = ", ".join(f"{name} {line[name]}" for name in line if name not in (*_HEAD, "host"))
            self._latest = f"{line.get('host', '')}: {event}" + (f" ({details})" if details else "")
            self._latest_at = self._clock()
            return
        try:
            stats = _STATS.validate_python(line)
        except ValidationError:
            return  # a line of a later version
        self._has_begun = True
        before = self._tasks.get(stats.part)
        if event == "begin":
            if stats.part in self._sealed:  # the task failed and starts again after its last sealed segment
                self._add(self._sealed.pop(stats.part))
        elif before is not None:
            self._made.update(_made(stats))
            self._made.subtract(_made(before))
        if event == "end":
            self._tasks.pop(stats.part, None)
            self._sealed.pop(stats.part, None)
            self._add(stats)
            return
        self._tasks[stats.part] = stats
        if event == "seal":
            self._sealed[stats.part] = stats

    def _add(self, stats: CrawlStats) -> None:
        self._done_by_status.update(stats.by_status)
        self._done_bytes += stats.wire_bytes

    def numbers(self) -> Numbers:
        """The sums up to now. Call it regularly, because rates are between calls."""
        at = self._clock()
        self._history.append((at, self._made.copy()))
        while len(self._history) > 2 and at - self._history[1][0] >= max(LEFT_WINDOWS_S):
            self._history.popleft()
        tasks = list(self._tasks.values())
        by_status = sum((stats.by_status for stats in tasks), self._done_by_status)
        seconds = at - self._started
        return Numbers(
            links=self.whole.links,
            by_status=dict(sorted(by_status.items())),
            seconds=seconds,
            pages_per_s=self._rate("pages", at, RATE_WINDOW_S),
            bytes_per_s=self._rate("bytes", at, RATE_WINDOW_S),
            links_per_s=self._rate("links", at, RATE_WINDOW_S),
            wire_bytes=self._done_bytes + sum(stats.wire_bytes for stats in tasks),
            tasks=len(tasks),
            hosts_active=sum(stats.hosts_active for stats in tasks),
            hosts_ready=sum(stats.hosts_ready for stats in tasks),
            hosts_waiting=sum(stats.hosts_waiting for stats in tasks),
            hosts_left=sum(stats.hosts_left for stats in tasks),
            paused=tuple(sorted(stats.paused for stats in tasks if stats.paused)),
            seconds_left=self._seconds_left(at, self.whole.links - by_status.total()),
            deadline_s=self.whole.deadline_s,
            max_bytes=self.whole.max_bytes,
            latest=self._latest if at - self._latest_at < LATEST_S else "",
        )

    def _seconds_left(self, at: float, links_left: int) -> float | None:
        """The time left by the rate of settled links, but no later than the deadline; None if unknown."""
        rate = min(self._rate("links", at, window_s) for window_s in LEFT_WINDOWS_S)
        seconds_left = 0.0 if links_left <= 0 else links_left / rate if rate > 0 else None
        if self.whole.deadline_s is None:
            return seconds_left
        until = max(0.0, self.whole.deadline_s - (at - self._started))
        return until if seconds_left is None else min(seconds_left, until)

    def _rate(self, what: str, at: float, window_s: float) -> float:
        """The rate over the last ``window_s``, or over this run if it is younger."""
        old = (entry for entry in reversed(self._history) if at - entry[0] >= window_s)
        since, made = next(old, self._history[0])
        return (self._made[what] - made[what]) / (at - since) if at > since else 0.0


def _made(stats: CrawlStats) -> Counter[str]:
    return Counter({"pages": stats.pages, "bytes": stats.wire_bytes, "links": stats.by_status.total()})


class CrawlView:
    """Shows a crawl from its log while the context lasts, from the log's first new line on.

    ``publish`` is called every few seconds, in its own thread and in this thread's context. If it fails, the view says
    so once; the crawl goes on.
    """

    def __init__(self, log: Path, whole: Whole, publish: Callable[[Numbers], None] | None = None) -> None:
        self._log = log
        self._tail = Tail(log)
        self._state = CrawlState(whole)
        self._publish_to = publish
        self._over = threading.Event()
        self._numbers: Numbers | None = None
        self._live: Live | None = None
        self._last_line = time.monotonic()
        self._has_complained = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        context = contextvars.copy_context()  # artifacts belong to the flow run of this thread
        loops = {
            "crawl-view": lambda: self._every(REFRESH_S, self._show),
            "crawl-artifacts": lambda: context.run(self._every, PUBLISH_EVERY_S, self._publish),
        }
        self._threads = [threading.Thread(target=loop, name=name, daemon=True) for name, loop in loops.items()]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._show()
        if self._live is not None:
            self._live.stop()
        self._publish()

    def _every(self, seconds: float, step: Callable[[], None]) -> None:
        while not self._over.wait(seconds):
            step()

    def _show(self) -> None:
        for line in self._tail.lines():
            self._state.feed(line)
        if not self._state.has_begun:
            return
        is_first = self._numbers is None
        self._numbers = self._state.numbers()
        if is_first:
            say(f"pages: the crawl's log is {self._log}")
        if console.is_terminal:
            if self._live is None:
                self._live = Live(console=console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(panel(self._numbers), refresh=True)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S and not self._over.is_set():
            self._last_line = time.monotonic()
            say(f"pages: {self._numbers.line()}")

    def _publish(self) -> None:
        if self._publish_to is None or self._numbers is None:
            return
        try:
            self._publish_to(self._numbers)
        except Exception as error:  # a server that fails must not stop the crawl
            if not self._has_complained:
                self._has_complained = True
                say(f"pages: the numbers in Prefect may be out of date: {type(error).__name__}: {error}")


def panel(numbers: Numbers) -> Group:
    """The numbers as a terminal shows them."""
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, numbers.links), completed=numbers.settled, width=30)
    head.add_row(
        "pages", bar, f"{numbers.settled:,}/{numbers.links:,} links", duration(numbers.seconds), numbers.left()
    )
    rates = (
        f"{numbers.pages_per_s:.1f} pages/s",
        f"{numbers.links_per_s:.1f} links/s",
        f"{size(numbers.bytes_per_s)}/s",
        f"{numbers.tasks} crawl task{'' if numbers.tasks == 1 else 's'}",
    )
    rows = [
        Text("  " + ", ".join(rates)),
        Text("  " + numbers.hosts()),
        Text(f"  {numbers.outcomes() or 'no outcome yet'}"),
        Text(f"  {numbers.budget()}"),
    ]
    if numbers.paused:
        rows.append(
            Text(f"  {len(numbers.paused)} of {numbers.tasks} tasks paused: {numbers.paused[0]}", style="yellow")
        )
    if numbers.latest:
        rows.append(Text(f"  {numbers.latest}", overflow="ellipsis", no_wrap=True))
    return Group(head, *rows)
