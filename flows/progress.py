"""Progress for people: live bars on a terminal, a plain line now and then elsewhere. All of it on standard error."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0  # plain lines of one bar come no more often than this, but its last one always comes

console = Console(stderr=True)


class Bar:
    """One task's progress: ``total`` steps, advanced from any thread; use it as a context manager."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._note = ""
        self._last_line = time.monotonic()
        self._live: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self._live = Progress(*columns, *times, console=console)
            self._id = self._live.add_task(name, total=total, note="")
            self._live.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._live:
            self._live.stop()

    def update(self, done: int, note: str = "") -> None:
        self.done, self._note = done, note
        if self._live:
            self._live.update(self._id, completed=done, note=note)
            return
        now = time.monotonic()
        if done >= self.total or now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            say(f"{self.name}: {done}/{self.total} {self.unit} {note}".rstrip())

    def advance(self, note: str = "") -> None:
        self.update(self.done + 1, note)


def say(line: str) -> None:
    """A line for people, on standard error."""
    if console.is_terminal:
        console.print(line, highlight=False, markup=False)
    else:
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 d``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def size(n_bytes: float) -> str:
    """Decimal units, as the options take them."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" or n_bytes >= 100 else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
