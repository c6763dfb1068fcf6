"""What Ctrl-C and SIGTERM do to a command. It imports no Prefect, so that a command can be stopped while it starts."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import psutil

from data.errors import stopping
from flows import services
from flows.progress import console, say_at_once
from flows.signals import handle
from flows.supervise import QUICK_S, running, spec_files
from model.events import Stopped, to_json


def stop_on_signals(home: Path) -> None:
    """On Ctrl-C or SIGTERM: seal nothing more, end the children and exit.

    Training may save a checkpoint first; everything else ends within 5 s. The exit code is 0 if the signal was
    SIGTERM, which cluster schedulers send, and training has saved a checkpoint; else 1. No other clean-up is needed: a
    part that is not sealed is made again, and ``interrupt.crash_killed_runs`` marks killed runs. A second signal ends
    the command at once.
    """
    calls = 0

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            console.show_cursor(True)
            os._exit(1)
        code = 1
        try:
            stopping.set()
            code = _end(home, number)
            console.show_cursor(True)
        finally:
            os._exit(code)

    handle(stop)


def _end(home: Path, number: int) -> int:
    """End all children; returns the exit code."""
    supervised = {child.process.pid for child in running}
    training = [child for child in running if child.is_training]
    how = ": a training run saves a checkpoint first (press Ctrl-C again to exit without waiting)" if training else ""
    say_at_once(f"stopping{how}")
    services.end_trees([child for child in _children(home) if child.pid not in supervised], QUICK_S)
    for child in sorted(running, key=lambda child: child.is_training):
        child.end()
    for path in spec_files:
        path.unlink(missing_ok=True)
    say_at_once("stopped; what is done is kept: run the same command again to go on from there")
    has_saved = bool(training) and all(child.exit_code == 0 for child in training)
    if has_saved and "--json" in sys.argv:
        last = training[0].last
        if isinstance(last, Stopped):
            print(json.dumps({"run": last.run, "steps": last.step, "stopped": True}), flush=True)
        else:  # it finished just before it was asked to stop
            print(json.dumps(to_json(last)), flush=True)
    return 0 if number == signal.SIGTERM and has_saved else 1


def _children(home: Path) -> list[psutil.Process]:
    """The child processes, without the embedded servers, which other commands go on using."""
    servers = {service.pid for kind in services.KINDS if (service := services.find(kind, home.absolute()))}
    return [child for child in psutil.Process().children() if child.pid not in servers]
