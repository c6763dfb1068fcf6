"""``webtext status``: the JSON of runs and servers."""

import json
from pathlib import Path

import pytest

from data.lake.store import Lake
from flows.cli.status import collect
from flows.settings import Settings
from model.events import to_json


@pytest.mark.parametrize("mlflow_run_id", ["0a1b", None])
def test_a_finished_run_has_its_numbers_and_its_mlflow_run_if_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_run_id: str | None
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lake = Lake(str(tmp_path / "lake"))
    summary = {"steps": 10, "train_loss": 6.5, "val_loss": 6.6, "mlflow_run_id": mlflow_run_id}
    lake.publish_json(summary, "checkpoints", "first", "summary.json")
    lake.publish_json({"train": {"steps": 10}}, "checkpoints", "first", "run.json")
    lake.publish_json({"train": {"steps": 10}}, "checkpoints", "second", "run.json")
    status = json.loads(json.dumps(to_json(collect(Settings(lake=lake.root, home=tmp_path / "home")))))
    assert set(status["runs"]["first"]) == {"state", "checkpoints", "scores", *summary}
    assert {key: status["runs"]["first"][key] for key in summary} == summary
    assert set(status["runs"]["second"]) == {"state", "checkpoints", "scores"}
    assert status["servers"] == {"prefect": {"state": "not running"}, "mlflow": {"state": "not running"}}
