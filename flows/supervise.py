"""A child process that reports in JSON lines and ends when we end.

Its standard output is read line by line: a line that is a JSON object goes to ``on_event``, the last one is the result;
anything else, and its standard error, is kept in a log file whose end is quoted when the child fails.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from data.errors import InputError
from flows import services
from model.launch import STOP_GRACE_S

Event = dict[str, Any]
stopped: list[tuple[int | None, Event]] = []
"""Of each child that was ended because we are, its exit code, 0 if a training run has saved its checkpoint, and what it
said last."""


@contextlib.contextmanager
def spec_file(spec: dict[str, Any], folder: Path) -> Iterator[Path]:
    """The spec as a JSON file that only this user reads, as a URI may hold a password; gone at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", prefix="spec-", suffix=".json", dir=folder) as file:
        json.dump(spec, file, indent=2)
        file.flush()
        yield Path(file.name)


def run_child(module: str, arguments: Sequence[str], log: Path, on_event: Callable[[Event], None]) -> Event:
    """Run ``python -m module arguments`` to its end and return its last JSON line.

    Raises InputError with the message of the child's ``error`` event, or naming the log if it ended without one. When
    we are interrupted the child is asked to stop, and killed if it does not.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: Event = {}
    failure: Event | None = None
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
                event = _event(line)
                if event is None:
                    file.write(line)
                    file.flush()
                else:
                    is_failure = event.get("event") == "error"
                    failure, last = (event, last) if is_failure else (failure, event)
                    on_event(event)
            code = process.wait()
        except BaseException:
            with contextlib.suppress(psutil.NoSuchProcess):
                code_of_stop = services.end_tree(psutil.Process(process.pid), grace_s=STOP_GRACE_S)
                events = [event for line in process.stdout if (event := _event(line))]
                stopped.append((code_of_stop, events[-1] if events else last))
            process.wait()
            raise
    if code == 0:
        return last
    if failure is not None:
        raise InputError(str(failure["message"]))
    raise InputError(f"{module} ended with exit code {code}; see {log}: {_last_line(log)}")


def _event(line: bytes) -> Event | None:
    with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def _last_line(log: Path) -> str:
    """The last one with a word in it: torchrun ends its reports with a rule of equals signs."""
    with log.open(errors="replace") as file:
        tail = collections.deque((line for line in file if any(map(str.isalnum, line))), maxlen=1)
    return tail[0].strip() if tail else "no output"
