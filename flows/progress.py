"""Progress for people, on standard error: live bars on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from typing import Any, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0  # between two plain lines of one bar; its last line always comes

console = Console(stderr=True)


class Bar:
    """Progress of one task of ``total`` steps. A context manager; any thread may advance it."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0
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
        self.done = done
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
    """Print a line for people on standard error."""
    if console.is_terminal:
        console.print(line, highlight=False, markup=False)
    else:
        print(line, file=sys.stderr, flush=True)


def say_at_once(line: str) -> None:
    """``say`` in a signal handler, which may have interrupted a write to standard error that is not finished."""
    try:
        say(line)
    except RuntimeError:
        os.write(sys.stderr.fileno(), f"\n{line}\n".encode())


def duration(seconds: float) -> str:
    """``0:00:40``, ``6:00:00``, ``24 days, 3:45:12``: as rich's bars show times."""
    return str(timedelta(seconds=round(seconds)))


def size(n_bytes: float) -> str:
    """``1.5 kB``, ``2.0 TB``: decimal units, as the options take them."""
    return decimal(int(n_bytes))


def number(value: Any) -> str:
    """``1,234``, ``0.04401``: four digits of a fraction. None is empty, anything else is its text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.4g}"
