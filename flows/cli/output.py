"""Printing what a command found: for people, or as one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def show() -> Any:
    from flows.cli import show

    return show


def print_result(value: object, as_json: bool, for_people: Callable[[], None]) -> None:
    """Print a result, a dataclass, as one line of JSON or as ``for_people`` prints it."""
    if as_json:
        from model.events import to_json

        sys.stdout.flush()
        print(json.dumps(to_json(value)), flush=True)
    else:
        for_people()
