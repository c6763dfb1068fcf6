"""``webtext status``: what is done and what is running."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from data.errors import InputError
from data.lake.store import Lake
from data.pages.segments import PREFIX as SEGMENT_PREFIX
from data.schema import STAGES
from flows import services
from flows.settings import Settings
from model import runs, scores

_SUMMARY_FIELDS = ("steps", "train_loss", "val_loss", "mlflow_run_id")


def _optional() -> Any:
    """A field that is left out of the JSON while it is None."""
    return Field(default=None, exclude_if=lambda value: value is None)


@dataclass(frozen=True)
class StageState:
    """A stage of a snapshot: ``done`` with its rows, or ``begun`` with its sealed parts."""

    state: str
    rows_in: int | None = _optional()
    rows_out: int | None = _optional()
    parts_sealed: int | None = _optional()


@dataclass(frozen=True)
class RunState:
    """A training run: ``done``, ``begun``, or what is wrong with its record. A finished run has its numbers."""

    state: str
    checkpoints: list[str]
    steps: int | None = _optional()
    train_loss: float | None = _optional()
    val_loss: float | None = _optional()
    mlflow_run_id: str | None = Field(default="", exclude_if=lambda value: value == "")  # None: finished, not tracked
    scores: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class ServerState:
    """An embedded server (``running``, ``not answering``, ``not running``), or one that is ``outside``."""

    state: str
    url: str | None = _optional()
    pid: int | None = _optional()


@dataclass(frozen=True)
class Status:
    """Snapshots by stage, training runs and servers, all by name."""

    lake: str
    snapshots: dict[str, dict[str, StageState]]
    runs: dict[str, RunState]
    servers: dict[str, ServerState]


def collect(settings: Settings) -> Status:
    """The state of the lake and of the embedded servers. Starts nothing."""
    lake = Lake(settings.lake)
    return Status(
        lake=lake.root,
        snapshots={name: _stages(lake, name) for name in _begun(lake)},
        runs={name: _run(lake, name) for name in lake.datasets("checkpoints")},
        servers={kind.name: server_state(kind, settings) for kind in services.KINDS},
    )


def _begun(lake: Lake) -> list[str]:
    return sorted({name for stage in STAGES for name in lake.datasets(stage)})


def _stages(lake: Lake, snapshot: str) -> dict[str, StageState]:
    stages: dict[str, StageState] = {}
    for stage in STAGES:
        dataset = lake.dataset(stage, snapshot)
        manifest = dataset.manifest()
        if manifest is not None:
            stages[stage] = StageState("done", rows_in=manifest.rows_in, rows_out=manifest.rows_out)
        elif dataset.begun() is not None:
            parts = dataset.sealed(lambda name: not name.startswith(SEGMENT_PREFIX))
            stages[stage] = StageState("begun", parts_sealed=len(parts))
    return stages


def _run(lake: Lake, name: str) -> RunState:
    summary = runs.read_summary(lake, name)
    try:
        record = runs.read_record(lake, name)
        planned = record["train"]["steps"] if record else None
        state = "done" if summary is not None and summary["steps"] == planned else "begun"
    except InputError as error:
        state = str(error)
    return RunState(
        state=state,
        checkpoints=[file for file in lake.names("checkpoints", name) if file.startswith("step-")],
        **({field: summary.get(field) for field in _SUMMARY_FIELDS} if summary else {}),
        scores=[runs.step_name(step) for step in scores.steps(lake, name)],
    )


def server_state(kind: services.Kind, settings: Settings) -> ServerState:
    outside = settings.prefect_api_url if kind is services.PREFECT else settings.mlflow_tracking_uri
    if outside:
        return ServerState("outside", services.without_password(outside))
    service = services.find(kind, settings.home.absolute())
    if service is None:
        return ServerState("not running")
    state = "running" if services.is_healthy(kind, service) else "not answering"
    return ServerState(state, service.url, service.pid)
