"""How a run starts, resumes and fails without losing what it has learnt."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import InputError
from data.lake.store import Lake, write_parquet
from model import checkpoint, failure, hf, world
from model.config import ModelConfig, TrainSpec
from model.events import Stopped, to_json
from model.failure import FailedStepError
from model.gpt2 import GPT2
from model.loader import Sampler, open_corpus
from model.optim import state_tensors
from model.provenance import find_documents
from model.train import train
from model.trainer import Trainer
from tests.model.corpora import prose, publish_texts
from tests.model.killing import PLACES
from tests.model.lakes import documents, make_lake, make_spec, publish_tokens
from tests.model.running import Events, after_steps, assert_bit_equal, files_of, run_process, trainer_of


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path / "lake")


def begin_at(spec: TrainSpec, **fields: Any) -> TrainSpec:
    return TrainSpec.from_json({**spec.to_json(), **fields}, "x")


# ---- resume


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_anywhere_resumes_to_the_same_bits(lake: Lake, seed: int) -> None:
    """In the middle of accumulations and while saving, across the end of an epoch, with dropout."""
    settings: dict[str, Any] = {"steps": 24, "dropout": 0.2, "micro_batch_size": 2, "checkpoint_every": 3}
    whole = Events()
    summary = train(make_spec(lake, "whole", **settings), whole)
    assert summary.epochs > 1
    assert summary.train_share_seen == 1.0
    spec = Path(lake.base).parent / "spec.json"
    spec.write_text(json.dumps(make_spec(lake, "parts", **settings).to_json()))
    command = [sys.executable, "-m", "tests.model.killing", str(spec), str(seed)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    places = ["step" if "micro" in event["at"] else "save" for event in events if event["event"] == "killed"]
    assert places == list(PLACES)
    steps = [(event["step"], event["loss"]) for event in events if event["event"] == "step"]
    assert len(steps) > 24, "no step was repeated: the kills came too early to matter"
    assert set(steps) == set(whole.losses().items())
    assert_bit_equal(files_of(lake, "whole", 24), files_of(lake, "parts", 24))
    assert list((Path(lake.base) / "tmp").iterdir()) == [], "unfinished checkpoints are left"


def test_the_state_records_the_progress_of_training(lake: Lake) -> None:
    spec = make_spec(lake, steps=4)
    train(spec, Events())
    state = checkpoint.read_state(lake, "a", 4)
    assert (state.step, state.samples_seen, state.tokens_seen, state.seed) == (4, 32, 32 * 16, 0)
    assert state.manifests == {"2026-10": lake.dataset("tokens", "2026-10").require().digest}
    assert state.corpus_digest == open_corpus(lake, spec.corpus, Path(spec.cache_dir)).digest
    assert state.model == spec.resolve().model.to_json()
    assert state.train["learning_rate"] == spec.resolve().train.learning_rate
    assert (state.mlflow_run_id, state.left_out, len(state.recent_losses)) == (None, [], 4)
    assert set(state.sha256) == {"model.safetensors", "optimizer.safetensors", "config.json"}


@pytest.mark.parametrize(
    ("setting", "value", "diff"),
    [("layers", 1, "layers: 1 -> 2"), ("learning_rate", 0.5, "learning_rate: 0.5 -> 0.003")],
)
def test_a_checkpoint_of_another_run_is_refused(lake: Lake, setting: str, value: float, diff: str) -> None:
    """As if a checkpoint was copied from another run: the run's record matches, the checkpoint does not."""
    train(make_spec(lake, "other", **{"steps": 2, "warmup_steps": 1, setting: value}), Events())
    train(make_spec(lake, "a", steps=1, warmup_steps=1), Events())
    source, target = (Path(lake.path("checkpoints", run)) for run in ("other", "a"))
    (source / "step-00000002").rename(target / "step-00000002")
    with pytest.raises(InputError, match=rf"a/step-00000002 belongs to another run \({diff}\)"):
        train(make_spec(lake, "a", steps=4, warmup_steps=1), Events())
    assert checkpoint.steps(lake, "a") == [1, 2]


def test_a_checkpoint_of_another_corpus_is_refused(lake: Lake) -> None:
    """Even if ``run.json`` is lost, which would refuse it too."""
    publish_tokens(lake, "2026-11", [documents(20, 9)], [documents(3, 10)])
    spec = make_spec(lake, "a", steps=2)
    train(spec, Events())
    Path(lake.path("checkpoints", "a", "run.json")).unlink()
    with pytest.raises(InputError, match=r"a/step-00000002 belongs to another run \(corpus: '"):
        train(begin_at(spec, corpus=["2026-11"], steps=4), Events())
    assert train(begin_at(spec, steps=4), Events()).steps == 4


def test_a_copied_run_continues_beside_the_original(lake: Lake) -> None:
    train(make_spec(lake, "a", steps=4), Events())
    source, copy = (Path(lake.path("checkpoints", run)) for run in ("a", "copy"))
    shutil.copytree(source, copy)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    summary = train(make_spec(lake, "copy", steps=8), Events())
    assert summary.checkpoint == str(copy / "step-00000008")
    assert checkpoint.steps(lake, "copy")[-1] == 8
    assert before == {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    keys = {lake.read_json("checkpoints", run, "run.json")["key"] for run in ("a", "copy")}
    assert len(keys) == 2, "they would be one run in MLflow"


def test_a_checkpoint_stored_under_another_step_is_skipped(lake: Lake) -> None:
    train(make_spec(lake, steps=4), Events())
    folder = Path(lake.path("checkpoints", "a"))
    (folder / "step-00000004").rename(folder / "step-00000005")
    events = Events()
    assert train(make_spec(lake, steps=6), events).steps == 6
    assert "it says step 4" in events.of("warning")[0]["message"]
    assert [event["step"] for event in events.of("resumed")] == [2]


def test_checkpoints_of_another_version_are_left_alone(lake: Lake) -> None:
    """They are not damaged, so the run does not start again over them."""
    train(make_spec(lake, steps=4), Events())
    for step in (2, 4):
        names = ("checkpoints", "a", checkpoint.step_name(step), "state.json")
        lake.publish_json({**lake.read_json(*names), "format": 2}, *names)
    with pytest.raises(InputError, match="checkpoint format 2, this program reads format 3; use the version"):
        train(make_spec(lake, steps=8), Events())
    assert checkpoint.steps(lake, "a") == [2, 4]


@pytest.mark.parametrize("text", ["null", "[]", '{"step": 4}'])
def test_an_invalid_state_is_skipped(lake: Lake, text: str) -> None:
    train(make_spec(lake, steps=4), Events())
    (Path(lake.path("checkpoints", "a", "step-00000004")) / "state.json").write_text(text)
    events = Events()
    train(make_spec(lake, steps=6), events)
    assert "state.json: damaged checkpoint" in events.of("warning")[0]["message"]
    assert [event["step"] for event in events.of("resumed")] == [2]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(checkpoint.State)])
def test_a_state_with_one_changed_value_is_skipped(lake: Lake, field: str) -> None:
    """Any value of the state, the hashes included, as after a flipped bit on a disk."""
    train(make_spec(lake, steps=4), Events())
    names = ("checkpoints", "a", "step-00000004", "state.json")
    state = lake.read_json(*names)
    hashes = {**state["sha256"], "config.json": "0" * 64}
    value = hashes if field == "sha256" else {**state[field], "x": "y"} if isinstance(state[field], dict) else "other"
    lake.publish_json({**state, field: value}, *names)
    events = Events()
    train(make_spec(lake, steps=6), events)
    assert "state.json: damaged checkpoint (its sha256 does not match)" in events.of("warning")[0]["message"]
    assert [event["step"] for event in events.of("resumed")] == [2]


@pytest.mark.parametrize("text", ["null", "[]", "{}"])
def test_an_invalid_run_record_is_refused(lake: Lake, text: str) -> None:
    train(make_spec(lake, steps=2), Events())
    record, summary = (Path(lake.path("checkpoints", "a", name)) for name in ("run.json", "summary.json"))
    record.write_text(text)
    summary.write_text(text)
    with pytest.raises(InputError, match=r"run\.json: damaged; remove it"):
        train(make_spec(lake, steps=2), Events())
    record.unlink()
    assert train(make_spec(lake, steps=2), Events()).skipped is False
    assert lake.read_json("checkpoints", "a", "summary.json")["steps"] == 2


def test_an_unknown_run_is_refused(lake: Lake) -> None:
    train(make_spec(lake, "known", steps=2), Events())
    with pytest.raises(InputError, match=r"--run unknown: no checkpoint in .*; runs there: known"):
        checkpoint.load_model(lake, "unknown", tokenizer="sixty-four")


# ---- errors before any work


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    publish_tokens(lake, "2026-10", [documents(20, 1)], [[]])
    with pytest.raises(InputError, match="2026-10: no validation documents"):
        train(make_spec(lake), Events())
    assert not lake.exists("checkpoints")


def test_auto_precision_is_float32_on_a_device_without_bfloat16() -> None:
    assert world.precision_for("auto", torch.device("mps")) == "float32"
    with pytest.raises(InputError, match="precision=bfloat16: mps has no instructions for it"):
        world.precision_for("bfloat16", torch.device("mps"))


# ---- --init-from


@pytest.fixture
def texts(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "lake")
    publish_texts(lake, "2026-10", prose(6, 0, 8), prose(2, 1, 8))
    return lake


SMALL = {"tokenizer": "gpt2", "vocab_size": 50_257, "layers": 1, "dropout": 0.0, "learning_rate": 1e-4}


def released(folder: Path, seed: int, context: int = 16) -> Path:
    torch.manual_seed(seed)
    model = GPT2(ModelConfig(layers=1, heads=2, width=16, context=context))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    hf.export(model, folder)
    return folder


def test_a_run_starts_from_transformers_weights(texts: Lake, tmp_path: Path) -> None:
    folder = released(tmp_path / "released", 1)
    spec = begin_at(make_spec(texts, steps=4, **SMALL), init_from=str(folder))
    events = Events()
    train(spec, events, after_steps(1))
    model = hf.load_hf(folder)
    corpus = open_corpus(texts, spec.corpus, Path(spec.cache_dir))
    sampler = Sampler(corpus.digest, 0, len(corpus.train), 16)
    with torch.no_grad():
        ids, targets = sampler.batch(corpus.train, np.arange(8))
        expected = float(model.loss(torch.from_numpy(ids.copy()), torch.from_numpy(targets.copy())))
    assert events.losses()[1] == pytest.approx(expected, rel=1e-5)
    digest = texts.read_json("checkpoints", "a", "run.json")["settings"]["init_from"]
    assert len(digest) == 64

    other = released(tmp_path / "other", 2)
    with pytest.raises(InputError, match=f"begun with other settings \\(init_from: '{digest}' -> '"):
        train(begin_at(spec, init_from=str(other)), Events())
    train(begin_at(spec, init_from=None), Events(), after_steps(1))  # the run remembers what it started from
    moved = folder.rename(tmp_path / "moved")
    assert train(begin_at(spec, init_from=str(moved)), Events()).steps == 4
    assert texts.read_json("checkpoints", "a", "run.json")["settings"]["init_from"] == digest
    train(make_spec(texts, "scratch", steps=2, **SMALL), Events())
    with pytest.raises(InputError, match=r"init_from: '\(none\)' -> '"):
        train(begin_at(make_spec(texts, "scratch", steps=2, **SMALL), init_from=str(moved)), Events())


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_weights(texts: Lake, tmp_path: Path) -> None:
    folder = released(tmp_path / "released", 1)
    spec = begin_at(make_spec(texts, steps=2, **SMALL), init_from=str(folder))
    whole = Events()
    again = Events()
    train(dataclasses.replace(spec, run="whole"), whole)

    def die() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, Events(), die)
    assert checkpoint.steps(texts, "a") == []
    train(dataclasses.replace(spec, init_from=None), again)
    assert again.losses() == whole.losses()


def test_a_run_without_an_intact_checkpoint_starts_from_the_same_weights(texts: Lake, tmp_path: Path) -> None:
    folder = released(tmp_path / "released", 1)
    spec = begin_at(make_spec(texts, steps=2, **SMALL), init_from=str(folder))
    whole = Events()
    again = Events()
    train(spec, whole)
    (Path(texts.path("checkpoints", "a", "step-00000002")) / "model.safetensors").write_bytes(b"")
    train(dataclasses.replace(spec, init_from=None), again)
    assert again.of("resumed") == []
    assert again.losses() == whole.losses()


def test_weights_that_do_not_fit_are_refused(texts: Lake, tmp_path: Path) -> None:
    folder = str(released(tmp_path / "released", 1, context=32))
    spec = make_spec(texts, **SMALL)
    with pytest.raises(InputError, match=f"--init-from {folder}: it has context 32, not 16; choose the --preset"):
        train(begin_at(spec, init_from=folder), Events())
    with pytest.raises(InputError, match=r"it has layers 1, not 2, context 32, not 16"):
        train(begin_at(make_spec(texts, **{**SMALL, "layers": 2}), init_from=folder), Events())
    weights = Path(folder) / "model.safetensors"
    weights.rename(Path(folder) / "pytorch_model.bin")
    with pytest.raises(InputError, match=f"--init-from {folder}: no model.safetensors .*is not read"):
        train(begin_at(spec, init_from=folder), Events())
    with pytest.raises(InputError, match=r"--init-from nowhere: no config\.json there"):
        train(begin_at(spec, init_from="nowhere"), Events())
    assert not texts.exists("checkpoints")


# ---- failed steps


def odd_lake(tmp_path: Path) -> Lake:
    """Sequences whose loss falls to nearly zero, except for one document of noise, the 151st."""
    lake = Lake(tmp_path / "lake")
    plain = [np.append(np.arange(40) % 63, 63).astype(np.uint16) for _ in range(300)]
    noise = np.random.default_rng(0).integers(0, 63, 60).astype(np.uint16)
    publish_tokens(lake, "2026-10", [[*plain[:150], noise, *plain[150:]]], [plain[:4]])
    return lake


ODD: dict[str, Any] = {"batch_size": 2, "micro_batch_size": 2, "dropout": 0.0, "learning_rate": 1e-2, "seed": 5}


def test_a_spike_stops_the_run_with_a_report_and_can_be_skipped(tmp_path: Path) -> None:
    lake = odd_lake(tmp_path)
    settings = {**ODD, "steps": 380, "checkpoint_every": 50, "val_every": 400, "keep_last": 1}
    with pytest.raises(
        FailedStepError, match=r"^step (\d+): loss .* after a mean of .*failure-\d+.json; the checkp"
    ) as e:
        train(make_spec(lake, **settings), Events())
    assert e.value.kind == "loss_spike"
    assert "\n" not in str(e.value)
    (name,) = [name for name in lake.names("checkpoints", "a") if name.startswith("failure")]
    report = lake.read_json("checkpoints", "a", name)
    assert lake.path("checkpoints", "a", name) in str(e.value)
    assert (report["kind"], report["outcome"]) == ("loss_spike", "training stopped")
    first, last = report["samples"]
    assert (first, last) == (2 * (report["step"] - 1), 2 * report["step"] - 1)
    assert [window["sample"] for window in report["windows"]] == [first, last]
    assert (150).to_bytes(16, "little").hex() in [document["doc_id"] for document in report["documents"]]
    kept = checkpoint.steps(lake, "a")[-1]
    assert kept < report["step"]
    assert checkpoint.check(lake, "a", kept).left_out == []

    resumed = Events()
    whole = Events()
    summary = train(make_spec(lake, **settings, max_steps_left_out=9), resumed)
    assert report["step"] in summary.steps_left_out
    warning = resumed.of("warning")[0]["message"]
    assert f"step {report['step']}: " in warning
    assert "the batch is left out, 1 of 9" in warning
    left_out = lake.read_json("checkpoints", "a", name.replace(".json", "-2.json"))
    assert left_out == {**report, "outcome": "the batch was left out"}
    assert report["step"] not in resumed.losses()
    assert to_json(summary) == lake.read_json("checkpoints", "a", "summary.json")
    train(make_spec(lake, "whole", **settings, max_steps_left_out=9), whole)
    assert_bit_equal(files_of(lake, "whole", 380), files_of(lake, "a", 380))
    assert checkpoint.read_state(lake, "whole", 380).left_out == list(summary.steps_left_out)


@pytest.mark.parametrize(
    ("allowed", "message"), [(1, "step 5: loss nan, gradient norm nan, on"), (9, "as in the step")]
)
def test_skipped_steps_are_limited_and_never_two_in_a_row(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, allowed: int, message: str
) -> None:
    """Infinite weights fail every step."""
    train(make_spec(lake, steps=8, checkpoint_every=9), Events(), after_steps(3))
    before = files_of(lake, "a", 3)
    restore = checkpoint.restore

    def poisoned(*arguments: Any) -> None:
        restore(*arguments)
        with torch.no_grad():
            arguments[2].named["ln.weight"][0] = math.inf

    monkeypatch.setattr(checkpoint, "restore", poisoned)
    events = Events()
    with pytest.raises(FailedStepError, match=message):
        train(make_spec(lake, steps=8, checkpoint_every=9, val_every=9, max_steps_left_out=allowed), events)
    assert [event["message"].partition(":")[0] for event in events.of("warning")] == ["step 4"]
    reports = [name for name in lake.names("checkpoints", "a") if name.startswith("failure")]
    assert reports == [f"failure-{step:08d}.json" for step in (4, 5)]
    assert lake.read_json("checkpoints", "a", reports[0])["kind"] == "not_finite"
    assert checkpoint.steps(lake, "a") == [3]
    assert_bit_equal(before, files_of(lake, "a", 3))


def test_weights_with_a_non_finite_validation_loss_are_not_saved(lake: Lake) -> None:
    """One step at a huge learning rate; the loss before it was finite."""
    events = Events()
    with pytest.raises(FailedStepError, match=r"step 1: the validation loss is .*; the checkpoint before is"):
        train(make_spec(lake, steps=1, learning_rate=1e30, warmup_steps=0), events)
    assert checkpoint.steps(lake, "a") == []
    assert not lake.exists("checkpoints", "a", "summary.json")


def test_fewer_steps_than_already_done_are_refused(lake: Lake) -> None:
    """Otherwise the run would count as finished, and its planned steps would be lost."""
    train(make_spec(lake, steps=8), Events(), after_steps(5))
    record = lake.read_json("checkpoints", "a", "run.json")
    with pytest.raises(InputError, match="--steps 3: run a has already done 5; give at least as many"):
        train(make_spec(lake, steps=3), Events())
    assert lake.read_json("checkpoints", "a", "run.json") == record
    assert train(make_spec(lake, steps=None), Events()).steps == 8
    with pytest.raises(InputError, match="--steps 7: run a has already done 8"):
        train(make_spec(lake, steps=7), Events())
    assert train(make_spec(lake, steps=8), Events()).skipped


def with_the_presets_warm_up(spec: TrainSpec) -> TrainSpec:
    unset = ("warmup_steps", "batch_warmup_steps")
    return dataclasses.replace(spec, overrides={k: v for k, v in spec.overrides.items() if k not in unset})


def test_a_short_run_says_how_its_warm_up_was_fitted_and_keeps_it(lake: Lake) -> None:
    """Also when it is continued to more steps, and when its record is removed."""
    events = Events()
    train(with_the_presets_warm_up(make_spec(lake, steps=40)), events, after_steps(2))
    fitted = ["warmup_steps is 2 instead of 20", "batch_warmup_steps is 40 instead of 432"]
    assert [line for note in fitted for line in events.warnings() if line.startswith(note)] == events.warnings()
    assert len(events.warnings()) == 2
    settings = lake.read_json("checkpoints", "a", "run.json")["settings"]
    assert (settings["warmup_steps"], settings["batch_warmup_steps"]) == (2, 40)
    later = Events()
    train(with_the_presets_warm_up(make_spec(lake, steps=200)), later, after_steps(2))
    assert lake.read_json("checkpoints", "a", "run.json")["settings"] == settings
    assert later.warnings() == []
    lake.remove("checkpoints", "a", "run.json")
    train(with_the_presets_warm_up(make_spec(lake, steps=None)), Events(), after_steps(2))
    record = lake.read_json("checkpoints", "a", "run.json")
    assert record["settings"] == settings
    assert record["train"]["steps"] == 200


def test_a_run_of_an_earlier_version_keeps_its_warm_up(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """That version did not fit the warm-up to the run, and did not refuse one that is longer than it."""
    spec = with_the_presets_warm_up(make_spec(lake, steps=10))
    chosen = make_spec(lake, run="chosen", steps=10, warmup_steps=11)
    with monkeypatch.context() as earlier:
        earlier.setattr("model.config._fitted", lambda *_: {})
        earlier.setattr("model.config.TrainConfig.require_apart", lambda _: None)
        whole = train(dataclasses.replace(spec, run="whole"), Events())
        train(spec, Events(), after_steps(4))
        train(chosen, Events(), after_steps(4))
    assert lake.read_json("checkpoints", "a", "run.json")["settings"]["warmup_steps"] == 20
    assert train(spec, Events()).train_loss == whole.train_loss
    assert train(chosen, Events()).steps == 10
    with pytest.raises(InputError, match="warmup_steps=11 do not fit into a run of 10 steps"):
        train(dataclasses.replace(chosen, run="new"), Events())
    assert lake.names("checkpoints", "new") == []


def test_a_damaged_summary_is_rewritten(lake: Lake) -> None:
    train(make_spec(lake, steps=2), Events())
    summary = Path(lake.path("checkpoints", "a", "summary.json"))
    summary.write_text("{")
    again = train(make_spec(lake, steps=2), Events())
    assert again.skipped is False
    assert lake.read_json("checkpoints", "a", "summary.json")["steps"] == 2


def test_a_vocabulary_larger_than_the_tokenizers_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    publish_tokens(lake, "2026-10", [documents(20, 1)], [documents(5, 2)], tokenizer="gpt2")
    with pytest.raises(InputError, match="vocab_size=60000: gpt2 has 50257 tokens"):
        train(make_spec(lake, tokenizer="gpt2", vocab_size=60_000), Events())


def test_processes_fail_together_with_one_report(lake: Lake) -> None:
    """At a huge learning rate, the second step's batch is skipped and the third step ends the run."""
    settings: dict[str, Any] = {"learning_rate": 1e30, "warmup_steps": 0, "max_steps_left_out": 1}
    settings |= {"checkpoint_every": 9, "val_every": 9}
    process = run_process(lake, make_spec(lake, **settings), processes=2)
    out, _ = process.communicate()
    assert process.returncode == 1
    events = [json.loads(line) for line in out.splitlines()]
    assert len([event for event in events if event["event"] == "warning"]) == 1
    messages = {event["message"] for event in events if event["event"] == "error"}
    assert len(messages) == 1
    assert f"report: {lake.path('checkpoints', 'a', 'failure-00000003.json')};" in messages.pop()
    reports = [name for name in lake.names("checkpoints", "a") if name.startswith("failure")]
    assert reports == ["failure-00000002.json", "failure-00000003.json"]


def test_out_of_memory_is_a_one_line_error_with_a_report(lake: Lake) -> None:
    """The address space is limited after torch is loaded, so torch's or numpy's allocator fails."""
    batch = 1 << 16
    spec = make_spec(lake, batch_size=batch, micro_batch_size=batch)
    path = Path(lake.base).parent / "spec.json"
    path.write_text(json.dumps(spec.to_json()))
    program = (
        "import resource, sys; from model import train, hf, world; world.keep_freed_memory = lambda: None;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (800 << 20),) * 2);"
        "sys.exit(train.main(['--spec', sys.argv[1]]))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment)
    assert done.returncode == 1, done.stderr
    event = json.loads(done.stdout.splitlines()[-1])
    assert (event["event"], event["kind"]) == ("error", "FailedStepError")
    assert done.stderr == event["message"] + "\n"
    assert "failure-00000001.json; the checkpoint before is untouched: lower micro_batch_size" in event["message"]
    report = lake.read_json("checkpoints", "a", "failure-00000001.json")
    assert (report["kind"], report["samples"]) == ("out_of_memory", [0, batch - 1])
    assert len(report["windows"]) == batch


def test_spikes_are_recognised() -> None:
    calm = [3.0 + 0.01 * (-1) ** i for i in range(failure.SPIKE_WINDOW)]
    noisy = [3.0 + 0.4 * (-1) ** i for i in range(failure.SPIKE_WINDOW)]
    assert failure.loss_limit(calm) == pytest.approx(4.0)  # the floor decides
    assert failure.loss_limit(noisy) == pytest.approx(7.0)  # the deviation
    assert failure.loss_limit(calm[1:]) == math.inf  # too few losses to judge
    kind, what = failure.why_refused(calm, 4.1, 1.0)
    assert (kind, what) == ("loss_spike", "loss 4.1 after a mean of 3 over 100 steps with deviation 0.01")
    for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)):
        assert failure.why_refused([], loss, norm)[0] == "not_finite"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("why", ["spike", "not finite"])
def test_a_refused_step_leaves_weights_and_moments_unchanged(lake: Lake, optimizer: str, why: str) -> None:
    """AdamW skips the update itself, as on a GPU; Muon is not asked to update."""
    runner = trainer_of(lake, optimizer=optimizer)
    assert not runner.train_step().read().is_refused
    before = {name: tensor.clone() for name, tensor in tensors_of(runner).items()}
    limit = 1e-3
    if why == "not finite":
        limit = math.inf
        runner.model.ln.weight.register_hook(lambda gradient: gradient * math.nan)
    result = runner.train_step(limit).read()
    assert result.is_refused
    assert math.isfinite(result.grad_norm) == (why == "spike")
    assert_bit_equal(before, tensors_of(runner))
    assert runner.step == 2
    assert all(weight.grad is None for weight in runner.model.parameters())


def tensors_of(runner: Trainer) -> dict[str, torch.Tensor]:
    return {**runner.weights.named, **state_tensors(runner.weights.named, runner.optimizers)}


class Lagging(Trainer):
    """Reads results one step late, as on a GPU."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.lag = 1


@pytest.mark.parametrize("stop_after", [None, 3, 4])
def test_reading_results_late_changes_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, stop_after: int | None
) -> None:
    """Not the checkpoints, not the order of events; a stop is noticed one step later."""
    known = {"optimizer": "adamw", "checkpoint_every": 5, "val_every": 5}
    prompt = Events()
    train(make_spec(lake, f"prompt-{stop_after}", 10, **known), prompt)
    monkeypatch.setattr("model.train.Trainer", Lagging)
    late = Events()
    run = f"late-{stop_after}"
    if stop_after:
        stopped = train(make_spec(lake, run, 10, **known), late, after_steps(stop_after))
        assert isinstance(stopped, Stopped)
        assert stopped.step == stop_after + 1
        assert checkpoint.steps(lake, run) == [stopped.step]
    train(make_spec(lake, run, 10, **known), late)
    assert late.losses() == prompt.losses()
    assert [fields["step"] for fields in late.of("step")] == list(range(1, 11))
    assert_bit_equal(files_of(lake, run, 10), files_of(lake, f"prompt-{stop_after}", 10))


def test_a_step_that_is_refused_late_is_left_out(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step after it was begun before anyone knew; the run ends as one that reads every result at once."""
    monkeypatch.setattr(failure, "SPIKE_WINDOW", 2)
    monkeypatch.setattr(failure, "SPIKE_DEVIATIONS", 0.0)
    monkeypatch.setattr(failure, "SPIKE_FLOOR", 0.02)
    settings = {"optimizer": "adamw", "checkpoint_every": 50, "val_every": 50, "learning_rate": 3e-2}
    monkeypatch.setattr("model.train.Trainer", Lagging)
    events = Events()
    train(make_spec(lake, "late-spikes", 40, **settings, max_steps_left_out=40), events)
    left_out = checkpoint.read_state(lake, "late-spikes", 40).left_out
    assert 0 < len(left_out) < 30
    assert len(events.warnings()) == len(left_out)
    assert sorted([*left_out, *events.losses()]) == list(range(1, 41))
    again = Events()
    train(make_spec(lake, "late-stop", 40, **settings, max_steps_left_out=40), again, after_steps(left_out[0]))
    train(make_spec(lake, "late-stop", 40, **settings, max_steps_left_out=40), again)
    assert checkpoint.read_state(lake, "late-stop", 40).left_out == left_out
    assert_bit_equal(files_of(lake, "late-stop", 40), files_of(lake, "late-spikes", 40))
    with pytest.raises(FailedStepError, match=f"step {left_out[0]}: loss .* after a mean of"):
        train(make_spec(lake, "late-fails", 40, **settings), Events())
    assert checkpoint.steps(lake, "late-fails") == []


# ---- which documents


def test_token_ranges_are_mapped_to_documents(tmp_path: Path) -> None:
    """Compared with a plain list of every token's document, over two snapshots and three parts."""
    lake = make_lake(tmp_path / "lake")
    publish_tokens(lake, "2026-11", [documents(9, 9)], [documents(3, 10)])
    snapshots = ("2026-10", "2026-11")
    owners: list[tuple[str, str, int]] = []
    for snapshot in snapshots:
        for part in lake.dataset("tokens", snapshot).require().parts:
            table = lake.dataset("tokens", snapshot).read(f"train/{part.name}.parquet")
            for row, n_tokens in enumerate(table.column("n_tokens").to_pylist()):
                owners += [(snapshot, part.name, row)] * n_tokens
    random = np.random.default_rng(0)
    for _ in range(50):
        first = int(random.integers(len(owners) - 1))
        end = min(len(owners), first + int(random.integers(1, 200)))
        found = find_documents(lake, snapshots, [(first, end), (0, 1)])
        expected = dict.fromkeys([owners[0], *owners[first:end]])
        ids = [(d.snapshot, d.part[6:-8], int.from_bytes(bytes.fromhex(d.doc_id), "little")) for d in found]
        assert ids == list(expected)
        assert all(owners[d.start] != owners[d.start - 1] for d in found if d.start)
    with pytest.raises(InputError, match=f"has {len(owners)}"):
        find_documents(lake, snapshots, [(0, len(owners) + 1)])


def test_documents_have_the_url_of_their_text(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    dataset = lake.dataset("text", "2026-10")
    assert dataset.begin({}, {}) is None
    numbers = np.random.default_rng(0).permutation(35)  # shards are not in the order of the text parts
    for name, some in (("part-00000", numbers[:20]), ("part-00001", numbers[20:])):
        ids = [int(index).to_bytes(16, "little") for index in some]
        table = pa.table({"doc_id": pa.array(ids, pa.binary(16)), "url": [f"http://a.example/{i}" for i in some]})
        with lake.scratch() as folder:
            write_parquet(table, folder / "part")
            dataset.seal(name, {f"{name}.parquet": folder / "part"}, table, counts={"ok": len(some)})
    dataset.finish(["part-00000", "part-00001"], {}, 0.0)
    total = len(open_corpus(lake, ("2026-10",), tmp_path / "cache").train)
    found = find_documents(lake, ("2026-10",), [(0, total)])
    assert [d.url for d in found[:40]] == [f"http://a.example/{i}" for i in range(35)] + [None] * 5  # not in the lake
    assert [d.url for d in found[40:]] == [f"http://a.example/{i}" for i in range(30)]
