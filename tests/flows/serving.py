"""Shared helpers for the tests of flows/: the small pipeline, the real command, queries to the real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.config import FilterProfile, LinksConfig, SelectConfig, TokensConfig
from flows.localweb.site import Site
from model.events import EvalResult, TrainSummary

if TYPE_CHECKING:  # it imports Prefect, which must find the session's servers running
    from flows.refresh import RefreshResult

TINY = {"layers": "2", "heads": "2", "width": "32", "context": "64", "batch_size": "4", "micro_batch_size": "4"}
TINY |= {"val_every": "10", "checkpoint_every": "10", "log_every": "5", "batch_warmup_steps": "0"}
TINY |= {"optimizer": "adamw", "schedule": "cosine", "final_lr_share": "0.1", "learning_rate": "3e-3", "beta2": "0.95"}
"""Settings of a model that trains in seconds."""


@dataclass(frozen=True)
class Pipeline:
    """A small corpus made through the flows from part of the local web, and a small model trained and scored on it."""

    lake: Path
    home: Path
    dump: Path
    lines: int
    site: Site
    refreshed: RefreshResult
    trained: TrainSummary
    scored: EvalResult

    def environment(self) -> dict[str, str]:
        """For `webtext` as a child process: this lake, and the session's servers found by their state directory."""
        outside = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME")
        environment = {name: value for name, value in os.environ.items() if name not in outside}
        return environment | {"WEBTEXT_LAKE": str(self.lake), "WEBTEXT_HOME": str(self.home), "COLUMNS": "200"}


def webtext_command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "webtext"), *arguments]


def webtext(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = webtext_command(*arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def start_webtext(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a terminal starts it."""
    return subprocess.Popen(
        webtext_command(*arguments),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def refresh_small(
    dump: Path,
    lake: Path | str,
    connect_to: tuple[str, ...],
    snapshot: str = "small",
    profile: FilterProfile = "webtext",
) -> RefreshResult:
    """The refresh of the small corpus; with an empty ``connect_to`` no page can be fetched."""
    from flows.cli.demo import pages_config
    from flows.refresh import refresh

    return refresh(
        [str(dump)],
        snapshot,
        str(lake),
        links=LinksConfig(part_links=100),
        pages=pages_config(connect_to),
        select=SelectConfig(profile=profile),
        tokens=TokensConfig(val_share=0.1),
    )


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.1)


def task_states(flow_name: str, of: str = "") -> dict[str, str]:
    """The final states, by name, of a flow's task runs whose name contains ``of``."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter

    deadline = time.monotonic() + 60  # task states reach the server's tables a moment after the flow has ended
    while True:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_filter=FlowFilter(name={"any_": [flow_name]}))
        runs = [run for run in found if of in run.name]
        states = {run.name: str(run.state_name) for run in runs}
        if all(run.state and run.state.is_final() for run in runs) or time.monotonic() > deadline:
            return states
        time.sleep(0.5)
