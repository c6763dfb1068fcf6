"""``webtext status``: what is done and what is running."""

from __future__ import annotations

from typing import Any

from data.errors import InputError
from data.lake.store import Lake
from data.pages.segments import PREFIX as SEGMENT_PREFIX
from data.schema import STAGES
from flows import services
from flows.settings import Settings
from model import runs


def collect(settings: Settings) -> dict[str, Any]:
    """Snapshots by stage, training runs, and the embedded servers; nothing is started."""
    lake = Lake(settings.lake)
    return {
        "lake": lake.root,
        "snapshots": {name: _stages(lake, name) for name in _begun(lake)},
        "runs": {name: _run(lake, name) for name in lake.datasets("checkpoints")},
        "servers": {kind.name: server_state(kind, settings) for kind in services.KINDS},
    }


def _begun(lake: Lake) -> list[str]:
    return sorted({name for stage in STAGES for name in lake.datasets(stage)})


def _stages(lake: Lake, snapshot: str) -> dict[str, Any]:
    stages: dict[str, Any] = {}
    for stage in STAGES:
        dataset = lake.dataset(stage, snapshot)
        manifest = dataset.manifest()
        if manifest is not None:
            stages[stage] = {"state": "done", "rows_in": manifest.rows_in, "rows_out": manifest.rows_out}
        elif dataset.begun() is not None:
            parts = dataset.sealed(lambda name: not name.startswith(SEGMENT_PREFIX))
            stages[stage] = {"state": "begun", "parts_sealed": len(parts)}
    return stages


def _run(lake: Lake, name: str) -> dict[str, Any]:
    files = lake.names("checkpoints", name)
    steps = [file for file in files if file.startswith("step-")]
    summary = runs.read_summary(lake, name)
    try:
        record = runs.read_record(lake, name)
        planned = record["train"]["steps"] if record else None
        state = "done" if summary is not None and summary["steps"] == planned else "begun"
    except InputError as error:
        state = str(error)
    run: dict[str, Any] = {"state": state, "checkpoints": steps}
    if summary:
        run |= {key: summary.get(key) for key in ("steps", "train_loss", "val_loss", "mlflow_run_id")}
    run["scores"] = lake.names("scores", name)
    return run


def server_state(kind: services.Kind, settings: Settings) -> dict[str, Any]:
    outside = settings.prefect_api_url if kind is services.PREFECT else settings.mlflow_tracking_uri
    if outside:
        return {"state": "outside", "url": services.without_password(outside)}
    service = services.find(kind, settings.home.absolute())
    if service is None:
        return {"state": "not running"}
    state = "running" if services.is_healthy(kind, service) else "not answering"
    return {"state": state, "url": service.url, "pid": service.pid}
