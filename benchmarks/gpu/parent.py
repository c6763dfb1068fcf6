"""Run the phases in child processes, within their budgets and the limit over all."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.phases import Phase

ROOT = Path(__file__).parents[2]
STARTUP_S = 90.0  # importing torch from a cold disk
GRACE_S = 15.0  # a phase looks at its budget between measurements; after this it is killed
LEAST_S = 3.0  # with less left of the limit, no further phase begins

Line = dict[str, Any]
Command = Callable[[Sequence[Phase], float], list[str]]
"""The command of a child that runs these phases until a time of the system's monotonic clock at the latest."""


class Child:
    """A process in a session of its own, and the events that it sends."""

    def __init__(self, command: list[str], log: IO[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=ROOT, start_new_session=True
        )
        self._events: queue.Queue[Line | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def event(self, timeout_s: float) -> Line | None:
        """The next event; None when the process has ended. Raises queue.Empty after ``timeout_s``."""
        return self._events.get(timeout=max(0.0, timeout_s))

    def end(self) -> int:
        """Kill the process and what it started, if it still runs; returns its exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def run(
    phases: Sequence[Phase],
    command: Command,
    limit_s: float,
    log_path: Path,
    emit: Callable[[Line], None],
    compute: Callable[[Sequence[Line]], Line],
    grace_s: float = GRACE_S,
) -> list[Line]:
    """Run the phases; returns their lines, each of which also went to ``emit`` as soon as its phase ended.

    ``compute`` makes the results of a phase without a function of its own from the lines before it.
    """
    ends = time.monotonic() + limit_s
    lines: list[Line] = []

    def finish(line: Line) -> None:
        lines.append(line)
        emit(line)

    with log_path.open("w") as log:
        while len(lines) < len(phases):
            waiting = phases[len(lines) :]
            first = waiting[0]
            if not first.where:
                finish({"phase": first.name, "seconds": 0.0, "status": "ok", **compute(lines)})
            elif ends - time.monotonic() < LEAST_S:
                finish({"phase": first.name, "seconds": 0.0, "status": "not reached"})
            else:
                group = list(takewhile(lambda phase, group=first.group: phase.group == group and phase.where, waiting))
                _run_group(group, command, ends, grace_s, log, log_path, finish)
    return lines


def _run_group(
    group: Sequence[Phase],
    command: Command,
    ends: float,
    grace_s: float,
    log: IO[str],
    log_path: Path,
    finish: Callable[[Line], None],
) -> None:
    """Run the phases of a group in one child, until the child ends; finishes at least one line."""
    child = Child(command(group, ends), log, dict(os.environ))
    try:
        for phase in group:
            if ends - time.monotonic() < LEAST_S:
                return
            line, goes_on = _follow(child, phase, ends, grace_s, log_path)
            finish(line)
            if not goes_on:
                return
    finally:
        child.end()


def _follow(child: Child, phase: Phase, ends: float, grace_s: float, log_path: Path) -> tuple[Line, bool]:
    """Wait for the end of a phase; returns its line, and whether the child can run the next one."""
    began = time.monotonic()
    until = min(began + STARTUP_S, ends)
    line: Line = {"phase": phase.name, "seconds": 0.0, "status": "failed"}
    results: Line = {}

    def done(**fields: Any) -> Line:
        return {**line, "seconds": round(time.monotonic() - began, 2), **fields, **results}

    while True:
        try:
            event = child.event(until - time.monotonic())
        except queue.Empty:
            child.end()
            why = f"its budget of {phase.budget_s:g} s" if until < ends else "the limit over all phases"
            return done(error=f"killed: {why} is used up"), False
        if event is None:
            return done(error=_death(child.end(), log_path)), False
        if event["event"] == "begin":
            began = time.monotonic()
            until = min(began + phase.budget_s + grace_s, ends)
        elif event["event"] == "put":
            results |= event["results"]
        else:
            failure = {"error": event["error"]} if event["error"] else {}
            results["peak_rss_mb"] = event["peak_rss_mb"]
            return done(status="failed" if failure else "ok", **failure), not event["is_last"]


def _death(code: int, log_path: Path) -> str:
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    said = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return f"its process ended with {how}; the log ends with: {said[-1][:200] if said else 'nothing'}"
