"""A child process that reports in JSON lines and ends when this process ends.

Its standard output is read line by line. A line that is an event goes to ``on_event``; the last event is the result.
Everything else that the child prints goes to a log file, whose last line is quoted when the child fails.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from data.errors import InputError
from flows import services
from model.events import EvalEvent, Failed, TrainEvent
from model.launch import STOP_GRACE_S

Event = TrainEvent | EvalEvent


@dataclass(frozen=True)
class StoppedChild:
    """A child that was ended because this process was asked to end."""

    exit_code: int | None  # 0 if a training run has saved its checkpoint
    last: Event | None  # its last event


stopped: list[StoppedChild] = []


@contextlib.contextmanager
def spec_file(spec: dict[str, Any], folder: Path) -> Iterator[Path]:
    """The spec as a JSON file, removed at the end. Only this user can read it, because a URI may hold a password."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", prefix="spec-", suffix=".json", dir=folder) as file:
        json.dump(spec, file, indent=2)
        file.flush()
        yield Path(file.name)


def run_child(
    module: str,
    arguments: Sequence[str],
    log: Path,
    parse: Callable[[bytes], Event | None],
    on_event: Callable[[Any], None],
) -> Event:
    """Run ``python -m module arguments`` to its end and return its last event. ``parse`` reads a line of its output.

    Raises InputError with the message of the child's ``Failed`` event, or with the log's name and last line if the
    child failed without one. If this process is interrupted, the child is asked to stop, and killed if it does not.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: Event | None = None
    failure: Failed | None = None
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = parse(line)
                if event is None:
                    file.write(line)
                    file.flush()
                    continue
                if isinstance(event, Failed):
                    failure = event
                else:
                    last = event
                on_event(event)
            code = process.wait()
        except BaseException:
            with contextlib.suppress(psutil.NoSuchProcess):
                exit_code = services.end_tree(psutil.Process(process.pid), grace_s=STOP_GRACE_S)
                events = [event for line in process.stdout if (event := parse(line))]
                stopped.append(StoppedChild(exit_code, events[-1] if events else last))
            process.wait()
            raise
    if code == 0 and last is not None:
        return last
    if failure is not None:
        raise InputError(failure.message)
    raise InputError(f"{module} {_ending(code)}; see {log}: {_last_line(log)}")


def _ending(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "ended without a result" if code == 0 else f"ended with exit code {code}"


def _last_line(log: Path) -> str:
    """The last line that has a letter or a digit: torchrun ends its reports with a line of equals signs."""
    with log.open(errors="replace") as file:
        tail = collections.deque((line for line in file if any(map(str.isalnum, line))), maxlen=1)
    return tail[0].strip() if tail else "no output"
