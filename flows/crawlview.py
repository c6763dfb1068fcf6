"""A crawl while it runs: live numbers on a terminal, a plain line now and then elsewhere, and artifacts in Prefect.

Everything shown is read from the crawl's log (data/pages/crawllog.py), as `tail -f` would, so it makes no difference
whether the crawl tasks are threads or other processes. ``CrawlState`` adds up what the tasks say; ``CrawlView`` shows
it.

What is counted are links of the stage: a link handed off to another domain's part is settled when it has its row there.
Rates are of this run; what earlier runs settled counts as settled and says nothing of the rate.
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
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data.pages.crawllog import HOST_EVENTS
from flows.progress import LINE_EVERY_S, console, duration, say, size

REFRESH_S = 0.5
PUBLISH_EVERY_S = 5.0
RATE_WINDOW_S = 15.0  # of pages and bytes: a task that runs for long writes a line every five seconds
LEFT_WINDOWS_S = (30.0, 120.0)  # of the links settled; the time left is by the slower rate of the two
LATEST_S = 30.0  # how long what happened to a host is shown
READ_BYTES = 4_000_000  # of the log at a time

Line = dict[str, Any]
_HEAD = ("time", "event", "snapshot", "part")


class Tail:
    """The lines that are added to a file from now on; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def lines(self) -> Iterator[Line]:
        """The whole lines since the last call. One torn by a full disk is passed over."""
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
                if file.seek(0, os.SEEK_END) < self._offset:  # cut or replaced: begin anew
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                block = file.read(READ_BYTES)
        except FileNotFoundError:
            return b""
        self._offset += len(block)
        return block


@dataclass(frozen=True)
class Whole:
    """What the tasks' numbers are seen against: the links of the stage, what earlier runs sealed, and the budget."""

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
    paused: tuple[str, ...]  # one entry a task that stands still
    seconds_left: float | None
    deadline_s: float | None
    max_bytes: int | None
    latest: str  # of a host: a breaker that opened, a host that was deferred

    @property
    def settled(self) -> int:
        return sum(self.by_status.values())

    @property
    def percent(self) -> float:
        return 100.0 if self.links == 0 else min(100.0, 100 * self.settled / self.links)

    def outcomes(self, most: int | None = None) -> str:
        """``ok 1,100, not_found 80``: most frequent first."""
        return ", ".join(f"{status} {count:,}" for status, count in Counter(self.by_status).most_common(most))

    def hosts(self) -> str:
        return (
            f"{self.hosts_active:,} hosts active, {self.hosts_ready:,} ready, {self.hosts_waiting:,} waiting, "
            f"{self.hosts_left:,} left"
        )

    def budget(self) -> str:
        """What is used of the deadline and the bytes; without limits the bytes alone."""
        used = [f"{size(self.wire_bytes)}" + ("" if self.max_bytes is None else f" of {size(self.max_bytes)}")]
        if self.deadline_s is not None:
            used.append(f"{duration(self.seconds)} of {duration(self.deadline_s)}")
        return ", ".join(used)

    def left(self) -> str:
        if self.paused and len(self.paused) == self.tasks:
            return f"paused: {self.paused[0]}"
        return "time left unknown" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"

    def line(self) -> str:
        """All of it in one line, for logs and artifacts."""
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
        self.whole, self._clock = whole, clock
        self._started = clock()
        self._tasks: dict[str, Line] = {}  # the latest numbers of each part that is being fetched
        self._sealed: dict[str, Line] = {}  # its numbers when its last segment was sealed
        self._by_status, self._wire_bytes = Counter(whole.by_status), whole.wire_bytes  # of what is done
        self._made = Counter[str]()  # pages, bytes and links of this run
        self._history = deque([(self._started, Counter[str]())])
        self._latest = (0.0, "")
        self._has_begun = False

    @property
    def has_begun(self) -> bool:
        return self._has_begun

    def feed(self, line: Line) -> None:
        """One line of the log."""
        part, event = line.get("part"), line.get("event")
        if event in HOST_EVENTS:
            more = ", ".join(f"{name} {line[name]}" for name in line if name not in (*_HEAD, "host"))
            self._latest = (self._clock(), f"{line.get('host', '')}: {event}" + (f" ({more})" if more else ""))
            return
        if not isinstance(part, str) or not isinstance(line.get("by_status"), dict):
            return
        self._has_begun = True
        before = self._tasks.get(part)
        if event == "begin":
            if part in self._sealed:  # it failed and is tried again; this much it need not do again
                self._add(self._sealed.pop(part))
        elif before is not None:
            self._made.update(_made(line))
            self._made.subtract(_made(before))
        if event == "end":
            self._tasks.pop(part, None)
            self._sealed.pop(part, None)
            self._add(line)
            return
        self._tasks[part] = line
        if event == "seal":
            self._sealed[part] = line

    def _add(self, line: Line) -> None:
        self._by_status.update(line["by_status"])
        self._wire_bytes += int(line["wire_bytes"])

    def numbers(self) -> Numbers:
        """Everything up to now; to be called regularly, since rates are between calls."""
        at, whole = self._clock(), self.whole
        self._history.append((at, self._made.copy()))
        while len(self._history) > 2 and at - self._history[1][0] >= max(LEFT_WINDOWS_S):
            self._history.popleft()
        links_per_s = min(self._rate("links", at, window_s) for window_s in LEFT_WINDOWS_S)
        live = list(self._tasks.values())
        by_status, wire_bytes = self._by_status.copy(), self._wire_bytes
        for line in live:
            by_status.update(line["by_status"])
            wire_bytes += int(line["wire_bytes"])
        seconds = at - self._started
        left = max(0, whole.links - by_status.total())
        seconds_left = left / links_per_s if links_per_s > 0 else None if left else 0.0
        if whole.deadline_s is not None:
            until = max(0.0, whole.deadline_s - seconds)
            seconds_left = until if seconds_left is None else min(seconds_left, until)
        return Numbers(
            links=whole.links,
            by_status=dict(sorted(by_status.items())),
            seconds=seconds,
            pages_per_s=self._rate("pages", at, RATE_WINDOW_S),
            bytes_per_s=self._rate("bytes", at, RATE_WINDOW_S),
            links_per_s=self._rate("links", at, RATE_WINDOW_S),
            wire_bytes=wire_bytes,
            tasks=len(live),
            hosts_active=sum(int(line["hosts_active"]) for line in live),
            hosts_ready=sum(int(line["hosts_ready"]) for line in live),
            hosts_waiting=sum(int(line["hosts_waiting"]) for line in live),
            hosts_left=sum(int(line["hosts_left"]) for line in live),
            paused=tuple(sorted(str(line["paused"]) for line in live if line["paused"])),
            seconds_left=seconds_left,
            deadline_s=whole.deadline_s,
            max_bytes=whole.max_bytes,
            latest=self._latest[1] if at - self._latest[0] < LATEST_S else "",
        )

    def _rate(self, what: str, at: float, window_s: float) -> float:
        """Of the last ``window_s``, or of this run if that is shorter."""
        old = (entry for entry in reversed(self._history) if at - entry[0] >= window_s)
        since, made = next(old, self._history[0])
        return (self._made[what] - made[what]) / (at - since) if at > since else 0.0


def _made(line: Line) -> Counter[str]:
    rows = sum(int(count) for count in line["by_status"].values())
    return Counter({"pages": int(line["pages"]), "bytes": int(line["wire_bytes"]), "links": rows})


class CrawlView:
    """Shows a crawl from its log while the context lasts; nothing before the first line of the log.

    ``publish`` is called every few seconds, in a thread of its own and this thread's context; None publishes nothing.
    Showing never stops the crawl: what goes wrong in publishing is said, once.
    """

    def __init__(self, log: Path, whole: Whole, publish: Callable[[Numbers], None] | None = None) -> None:
        self._log, self._tail, self._state, self._publish_to = log, Tail(log), CrawlState(whole), publish
        self._over = threading.Event()
        self._numbers: Numbers | None = None
        self._live: Live | None = None
        self._last_line = time.monotonic()
        self._trouble_said = False
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
        except Exception as error:  # whatever the server or the way to it has: the crawl goes on
            if not self._trouble_said:
                self._trouble_said = True
                say(f"pages: the numbers in Prefect may stand still: {type(error).__name__}: {error}")


def panel(numbers: Numbers) -> Group:
    """What a terminal shows."""
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
