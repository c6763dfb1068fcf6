"""Run phases in turn in this process: ``python -m benchmarks.gpu.child SETTINGS``, where SETTINGS is JSON.

Events go to standard output, one JSON object per line: ``begin``, ``put`` (results so far) and ``end`` of a phase.
Whatever else prints to standard output goes to standard error instead.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.gpu import needs
from benchmarks.gpu.job import Job
from benchmarks.gpu.phases import named
from benchmarks.machine import peak_rss_mb
from data.process import die_with_parent

REPORT_S = 3.0  # of the limit: left to end a phase and write the last line
Send = Callable[[dict[str, Any]], None]


def run_phase(name: str, function: Callable[[Job], None], job: Job) -> bool:
    """Run one phase. An error becomes the line of the phase, and its memory is freed for the next one.

    Returns whether the device still works: most errors of CUDA last as long as their process.
    """
    job.send({"event": "begin", "phase": name})
    error = ""
    try:
        function(job)
        failed = [check for check, result in job.checks.items() if not result["met"]]
        error = f"not exact: {', '.join(failed)}" if failed else ""
    except Exception as caught:
        traceback.print_exc()
        error = one_line(caught)
    works = _free()  # not in the handler: there the error still holds the tensors of the phase
    job.send({"event": "end", "phase": name, "error": error, "is_last": not works, "peak_rss_mb": peak_rss_mb()})
    return works


def _free() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.compiler.reset()
    gc.collect()
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def main() -> None:
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    needs.use_packages()
    die_with_parent(signal.SIGKILL)
    settings = json.loads(sys.argv[1])
    if "resume" in settings["phases"]:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # deterministic; read when CUDA starts

    def send(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")

    for name in settings["phases"]:
        with contextlib.suppress(Exception):  # before the phase begins; an import that fails does so again in it
            importlib.import_module(f"benchmarks.gpu.{named(name).where.partition(':')[0]}")
    for name in settings["phases"]:
        phase = named(name)
        module, _, function = phase.where.partition(":")

        def load_and_run(job: Job, module: str = module, function: str = function) -> None:
            getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(job)

        nanogpt = Path(settings["nanogpt"]) if settings["nanogpt"] else None

        def tagged(event: dict[str, Any]) -> None:
            send(event if "event" in event else {"event": "put", "results": event})

        budget_s = min(phase.budget_s, settings["ends"] - time.monotonic() - REPORT_S)
        job = Job(settings["device"], settings["tiny"], nanogpt, budget_s, tagged)
        if not run_phase(name, load_and_run, job):
            break
    events.flush()
    os._exit(0)  # unloading torch's libraries while their threads run may abort


if __name__ == "__main__":
    main()
