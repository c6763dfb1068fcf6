"""The program that scores a model, in a lake with a corpus and a run, and with a real MLflow store."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from data.errors import InputError
from data.evalsets import files as evalsets
from data.lake.manifest import json_digest
from data.lake.store import Lake, write_parquet
from model import hf, scores
from model.checkpoint import load_model, read_state
from model.evals import EvalSpec, published, source
from model.evals.tasks import TASKS, select
from model.evaluate import MAX_METRICS, evaluate, main
from model.events import Emit, to_json
from model.gpt2 import GPT2
from model.train import train
from tests.model.corpora import config, prose, publish_texts
from tests.model.halving import hold
from tests.model.lakes import tiny_spec
from tests.model.running import Events, ignore


def scored(spec: EvalSpec, emit: Emit = ignore) -> dict[str, Any]:
    """The result of an evaluation as JSON."""
    result: dict[str, Any] = to_json(evaluate(spec, emit))
    return result


ONE_TASK = {"tasks": ("heldout_ppl",)}
HELD_OUT = ("heldout_ppl", "heldout_lastword", "heldout_cloze", "heldout_order")


@pytest.fixture(autouse=True)
def unscored(trained: Lake) -> None:
    trained.remove("scores")


def test_a_damaged_newest_checkpoint_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lake = Lake(tmp_path / "lake")
    every = prose(8, seed=5, n_sentences=40)
    publish_texts(lake, "a", every[:4], every[4:])
    for steps in (1, 2):
        train(dataclasses.replace(tiny_spec(lake, "r"), steps=steps), ignore)
    Path(lake.path("checkpoints", "r", "step-00000002", "model.safetensors")).write_bytes(b"")
    said = "step-00000002/model.safetensors: sha256 is .*; step-00000001 is used"
    assert load_model(lake, "r")[1].step == 1
    assert re.search(said, caplog.text)
    result = scored(EvalSpec(lake.root, run="r", device="cpu", limit=2, tasks=("heldout_ppl",)))
    assert result["step"] == 1
    assert re.search(said, result["warnings"][0])


def test_different_sharded_weights_have_different_digests(trained: Lake, tmp_path: Path) -> None:
    """Otherwise two sharded checkpoints would share their scores."""
    state = read_state(trained, "r", 2)

    def digest_of(sha256: dict[str, str]) -> str:
        (tmp_path / "state.json").write_bytes(dataclasses.replace(state, sha256=sha256).to_bytes())
        return source.find(EvalSpec(trained.root, checkpoint=str(tmp_path)), trained).digest

    digests = {json_digest([state.sha256["model.safetensors"], state.sha256["config.json"]])}
    assert {digest_of(state.sha256)} == digests
    shards = {f"shard-0000{n}-model-00001-of-00001.safetensors": str(n) for n in (1, 2)}
    for changed in ({}, {next(iter(shards)): "3"}):
        digests.add(digest_of({"config.json": "0", **shards, **changed}))
    assert len(digests) == 3


def test_a_run_is_scored_once(trained: Lake, tmp_path: Path) -> None:
    events = Events()
    spec = EvalSpec(trained.root, run="r", device="cpu", limit=5)
    result = scored(spec, events)
    assert list(result["scores"]) == list(HELD_OUT)
    assert set(result["missing"]) == set(TASKS) - set(HELD_OUT)
    assert "lambada_test*.jsonl" in result["missing"]["harness/lambada_openai"]
    assert (result["step"], result["skipped"], result["corpus"]) == (2, False, ["a"])
    for score in result["scores"].values():
        low, high = score["interval"]
        assert low <= score[score["metric"]] <= high
        best = score["baselines"][score["best_baseline"]]
        assert best["interval"][0] <= best["value"] <= best["interval"][1]
    assert events.all[-1]["event"] == "done"
    for name in HELD_OUT:
        last = [event for event in events.of("task") if event["task"] == name][-1]
        assert last["done"] == last["total"]
    published = {name: record.score for name, record in scores.read_all(trained, "r", 2).items()}
    assert published == json.loads(json.dumps(result["scores"]))

    again = scored(spec)
    assert again["skipped"]
    assert again["scores"] == published
    # A score of fewer examples is returned but does not replace one of more examples. Other tasks' scores stay.
    for limit, is_kept in ((4, False), (6, True)):
        spec = EvalSpec(trained.root, run="r", device="cpu", limit=limit, tasks=("heldout_lastword",))
        one = scored(spec)
        assert not one["skipped"]
        assert one["scores"]["heldout_lastword"]["n"] == limit
        assert ("heldout_lastword: not kept; the lake keeps a score of up to 5" in str(one["warnings"])) == (
            not is_kept
        )
        after = {name: record.score for name, record in scores.newest(trained, "r").items()}
        assert after["heldout_lastword"]["n"] == (6 if is_kept else 5)
        assert after["heldout_cloze"] == published["heldout_cloze"]


def test_the_same_weights_elsewhere_give_the_same_scores(trained: Lake, tmp_path: Path) -> None:
    folder = Path(trained.path("checkpoints", "r", "step-00000002"))
    limits = {"device": "cpu", "limit": 3, "tasks": ("heldout_ppl",)}
    from_run = scored(EvalSpec(trained.root, run="r", **limits))
    from_folder = scored(EvalSpec(trained.root, checkpoint=str(folder), **limits))
    assert from_folder["skipped"]  # the run, the step and the weights are the same
    hf.export(load_model(trained, "r")[0], tmp_path / "exported")
    events = Events()
    spec = EvalSpec(trained.root, hf=str(tmp_path / "exported"), corpus=("a",), **limits)
    exported = scored(spec, events)
    assert exported["model"] == f"hf-exported-{exported['weights_digest'][:8]}"
    (warning,) = events.warnings()
    assert "training data is unknown" in warning
    ours, theirs = (r["scores"]["heldout_ppl"]["nats_per_token"] for r in (from_run, exported))
    assert theirs == pytest.approx(ours, rel=1e-6)
    with pytest.raises(InputError, match=r"nothing was scored: heldout_ppl: needs held-out.*--corpus"):
        scored(EvalSpec(trained.root, hf=str(tmp_path / "exported"), device="cpu"))


def test_models_in_directories_of_one_name_keep_their_scores(trained: Lake, tmp_path: Path) -> None:
    names = []
    for parent in ("a", "b"):
        model = load_model(trained, "r")[0]
        with torch.no_grad():
            model.tokens.weight.mul_(1 + len(names))
        hf.export(model, tmp_path / parent / "model")
        hf_dir = str(tmp_path / parent / "model")
        spec = EvalSpec(trained.root, hf=hf_dir, corpus=("a",), device="cpu", limit=3, tasks=("heldout_ppl",))
        names.append(scored(spec)["model"])
    one, other = (scores.newest(trained, name)["heldout_ppl"].value for name in names)
    assert one != other


def test_a_task_that_needs_more_context_is_missing(trained: Lake, tmp_path: Path) -> None:
    exported = tmp_path / "short"
    hf.export(GPT2(config(context=16, width=4)).eval(), exported)
    result = scored(EvalSpec(trained.root, hf=str(exported), corpus=("a",), device="cpu", limit=2))
    assert list(result["scores"]) == ["heldout_ppl"]
    assert "needs a context of 64 tokens, the model has 16" in result["missing"]["heldout_cloze"]


def test_another_corpus_under_the_same_name_is_refused(trained: Lake, tmp_path: Path) -> None:
    other = Lake(tmp_path)
    every = prose(4, seed=8, n_sentences=2)
    publish_texts(other, "a", every[:2], every[2:])
    trained.fs.copy(trained.path("checkpoints"), other.path("checkpoints"), recursive=True)
    with pytest.raises(InputError, match="not what r was trained on"):
        scored(EvalSpec(other.root, run="r", device="cpu"))


def test_scores_are_attached_in_mlflow(trained: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)  # with a database for a server, MLflow keeps artifacts in the working directory
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    train(tiny_spec(trained, "tracked", tracking_uri=uri, experiment="e"), ignore)
    for run in ("tracked", "r"):  # MLflow does not know r, so r gets a separate MLflow run
        limits = {"device": "cpu", "limit": 3, "tasks": ("heldout_ppl",)}
        spec = EvalSpec(trained.root, run=run, tracking_uri=uri, experiment="e", **limits)
        result = scored(spec)
        assert scored(spec)["skipped"]
        experiment = client.get_experiment_by_name("e")
        assert experiment is not None
        models = client.search_logged_models([experiment.experiment_id])
        (model,) = (model for model in models if model.source_run_id == result["mlflow_run_id"])
        logged = {metric.key: metric.value for metric in model.metrics}
        assert logged["heldout_ppl/perplexity"] == pytest.approx(result["scores"]["heldout_ppl"]["perplexity"])
        assert ("val_loss" in logged) == (run == "tracked")  # the LoggedModel that training created
        (one,) = (metric for metric in model.metrics if metric.key == "heldout_ppl/perplexity")
        assert (one.dataset_name, one.dataset_digest) == ("tokens/a/val", result["corpus_digest"][:32])
    client_run = client.get_run(str(result["mlflow_run_id"]))
    assert {key for key in client_run.data.metrics if "/" in key} == {"heldout_ppl/perplexity"}  # no intervals
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    gone = EvalSpec(trained.root, run="tracked", device="cpu", limit=4, tracking_uri="http://127.0.0.1:9", **ONE_TASK)
    result = scored(gone)
    assert result["scores"]["heldout_ppl"]["documents"] == 4
    assert "not in MLflow" in result["warnings"][0]
    back = dataclasses.replace(gone, tracking_uri=uri)  # attached later, though nothing is scored
    assert scored(back)["skipped"]
    assert scores.newest(trained, "tracked")["heldout_ppl"].mlflow_run_id is not None


def test_mlflow_gets_at_most_sixty_metrics_with_the_same_names_from_every_run(
    trained: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    train(tiny_spec(trained, "counted", tracking_uri=uri, experiment="e"), ignore)
    spec = EvalSpec(trained.root, run="counted", device="cpu", limit=3, tracking_uri=uri, experiment="e")
    run_id = str(scored(spec)["mlflow_run_id"])

    def names() -> set[str]:
        return set(MlflowClient(uri).get_run(run_id).data.metrics)

    of_training = {name for name in names() if not name.startswith("heldout_")}
    assert names() - of_training == {
        "heldout_ppl/perplexity",
        "heldout_lastword/accuracy",
        "heldout_cloze/accuracy",
        "heldout_order/accuracy",
    }
    # Every task there is, those of the paper that are not written yet, and the five of the harness.
    others = {"hellaswag", "arc_challenge", "piqa", "winogrande", "lambada_openai"}
    tasks = {*TASKS, *(row.task for row in published.ROWS), *(f"harness/{name}" for name in others)}
    of_scores = {f"{task}/{metric}" for task in tasks for metric in ("main", *published.metrics_of(task))}
    assert len(of_training) + len(of_scores) <= MAX_METRICS == 60

    monkeypatch.setattr("model.evaluate.MAX_METRICS", len(of_training) + len(HELD_OUT))
    record = scores.newest(trained, "counted")["heldout_ppl"]
    for task in ("harness/one", "harness/two"):
        scores.publish(trained, dataclasses.replace(record, task=task, mlflow_run_id=None), [{"item": "1"}])
    (warning,) = scored(dataclasses.replace(spec, limit=4, **ONE_TASK))["warnings"]
    assert "not in MLflow, where the run has" in warning
    assert "harness/one/perplexity, harness/two/perplexity" in warning
    assert len(names()) == len(of_training) + len(HELD_OUT)


def test_the_overlap_with_the_training_documents_is_noted_beside_the_score(
    trained: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sets = tmp_path / "sets"
    sets.mkdir()
    words = "one two three four five six seven eight nine ten"
    (sets / "lambada_test.jsonl").write_text("".join(json.dumps({"text": f"{n} {words}"}) + "\n" for n in range(2)))
    (file,) = evalsets.find(sets).values()
    limits = {"device": "cpu", "limit": 2, "tasks": ("harness/lambada_openai",)}
    limits |= {"eval_data": str(sets), "any_file": True}
    spec = EvalSpec(trained.root, run="r", tracking_uri=uri, experiment="e", **limits)
    assert "train_overlap" not in scored(spec)["scores"]["harness/lambada_openai"]
    for name, corpus, found in (("other", ["b"], 3), ("mine", ["a"], 2)):
        dataset = trained.dataset("overlap", name)
        digest = trained.dataset("tokens", "a").require().digest
        dataset.begin({"corpus": corpus}, {f"tokens:{corpus[0]}": digest})
        row = {"evalset": "lambada", "file_sha256": file.sha256, "n_grams": 3, "in_corpus": found}
        table = pa.Table.from_pylist([row])
        with trained.scratch() as folder:
            write_parquet(table, folder / "rows")
            dataset.seal("summary", {"summary.parquet": folder / "rows"}, table, counts={})
        dataset.finish(["summary"], {}, 0.0)
    result = scored(spec)
    assert result["scores"]["harness/lambada_openai"]["train_overlap"] == 2 / 3
    assert result["skipped"]  # nothing was scored again
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert model.tags["harness/lambada_openai/train_overlap"] == str(2 / 3)


def test_bad_input_is_a_one_line_error(trained: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spec.json"

    def run(**fields: object) -> tuple[int, str]:
        path.write_text(json.dumps({"lake": trained.root, "device": "cpu", **fields}))
        code = main(["--spec", str(path)])
        event = json.loads(capsys.readouterr().out.splitlines()[-1])
        return code, str(event.get("message"))

    for fields, expected in (
        ({"run": "r", "tasks": ["lambda"]}, "no such task; choose from heldout_ppl, heldout_lastword"),
        ({"run": "nobody"}, "no checkpoint in"),
        ({"hf": str(tmp_path)}, "no config.json"),
        ({"checkpoint": str(tmp_path)}, "not a checkpoint of webtext"),
        ({"run": "r", "eval_data": str(tmp_path / "none")}, "no such directory"),
        ({"run": "r", "corpus": ["none"]}, "no such dataset"),
        ({"run": "r", "hf": "x"}, "exactly one of"),
        ({}, "exactly one of"),
        ({"run": "r", "limit": 0}, "limit must be greater than 0, got 0"),
        ({"run": "r", "colour": 1}, "not a valid EvalSpec"),
        ({"run": "r", "device": "abacus"}, "--device abacus"),
    ):
        code, message = run(**fields)
        assert (code, "\n" in message) == (2, False), fields
        assert expected in message, message
    code, _ = run(run="r", tasks=["heldout_ppl"], limit=2)
    assert code == 0


def test_a_model_that_does_not_fit_is_a_one_line_error(
    trained: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines.")

    monkeypatch.setattr("model.evaluate.evaluate", full)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"lake": trained.root, "device": "cpu", "run": "r"}))
    assert main(["--spec", str(path)]) == 1
    event = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert event["event"] == "error"
    assert "Tried to allocate 20.00 GiB" in event["message"]
    assert "score it with --device cpu" in event["message"]
    assert "\n" not in event["message"]


def test_an_evaluation_that_runs_out_of_memory_says_so_and_goes_on(
    trained: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second task begins with the batches that fitted the first one."""
    spec = EvalSpec(trained.root, run="r", device="cpu", limit=5, tasks=("heldout_ppl", "heldout_lastword"))
    expected = scored(spec)["scores"]
    trained.remove("scores")
    passes: list[list[int]] = []
    made = GPT2.__init__

    def init(self: GPT2, *arguments: Any) -> None:
        made(self, *arguments)
        passes.append(hold(self, 200))

    monkeypatch.setattr(GPT2, "__init__", init)
    events = Events()
    result = scored(dataclasses.replace(spec, batch_tokens=512), events)
    assert max(passes[0]) == 512
    assert result["warnings"] == events.warnings()
    assert [message.partition(" in one pass")[0] for message in events.warnings()] == [
        f"scoring ran out of memory with {n} positions" for n in (512, 256)
    ]
    for task, score in expected.items():
        assert result["scores"][task][score["metric"]] == pytest.approx(score[score["metric"]], rel=1e-5)
        assert result["scores"][task]["n"] == score["n"]
    trained.remove("scores")
    assert scored(dataclasses.replace(spec, batch_tokens=128))["warnings"] == []
    assert max(passes[1]) <= 128


def test_specs_survive_json() -> None:
    spec = EvalSpec("lake", run="r", corpus=("a", "b"), tasks=("heldout_ppl",))
    assert EvalSpec.from_json(json.loads(json.dumps(spec.to_json())), "x") == spec
    assert [task.name for task in select(("heldout_cloze", "heldout_ppl"))] == ["heldout_ppl", "heldout_cloze"]
