"""How flow runs whose process was killed or stopped are marked as crashed. What a signal does: flows/stop.py."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractContextManager

import psutil
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import tags
from prefect.states import Crashed

from flows.settings import Settings


def process_tag() -> str:
    """A name for this process by which a later command can tell whether it is still alive."""
    return f"process:{socket.gethostname()}:{os.getpid()}:{_started_s(psutil.Process())}"


def tagged() -> AbstractContextManager[set[str]]:
    """Tag the flow runs that start inside with ``process_tag``."""
    return tags(process_tag())


def tag_own_run(flow: object, flow_run: FlowRun, state: object) -> None:  # noqa: ARG001 - the names that Prefect gives
    """A hook of every flow: give its run ``process_tag`` when it starts, also if a worker started it.

    A run that is started again by another process loses the tag of the first one.
    """
    mine = process_tag()
    if mine not in flow_run.tags:
        others = [tag for tag in flow_run.tags if not tag.startswith("process:")]
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags=[*others, mine])


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
