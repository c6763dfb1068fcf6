"""The handler of Ctrl-C and SIGTERM of a command, and how it comes before Prefect's."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

_handler: Handler | None = None
"""The handler of a command; None in a process that a Prefect worker has started."""


def handle(handler: Handler) -> None:
    """Call ``handler`` on SIGINT and SIGTERM."""
    global _handler
    _handler = handler
    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def before_prefect() -> Iterator[None]:
    """In a flow: let the command's handler of SIGTERM come before Prefect's, which waits for the flow's threads."""
    if _handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    prefects = signal.signal(signal.SIGTERM, _handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, prefects)
