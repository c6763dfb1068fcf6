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
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from data.errors import InputError
from flows import services
from flows.signals import before_prefect
from model.events import EvalEvent, Failed, TrainEvent
from model.launch import STOP_GRACE_S

TRAINING = "model.launch"
QUICK_S = 3.0  # for a child that has nothing to save; killing what is left makes it 5 s

Event = TrainEvent | EvalEvent


class Child:
    """A child process that is running, and what it has reported. A thread reads its standard output."""

    def __init__(
        self, process: subprocess.Popen[bytes], read: Callable[[Child, bytes], None], *, is_training: bool
    ) -> None:
        self.process = process
        self.is_training = is_training
        self.exit_code: int | None = None  # 0 if a training run was stopped and has saved its checkpoint
        self.last: Event | None = None
        self.failure: Failed | None = None
        self.error: BaseException | None = None  # what ``read`` raised
        self._read = read
        self._reader = threading.Thread(target=self._read_all, name="child", daemon=True)
        self._reader.start()

    def wait(self) -> int:
        """Its exit code, after all that it has reported was read. Raises what ``read`` raised."""
        self._reader.join()
        if self.error is not None:
            raise self.error
        return self.process.wait()

    def end(self) -> None:
        """Ask it to stop, and kill it and its descendants if they take too long. Only training has much time."""
        grace_s = STOP_GRACE_S if self.is_training else QUICK_S
        try:
            self.exit_code = services.end_tree(psutil.Process(self.process.pid), grace_s)
        except psutil.NoSuchProcess:
            self.exit_code = self.process.wait()
        self._reader.join(QUICK_S)

    def _read_all(self) -> None:
        assert self.process.stdout is not None
        try:
            with self.process.stdout as lines:  # closed after an error, so that the child does not wait for a reader
                for line in lines:
                    self._read(self, line)
        except BaseException as error:
            self.error = error


running: list[Child] = []
spec_files: list[Path] = []  # that exist


@contextlib.contextmanager
def spec_file(spec: dict[str, Any], folder: Path) -> Iterator[Path]:
    """The spec as a JSON file, removed at the end. Only this user can read it, because a URI may hold a password."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", prefix="spec-", suffix=".json", dir=folder) as file:
        json.dump(spec, file, indent=2)
        file.flush()
        path = Path(file.name)
        spec_files.append(path)
        try:
            yield path
        finally:
            spec_files.remove(path)


def run_child(
    module: str,
    arguments: Sequence[str],
    log: Path,
    parse: Callable[[bytes], Event | None],
    on_event: Callable[[Any], None],
) -> Event:
    """Run ``python -m module arguments`` to its end and return its last event. ``parse`` reads a line of its output.

    Raises InputError with the message of the child's ``Failed`` event, or with the log's name and last line if the
    child failed without one. If this process is interrupted, the child is asked to stop, and killed if it does not;
    only training has the time to save something first. ``on_event`` is called in another thread.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:

        def read(child: Child, line: bytes) -> None:
            event = parse(line)
            if event is None:
                file.write(line)
                file.flush()
                return
            if isinstance(event, Failed):
                child.failure = event
            else:
                child.last = event
            on_event(event)

        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        child = Child(process, read, is_training=module == TRAINING)
        running.append(child)
        try:
            with before_prefect():
                code = child.wait()
        except BaseException:
            child.end()
            raise
        finally:
            running.remove(child)
    if code == 0 and child.last is not None:
        return child.last
    if child.failure is not None:
        raise InputError(child.failure.message)
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
