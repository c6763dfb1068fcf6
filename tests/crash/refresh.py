"""The refresh of the tests' small corpus, with a signal at a chosen point of a stage.

Arguments: DUMP CONNECT_TO [STAGE AMOUNT SIGNAL TARGET MARK]. After AMOUNT rows of the stage, the signal goes to the
target: ``main`` (this process), ``group`` (with all its children), ``extractor`` or ``server`` (the fork server of the
text stage). The file MARK tells that the point was reached.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from data.errors import stopping
from flows.cli.session import session
from flows.settings import Settings

POINTS = {
    "links": ("data.lake.store", "Dataset.seal"),
    "pages": ("data.pages.segments", "Segments.settle"),
    "text": ("data.text.stage", "_row"),
    "select": ("data.select.filters", "verdict"),
    "tokens": ("data.bpe", "encode"),
}


def install(stage: str, amount: int, number: int, target: str, mark: Path) -> None:
    module, path = POINTS[stage]
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for one in outer:
        owner = getattr(owner, one)
    real = getattr(owner, name)
    mutex = threading.Lock()
    done = 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal done
        with mutex:
            done += 1
            is_point = done == amount
        if is_point:
            mark.touch()
            send(number, target)
        return real(*arguments, **options)

    setattr(owner, name, counting)


def send(number: int, target: str) -> None:
    if target == "main":
        os.kill(os.getpid(), number)
    elif target == "group":
        os.killpg(0, number)
    else:
        server = next(one for one in psutil.Process().children() if "forkserver" in " ".join(one.cmdline()))
        chosen = server if target == "server" else max(server.children(), key=lambda one: one.cpu_times().user)
        chosen.send_signal(number)
    if target in ("main", "group") and number in (signal.SIGINT, signal.SIGTERM):
        stopping.wait(60)  # this thread goes on while the command is being stopped


if __name__ == "__main__":
    dump, connect_to, *point = sys.argv[1:]
    settings = Settings()
    with session(settings):
        from tests.flows.serving import refresh_small

        if point:
            install(point[0], int(point[1]), int(point[2]), point[3], Path(point[4]))
        refresh_small(Path(dump), settings.lake, (connect_to,) if connect_to else ())
