"""Stopping: what Ctrl-C and SIGTERM do, and how runs that were killed are marked as crashed."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.context import tags
from prefect.states import Crashed

from flows import services
from flows.progress import console, say
from flows.settings import Settings
from flows.supervise import stopped
from model.events import Stopped, to_json
from model.launch import STOP_GRACE_S


def stop_on_signals(home: Path) -> None:
    """On Ctrl-C or SIGTERM: end the children (training saves a checkpoint first) and exit.

    The exit code is 0 if the signal was SIGTERM, which cluster schedulers send, and training has saved a checkpoint;
    else 1. In a flow Prefect receives SIGTERM first: ``run_child`` ends its child, then the signal comes here. No other
    clean-up is needed: a part that is not sealed is made again, and ``crash_killed_runs`` marks killed runs. A second
    Ctrl-C does not wait for the children.
    """
    calls = 0

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            console.show_cursor(True)
            os._exit(1)
        say("stopping: a training run saves a checkpoint first (press Ctrl-C again to exit without waiting)")
        codes = [services.end_tree(child, grace_s=STOP_GRACE_S) for child in _children(home)]
        codes += [child.exit_code for child in stopped]
        console.show_cursor(True)
        say("stopped; what is done is kept: run the same command again to go on from there")
        has_saved = bool(codes) and all(code == 0 for code in codes)  # only training exits with 0 when it is stopped
        if has_saved and stopped and "--json" in sys.argv:
            last = stopped[0].last
            if isinstance(last, Stopped):
                print(json.dumps({"run": last.run, "steps": last.step, "stopped": True}), flush=True)
            else:  # it finished just before it was asked to stop
                print(json.dumps(to_json(last)), flush=True)
        os._exit(0 if number == signal.SIGTERM and has_saved else 1)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _children(home: Path) -> list[psutil.Process]:
    """The child processes, without the embedded servers, which other commands go on using."""
    servers = {service.pid for kind in services.KINDS if (service := services.find(kind, home.absolute()))}
    return [child for child in psutil.Process().children() if child.pid not in servers]


def process_tag() -> str:
    """A name for this process by which a later command can tell whether it is still alive."""
    return f"process:{socket.gethostname()}:{os.getpid()}:{_started_s(psutil.Process())}"


def tagged() -> AbstractContextManager[set[str]]:
    """Tag the flow runs that start inside with ``process_tag``."""
    return tags(process_tag())


def crash_killed_runs(settings: Settings) -> int:
    """Mark the flow runs of dead processes of this machine as crashed; a kill leaves them ``Running`` forever.

    Returns how many there were.
    """
    if settings.prefect_api_url is not None:
        return 0  # someone else's server: its own automations handle killed runs
    count = 0
    with get_client(sync_client=True) as client:
        types = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
        running = FlowRunFilter(state=FlowRunFilterState(type=types))
        for run in client.read_flow_runs(flow_run_filter=running, limit=200):
            mark = next((tag for tag in run.tags if tag.startswith(f"process:{socket.gethostname()}:")), None)
            if mark and not _is_alive(mark):
                client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
                count += 1
    return count


def _is_alive(mark: str) -> bool:
    _, _, pid, started = mark.rsplit(":", 3)
    try:
        return abs(_started_s(psutil.Process(int(pid))) - int(started)) < 2
    except psutil.NoSuchProcess:
        return False


def _started_s(process: psutil.Process) -> int:
    """The start time in seconds since boot. A wall-clock time would move when someone sets the clock."""
    return int(process.create_time() - psutil.boot_time())
