"""What ``model.train`` and ``model.evaluate`` share: how they start, and how they end with an error.

Exit codes: 0 done or stopped, 1 failed, 2 wrong input. An error is an event on standard output and one line on standard
error. A defect keeps its traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError, told
from model import failure, world
from model.events import Emit, Failed
from model.failure import FailedStepError


def read_spec(path: Path) -> Any:
    """The JSON that ``--spec`` names. Raises InputError if it is not readable."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"--spec {path}: not a readable JSON file ({error})") from error


def prepare(device: str) -> None:
    """Settings of the process for a ``--device``, before it computes."""
    if device.startswith("cpu") or (device == "auto" and world.best_device() == "cpu"):
        world.keep_freed_memory()


def report_error(error: Exception, emit: Emit, advice: str = "") -> int:
    """Report an error and return the exit code. A defect is raised again.

    ``advice`` is what to do when memory ran out.
    """
    if isinstance(error, OSError):  # the disk is full, the lake is gone
        message = told(error)
    elif isinstance(error, (InputError, FailedStepError)):
        message = str(error)
    elif failure.kind_of(error) == "out_of_memory":
        message = failure.one_line(error) + advice
    else:
        raise error
    emit(Failed(message, type(error).__name__))
    print(message, file=sys.stderr)
    return 2 if isinstance(error, InputError) else 1
