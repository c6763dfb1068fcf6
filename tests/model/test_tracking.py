"""Tracking against a real MLflow server (SQLite, loopback)."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from data.errors import InputError
from data.lake.store import Lake
from model import checkpoint, scores
from model.compare import compare
from model.config import TrainSpec
from model.evals import EvalSpec
from model.evaluate import evaluate
from model.events import Emit, EvalEvent, EvalResult, Started, StepDone, Stopped, TrainEvent
from model.promotion import promote
from model.tracking import (
    DatasetRef,
    Tracker,
    TrackingError,
    metric_history,
    open_tracker,
    resume_tracker,
    without_credentials,
)
from model.train import train
from tests.model.corpora import publish_prose
from tests.model.lakes import make_lake, make_spec, tiny_spec
from tests.model.running import Events, after_steps, ignore
from tests.model.scored import publish_score

DATASET = DatasetRef("tokens/2026-10", "ab" * 32, "s3://someone:secret@store/lake?key=secret")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "art")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                opener.open(f"{url}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 15)  # the server and its worker: a session of its own
        process.wait(timeout=30)


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


class SwitchedClient:
    """A client whose server can change."""

    def __init__(self, target: MlflowClient) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def test_restarts_share_one_run_without_duplicates(server: str) -> None:
    first = open_tracker(server, "restarts", "r", "key-1", {"flow": "f-1"}, Clock())
    first.log_params({"steps": 10, "width": 8})
    for step in range(1, 6):
        first.log_metrics({"loss": 10.0 - step}, step)
    first.flush()
    first.log_metrics({"loss": 4.0}, 6)  # lost with the buffer of a killed process
    second = open_tracker(server, "restarts", "r", "key-1", {"flow": "f-2"}, Clock())
    assert second.run_id == first.run_id
    second.log_params({"steps": 12, "width": 8})
    for step in range(4, 9):  # resumed from a checkpoint of step 3
        second.log_metrics({"loss": 10.0 - step}, step)
    second.set_status("FINISHED")
    client = MlflowClient(server)
    run = client.get_run(first.run_id)
    assert history(client, first.run_id, "loss") == [(step, 10.0 - step) for step in range(1, 9)]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"steps": "10", "width": "8"}
    assert (run.data.tags["flow"], run.data.tags["changed.steps"]) == ("f-2", "12")
    assert open_tracker(server, "restarts", "r", "key-2", {}, Clock()).run_id != first.run_id


def test_metrics_are_sent_in_batches(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: tuple[object, ...] = (), **rest: object) -> None:
        if metrics:
            sizes.append(len(metrics))
        real(self, run_id, metrics=metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    clock = Clock()
    tracker = open_tracker(server, "batches", "r", "k", {}, clock)
    for step in range(1_200):
        tracker.log_metrics({"loss": 1.0, "lr": 2.0}, step)
    assert sizes == [1_000, 1_000]
    clock.now += 60
    tracker.log_metrics({"loss": 1.0}, 1_200)
    assert sizes == [1_000, 1_000, 401]


def test_checkpoints_and_scores_are_logged(server: str, tmp_path: Path) -> None:
    tracker = open_tracker(server, "models", "run@x.y", "k", {}, Clock())
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "optimizer.safetensors").write_bytes(b"not to be uploaded")
    later = tracker.log_checkpoint(100, {"val_loss": 3.5}, None)
    whole = tracker.log_checkpoint(200, {"val_loss": 3.25}, tmp_path)
    assert tracker.log_checkpoint(100, {"val_loss": 3.5}, tmp_path) == later
    assert tracker.models() == {100: later, 200: whole}
    client = MlflowClient(server)
    for model_id, step, val_loss in ((later, 100, 3.5), (whole, 200, 3.25)):
        model = client.get_logged_model(model_id)
        assert (str(model.status), model.source_run_id) == ("READY", tracker.run_id)
        assert [(m.key, m.value, m.step) for m in model.metrics] == [("val_loss", val_loss, step)]
        files = {file.path: file.file_size for file in client.list_logged_model_artifacts(model_id)}
        assert files == {"model.safetensors": 7, "config.json": 2}
    scorer = resume_tracker(server, tracker.run_id)
    for _ in range(2):
        scorer.log_scores(whole, {"heldout_lastword.accuracy": 0.25}, 200, DATASET)
    found = [m for m in client.get_logged_model(whole).metrics if m.key == "heldout_lastword.accuracy"]
    assert [(m.value, m.step, m.dataset_name, m.dataset_digest) for m in found] == [
        (0.25, 200, "tokens/2026-10", "ab" * 16)
    ]


def test_no_secret_is_logged(server: str, tmp_path: Path) -> None:
    tracker = open_tracker(server, "secrets", "r", "k", {}, Clock())
    for _ in range(2):
        tracker.log_dataset(DATASET)
    (entry,) = MlflowClient(server).get_run(tracker.run_id).inputs.dataset_inputs
    assert json.loads(entry.dataset.source) == {"uri": "s3://store/lake"}
    assert {tag.key: tag.value for tag in entry.tags}["webtext.digest"] == "ab" * 32
    assert without_credentials("https://u:p@host:5000/x?token=t#f") == "https://host:5000/x"
    assert without_credentials("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_an_unreachable_server_is_an_error_without_its_password(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"http://user:secret@127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(InputError, match=r"MLflow at http://127.0.0.1:\d+: ") as error:
        open_tracker(nowhere, "e", "r", "k", {}, Clock())
    assert "secret" not in str(error.value)
    opened = open_tracker(server, "gone", "r", "k", {}, Clock())
    client = SwitchedClient(MlflowClient(server))
    tracker = Tracker(client, client.get_run(opened.run_id), Clock())
    tracker.log_metrics({"loss": 1.0}, 1)
    client.target = MlflowClient(nowhere)
    with pytest.raises(TrackingError, match="MLflow does not take the metrics") as error:
        tracker.flush()
    assert "secret" not in str(error.value), "warnings are kept in the run's summary"
    client.target = MlflowClient(server)
    tracker.flush()  # nothing was lost
    assert history(MlflowClient(server), tracker.run_id, "loss") == [(1, 1.0)]


def test_a_stopped_and_resumed_training_is_one_complete_run(
    server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that was stopped and resumed is one complete MLflow run."""
    lake = make_lake(tmp_path / "lake")
    tracked = {"tracking_uri": server, "experiment": "training", "tags": {"prefect.flow_run_id": "f-1"}}
    spec = TrainSpec.from_json({**make_spec(lake, steps=8, keep_every=4, val_every=1).to_json(), **tracked}, "x")
    left = iter(range(4))
    train(spec, ignore, lambda: next(left, None) is None)
    client = MlflowClient(server)
    run_id = lake.read_json("checkpoints", "a", "run.json")["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    summary = train(spec, ignore)
    assert summary.mlflow_run_id == run_id
    assert summary.warnings == ()
    assert capfd.readouterr().out == ""  # standard output is reserved for the events
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["prefect.flow_run_id"] == "f-1"
    assert (run.data.params["width"], run.data.params["preset"]) == ("16", "nano")
    (entry,) = run.inputs.dataset_inputs
    digest = lake.dataset("tokens", "2026-10").require().digest
    assert {tag.key: tag.value for tag in entry.tags}["webtext.digest"] == digest
    assert len(run.data.tags["webtext.peak"]) > 10
    telemetry = ("mfu", "tokens_per_s", "grad_norm", "lr", "memory_mb", "time_share/backward", "steps_left_out")
    for key, values in metric_history(server, run_id, telemetry).items():
        assert [step for step, _ in values] == list(range(1, 9)), key
    curves = metric_history(server, run_id, ("loss", "val_loss"))
    assert [step for step, _ in curves["loss"]] == list(range(1, 9))
    # step 5 was saved when the run was stopped, without a validation
    assert [step for step, _ in curves["val_loss"]] == [1, 2, 3, 4, 6, 7, 8]
    models = resume_tracker(server, run_id).models()
    assert sorted(models) == [2, 4, 5, 6, 8]
    with_weights = {step for step, model in models.items() if client.list_logged_model_artifacts(model)}
    assert with_weights == {4, 8, summary.best_step}
    model = client.get_logged_model(models[8])
    metrics = {metric.key: metric.value for metric in model.metrics}
    assert metrics["val_loss"] == pytest.approx(summary.val_loss)
    local = client.list_logged_model_artifacts(models[8])
    stored = Path(lake.path("checkpoints", "a", checkpoint.step_name(8), "model.safetensors"))
    assert {file.path: file.file_size for file in local}["model.safetensors"] == stored.stat().st_size


def test_training_goes_on_without_its_server(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake: Lake = make_lake(tmp_path / "lake")
    spec = TrainSpec.from_json({**make_spec(lake, steps=3).to_json(), "tracking_uri": server}, "x")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("connection lost")

    def then_lose(event: TrainEvent | EvalEvent) -> None:
        if isinstance(event, Started):
            monkeypatch.setattr(MlflowClient, "log_batch", refuse)

    summary = train(spec, then_lose)
    assert summary.steps == 3
    assert any("MLflow does not take the metrics: connection lost" in warning for warning in summary.warnings)


def test_a_lost_server_costs_no_point_and_little_time(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is away from the first step. The run stops at the fifth. The server stays away until after the end."""
    lake: Lake = make_lake(tmp_path / "lake")
    tracked = {"tracking_uri": server, "experiment": "lost"}
    spec = TrainSpec.from_json({**make_spec(lake, steps=10, val_every=1).to_json(), **tracked}, "x")
    real = MlflowClient.log_batch
    refused = 0

    def refuse(*_: object, **__: object) -> None:
        nonlocal refused
        refused += 1
        raise OSError("connection lost")

    def lose_at(kind: type[Started] | type[StepDone], step: int) -> Emit:
        def emit(event: TrainEvent | EvalEvent) -> None:
            if isinstance(event, kind) and event.step == step:
                monkeypatch.setattr(MlflowClient, "log_batch", refuse)

        return emit

    unsent = Path(lake.path("checkpoints", "a", "unsent.json"))
    assert isinstance(train(spec, lose_at(Started, 0), after_steps(5)), Stopped)
    assert refused <= 3
    assert {step for *_, step in json.loads(unsent.read_bytes())} == {1, 2, 3, 4, 5}
    monkeypatch.setattr(MlflowClient, "log_batch", real)
    run_id = train(spec, lose_at(StepDone, 8)).mlflow_run_id
    assert {step for *_, step in json.loads(unsent.read_bytes())} >= {9, 10}
    monkeypatch.setattr(MlflowClient, "log_batch", real)
    assert train(spec, ignore).skipped
    assert not unsent.exists()
    client = MlflowClient(server)
    assert [step for step, _ in history(client, run_id, "loss")] == list(range(1, 11))
    assert [step for step, _ in history(client, run_id, "grad_norm")] == list(range(1, 11))
    assert sorted(step for step, _ in history(client, run_id, "val_loss")) == [1, 2, 3, 4, *range(6, 11)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_checkpoint_that_mlflow_refuses_keeps_its_curve(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost between a flush and the record; later the file of unsent points is damaged."""
    lake: Lake = make_lake(tmp_path / "lake")
    tracked = {"tracking_uri": server, "experiment": "between"}
    spec = TrainSpec.from_json({**make_spec(lake, steps=6, keep_every=4, val_every=1).to_json(), **tracked}, "x")
    real = MlflowClient.create_logged_model
    failing = iter([True, True])

    def failing_twice(self: MlflowClient, *arguments: Any, **more: Any) -> Any:
        if next(failing, False):
            raise OSError("connection lost")
        return real(self, *arguments, **more)

    monkeypatch.setattr("model.tracking.AWAY_S", 0.0)
    monkeypatch.setattr(MlflowClient, "create_logged_model", failing_twice)
    events = Events()
    train(spec, events, after_steps(5))
    assert sum("does not take the checkpoint" in message for message in events.warnings()) == 2
    unsent = Path(lake.path("checkpoints", "a", "unsent.json"))
    unsent.write_text("[[1]")
    events = Events()
    summary = train(spec, events)
    assert any("unsent.json: damaged" in message for message in events.warnings())
    curve = history(MlflowClient(server), summary.mlflow_run_id, "val_loss")
    assert sorted(step for step, _ in curve) == [1, 2, 3, 4, 6]


def test_a_full_disk_loses_only_the_unsent_points(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake: Lake = make_lake(tmp_path / "lake")
    spec = TrainSpec.from_json({**make_spec(lake, steps=4).to_json(), "tracking_uri": server}, "x")
    publish = Lake.publish_json

    def full(self: Lake, value: object, *names: str) -> None:
        if names[-1] == "unsent.json":
            raise OSError(28, "No space left on device")
        publish(self, value, *names)

    monkeypatch.setattr(Lake, "publish_json", full)
    monkeypatch.setattr(Tracker, "flush", lambda _: None)
    summary = train(spec, ignore)
    assert summary.steps == 4
    assert any("cannot be kept for a later process: no space left" in warning for warning in summary.warnings)


def scored(lake: Lake, run: str, server: str, steps: int, limit: int = 8, **overrides: str) -> EvalResult:
    """The result of an evaluation that would make this run the champion; it is trained if it does not exist."""
    tracked = {"tracking_uri": server, "experiment": "champions"}
    spec = tiny_spec(lake, run, **tracked)
    train(dataclasses.replace(spec, steps=steps, overrides={**spec.overrides, **overrides}), ignore)
    ppl = {"tasks": ("heldout_ppl",), "promote": "heldout_ppl", "limit": limit}
    return evaluate(EvalSpec(lake.root, run=run, device="cpu", **ppl, **tracked), ignore)


def test_only_a_significantly_better_checkpoint_becomes_the_champion(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(tmp_path / "lake")
    publish_prose(lake)
    client = MlflowClient(server)
    longer = {"learning_rate": "3e-2", "warmup_steps": "2"}

    first = scored(lake, "first", server, 2).promotion
    assert first is not None
    assert (first.is_champion, first.p) == (True, None)
    version = client.get_model_version_by_alias("champions", "champion")
    assert version.tags["webtext.run"] == "first"
    assert version.description.startswith("first at step 2: the first champion: perplexity ")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    champion = Path(download_artifacts("models:/champions@champion", dst_path=str(tmp_path / "champion")))
    stored = Path(lake.path("checkpoints", "first", checkpoint.step_name(2)))
    for name in ("model.safetensors", "config.json"):
        assert (champion / name).read_bytes() == (stored / name).read_bytes()

    # The server is lost between the new version and the alias: the champion stays, and the next try uses the version.
    alias = MlflowClient.set_registered_model_alias

    def lost(*_: object) -> None:
        raise OSError("connection lost")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", lost)
    failed = scored(lake, "better", server, 30, **longer).promotion
    assert failed is not None
    assert (failed.is_champion, failed.reason) == (False, "MLflow does not take the champion: connection lost")
    assert client.get_model_version_by_alias("champions", "champion").tags["webtext.run"] == "first"
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", alias)
    better = scored(lake, "better", server, 30, **longer)
    assert better.skipped
    assert better.promotion is not None
    assert better.promotion.is_champion
    assert better.promotion.p is not None
    assert better.promotion.p < 0.05
    version = client.get_model_version_by_alias("champions", "champion")
    assert len(client.search_model_versions("name = 'champions'")) == 2
    record = scores.newest(lake, "better")["heldout_ppl"]
    found = compare(lake, "first", "better").tasks["heldout_ppl"]
    expected = {"run": "better", "step": "30", "task": "heldout_ppl", "beaten": "first/step-00000002"}
    expected |= {"beaten_version": "1", "value": repr(record.value), "beaten_value": repr(found.a)}
    expected |= {"difference": repr(found.difference), "p": repr(found.p)}
    assert {f"webtext.{key}": value for key, value in expected.items()}.items() <= version.tags.items()
    said = "better at step 30: better than first at step 2 (version 1) at heldout_ppl: perplexity "
    assert version.description.startswith(said)

    again = scored(lake, "better", server, 30, **longer).promotion
    assert again is not None
    assert again.reason == "better at step 30 (version 2) is the champion already"
    for run, limit, reason in (
        ("worse", 8, "worse than better at step 30 (version 2) at heldout_ppl"),
        ("other", 7, "not compared with the champion, better at step 30 (version 2): other limits: 8 and 7"),
    ):
        promotion = scored(lake, run, server, 2, limit, seed="1").promotion
        assert promotion is not None
        assert promotion.reason.startswith(reason)
        assert not promotion.is_champion
    publish_score(lake, "worse", [1.0, 0.0], task="heldout_cloze")
    tracker = resume_tracker(server, str(better.mlflow_run_id))
    promotion = promote(lake, tracker, "champions", "worse", 2, "heldout_cloze")
    assert "the lake has no score of it; run webtext eval --checkpoint" in promotion.reason
    with pytest.raises(InputError, match="--promote heldout_lastword: worse has no score of it at step 2"):
        promote(lake, tracker, "champions", "worse", 2, "heldout_lastword")
    assert client.get_model_version_by_alias("champions", "champion").tags["webtext.run"] == "better"


def test_a_promotion_that_cannot_be_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    for fields in ({"hf": "x", "tracking_uri": "http://127.0.0.1:9"}, {"run": "r"}):
        with pytest.raises(InputError, match="--promote heldout_ppl: needs --run and an MLflow server"):
            EvalSpec(str(tmp_path), promote="heldout_ppl", **fields)
    spec = EvalSpec(str(tmp_path), run="r", promote="heldout", tracking_uri="http://127.0.0.1:9")
    with pytest.raises(InputError, match="--promote heldout: no such task; choose from heldout_ppl"):
        evaluate(spec, ignore)
