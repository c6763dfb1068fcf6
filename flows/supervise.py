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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from data.errors import InputError
from flows import services

Event = dict[str, Any]
ERROR_MARK = "InputError: "
STOP_GRACE_S = 60.0  # a training run saves a checkpoint in this time


def run_child(module: str, arguments: Sequence[str], log: Path, on_event: Callable[[Event], None]) -> Event:
    """Run ``python -m module arguments`` to its end and return its last JSON line.

    Raises InputError with the child's own message if it ended for bad input, RuntimeError naming the log otherwise. When
    we are interrupted the child is asked to stop, and killed if it does not.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    last: Event = {}
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
                    last = event
                    on_event(event)
            code = process.wait()
        except BaseException:
            with contextlib.suppress(psutil.NoSuchProcess):
                services.end_tree(psutil.Process(process.pid), grace_s=STOP_GRACE_S)
            process.wait()
            raise
    if code != 0:
        raise _failure(module, code, log)
    return last


def _event(line: bytes) -> Event | None:
    with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def _failure(module: str, code: int, log: Path) -> Exception:
    with log.open(errors="replace") as file:
        tail = collections.deque(file, maxlen=200)
    for line in reversed(tail):
        if ERROR_MARK in line:
            return InputError(line.split(ERROR_MARK, 1)[1].strip())
    end = tail[-1].strip() if tail else "no output"
    return RuntimeError(f"{module} ended with exit code {code}; see {log}: {end}")
