"""Logs a crawl as JSON lines, for the live view (flows/crawlview.py), for `tail` and `jq`, and for later analysis.

Every crawl task has its own ``CrawlLog``. All tasks of a refresh, in threads or processes, append to one file. A line
is one ``write`` to a descriptor opened with ``O_APPEND``, so lines of different tasks never mix. An example:

    {"time": .., "event": "progress", "snapshot": .., "part": .., "seconds": 61.0, <the counters of CrawlStats>,
     "pages_per_s": 41.2, "bytes_per_s": 810000.0, "links_per_s": 60.1, "seconds_left": 240.0, "suppressed": 0}

Counters cover this run of the task and not what an earlier, killed run has sealed. ``pages_per_s`` and ``bytes_per_s``
are since the previous line, ``links_per_s`` (links settled) over the last minute. ``seconds_left`` is the number of
links left divided by that rate, or null while it is unknown. The task events ``begin``, ``seal``, ``pause``, ``resume``
and ``end`` have the same numbers; the host events ``breaker_open``, ``breaker_closed`` and ``host_deferred`` do not.

The log is bounded: one progress line per second (later one every five seconds), ``MAX_EVENTS`` events of each kind per
task with the rest counted in ``suppressed``, and texts cut off at ``MAX_TEXT``. That is at most 13 MB per task and day.
Queries and credentials of URLs are never written. If a line cannot be written (a full disk), the crawl goes on, and the
next line says how many were ``lost``.

Cost: 0.2 us per call if no line is due, 20 us for a line.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import orjson

PROGRESS_EVERY_S = 1.0
PROGRESS_AT_MOST_EVERY_S = 5.0  # in a long-running task
RATE_WINDOW_S = 60.0
MAX_EVENTS = 200  # of one kind and task
MAX_TEXT = 300  # characters of one value

TASK_EVENTS = frozenset({"begin", "seal", "pause", "resume", "end"})
HOST_EVENTS = frozenset({"breaker_open", "breaker_closed", "host_deferred"})

_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"(://[^?#\s]*)[?#]\S*")

Field = str | int | float | bool | None


@dataclass
class CrawlStats:
    """The counters of one crawl task, kept up to date by the fetcher."""

    part: str
    links: int = 0  # to settle in all
    settled: int = 0  # have their row, or were handed off to another domain's part
    pages: int = 0  # received whole
    requests: int = 0
    wire_bytes: int = 0
    hosts_active: int = 0  # an exchange is in flight
    hosts_ready: int = 0  # could be asked now
    hosts_waiting: int = 0  # a delay, a back-off, a Retry-After or a breaker's pause has not passed
    hosts_left: int = 0  # with links left, those above included
    paused: str = ""  # why the whole task stands still, such as "network down"
    by_status: Counter[str] = field(default_factory=Counter)  # of the rows; a link handed off has none here

    def numbers(self) -> dict[str, Any]:
        """Everything but the part's name, as JSON values."""
        values = {name: value for name, value in vars(self).items() if name not in ("part", "by_status")}
        return values | {"by_status": {str(status): count for status, count in sorted(self.by_status.items())}}


class CrawlLog:
    """Appends the lines of one crawl task; with ``path`` None it does nothing. ``now`` and ``clock`` are for tests.

    Raises OSError if the file cannot be opened. Not for several threads at once; a task's loop is one.
    """

    def __init__(
        self,
        path: Path | None,
        snapshot: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._snapshot = snapshot
        self._now = now
        self._clock = clock
        self._file: int | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._started = clock()
        self._next_progress = self._started
        self._last: tuple[float, int, int] | None = None  # time, pages, wire bytes at the line before
        self._window: deque[tuple[float, int]] = deque()  # time, links settled
        self._events: Counter[str] = Counter()
        self._suppressed = 0
        self._lost = 0
        self._torn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; later calls do nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def progress(self, stats: CrawlStats) -> None:
        """Write a line with the numbers if one is due. Call it as often as you like."""
        if self._file is None:
            return
        at = self._clock()
        if at < self._next_progress:
            return
        # One per second for ten minutes, then less often in proportion to the run time, down to one every five seconds.
        every = min(PROGRESS_AT_MOST_EVERY_S, max(PROGRESS_EVERY_S, (at - self._started) / 600))
        self._next_progress = at + every
        self._write("progress", stats, self._numbers(at, stats))

    def event(self, stats: CrawlStats, what: str, **fields: Field) -> None:
        """Write a line for an event: a task's event with all numbers, or a host's event with ``fields`` only.

        The ``fields`` of a host's event include ``host``.
        """
        if self._file is None:
            return
        assert what in TASK_EVENTS | HOST_EVENTS, what
        self._events[what] += 1
        if self._events[what] > MAX_EVENTS:
            self._suppressed += 1
            return
        numbers = self._numbers(self._clock(), stats) if what in TASK_EVENTS else {}
        self._write(what, stats, numbers | {name: _clean(value) for name, value in fields.items()})

    def _numbers(self, at: float, stats: CrawlStats) -> dict[str, Any]:
        pages_per_s = bytes_per_s = 0.0
        if self._last is not None and at > self._last[0]:
            seconds = at - self._last[0]
            pages_per_s = (stats.pages - self._last[1]) / seconds
            bytes_per_s = (stats.wire_bytes - self._last[2]) / seconds
        self._last = (at, stats.pages, stats.wire_bytes)
        self._window.append((at, stats.settled))
        while len(self._window) > 2 and at - self._window[1][0] >= RATE_WINDOW_S:
            self._window.popleft()
        since, before = self._window[0]
        links_per_s = (stats.settled - before) / (at - since) if at > since else 0.0
        left = stats.links - stats.settled
        return {
            "seconds": round(at - self._started, 1),
            **stats.numbers(),
            "pages_per_s": round(pages_per_s, 2),
            "bytes_per_s": round(bytes_per_s, 1),
            "links_per_s": round(links_per_s, 3),
            "seconds_left": 0.0 if left <= 0 else round(left / links_per_s, 1) if links_per_s > 0 else None,
            "suppressed": self._suppressed,
        }

    def _write(self, event: str, stats: CrawlStats, values: dict[str, Any]) -> None:
        assert self._file is not None
        head = {
            "time": self._now().isoformat(timespec="milliseconds"),
            "event": event,
            "snapshot": self._snapshot,
            "part": stats.part,
        }
        assert not head.keys() & values.keys(), f"{event}: {head.keys() & values.keys()}"
        lost = {"lost": self._lost} if self._lost else {}
        line = orjson.dumps(head | values | lost, option=orjson.OPT_APPEND_NEWLINE)
        if self._torn:
            line = b"\n" + line
        try:
            written = os.write(self._file, line)
        except OSError:  # the log must not stop the crawl; on a full disk, writing pages stops it
            self._lost += 1
            return
        self._torn = written < len(line)
        self._lost = self._lost + 1 if self._torn else 0


def _clean(value: Field) -> Field:
    """Short, valid text without queries and credentials of URLs. Numbers stay as they are."""
    if not isinstance(value, str):
        return value
    text = _QUERY.sub(r"\1?...", _CREDENTIALS.sub("", value[: 10 * MAX_TEXT]))
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 3]}..."
