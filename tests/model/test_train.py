"""Training: bit-exact resume, no influence of logging, the same result for any number of processes."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.run import get_args_parser

from data.errors import InputError
from data.lake.store import Lake
from model import checkpoint, launch
from model.config import TrainSpec
from model.events import Stopped, to_json
from model.failure import FailedStepError
from model.loader import open_corpus, val_windows
from model.optim import state_tensors
from model.sharding import load_shards
from model.train import train
from model.trainer import Trainer
from tests.model.lakes import documents, make_lake, make_spec, publish_tokens
from tests.model.running import Events, after_steps, assert_bit_equal, files_of, run_process, trainer_of
from tests.model.several import Reported, train_all


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path / "lake")


def test_training_lowers_the_loss(lake: Lake) -> None:
    events = Events()
    summary = train(make_spec(lake, steps=150, learning_rate=1e-2, dropout=0.0, warmup_steps=10), events)
    assert summary.first_loss == pytest.approx(math.log(64), abs=0.1)
    assert summary.val_loss < summary.unigram_entropy - 0.5
    assert summary.train_loss == pytest.approx(np.mean(list(events.losses().values())[-20:]))
    assert summary.tokens_seen == 150 * 8 * 16
    assert lake.read_json("checkpoints", "a", "summary.json") == to_json(summary)
    assert [event["event"] for event in events.all][-1] == "done"


def test_a_resumed_run_equals_an_uninterrupted_one(lake: Lake) -> None:
    """Stopped twice, between checkpoints and across the end of an epoch, with dropout: weights, optimizer, losses."""
    whole = Events()
    parts = Events()
    steps = 40
    assert steps * 8 * 16 > 1.5 * len(open_corpus(lake, ("2026-10",), Path(lake.base).parent / "cache").train)
    settings: dict[str, Any] = {"dropout": 0.2, "checkpoint_every": 4, "val_every": 4}
    summary = train(make_spec(lake, "whole", steps=steps, **settings), whole)
    for stop in (after_steps(15), after_steps(18)):
        assert isinstance(train(make_spec(lake, "parts", steps=steps, **settings), parts, stop), Stopped)
    resumed = train(make_spec(lake, "parts", steps=steps, **settings), parts)
    assert [event["step"] for event in parts.of("resumed")] == [15, 33]
    assert_bit_equal(files_of(lake, "whole", steps), files_of(lake, "parts", steps))
    assert parts.losses() == whole.losses()
    volatile = {"run", "checkpoint", "tokens_per_s", "seconds", "mfu", "memory_mb"}
    one, other = ({k: v for k, v in to_json(of).items() if k not in volatile} for of in (resumed, summary))
    assert one == other


def test_reporting_does_not_change_training(lake: Lake) -> None:
    train(make_spec(lake, "quiet", steps=6, val_every=100, checkpoint_every=100, log_every=100), Events())
    train(make_spec(lake, "busy", steps=6, val_every=1, checkpoint_every=1, log_every=1, val_sequences=3), Events())
    assert_bit_equal(files_of(lake, "quiet", 6), files_of(lake, "busy", 6))


def test_micro_batches_affect_only_rounding(lake: Lake) -> None:
    for size in (8, 2, 5):
        train(make_spec(lake, f"micro-{size}", steps=3, dropout=0.0, micro_batch_size=size), Events())
    one = files_of(lake, "micro-8", 3)
    for size in (2, 5):
        other = files_of(lake, f"micro-{size}", 3)
        assert all(torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in one.items())


def test_a_damaged_checkpoint_is_passed_over(lake: Lake) -> None:
    train(make_spec(lake, "whole", steps=8, keep_last=9), Events())
    train(make_spec(lake, "b", steps=8, keep_last=9), Events(), after_steps(6))
    newest = Path(lake.path("checkpoints", "b", "step-00000006"))
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    (
        Path(lake.path("checkpoints", "b", "step-00000004")) / "state.json"
    ).unlink()  # as if the process was killed while saving
    events = Events()
    train(make_spec(lake, "b", steps=8, keep_last=9), events)
    first, second = (event["message"] for event in events.of("warning"))
    assert "step-00000006/model.safetensors" in first
    assert "sha256" in first
    assert "step-00000004/state.json" in second
    assert [event["step"] for event in events.of("resumed")] == [2]
    assert_bit_equal(files_of(lake, "whole", 8), files_of(lake, "b", 8))


def test_damaged_newer_checkpoints_do_not_count_among_those_kept(lake: Lake) -> None:
    train(make_spec(lake, steps=8, keep_last=2), Events(), after_steps(6))
    (Path(lake.path("checkpoints", "a", "step-00000006")) / "optimizer.safetensors").write_bytes(b"")
    train(make_spec(lake, steps=8, keep_last=1), Events(), after_steps(1))
    assert checkpoint.check(lake, "a", 5).step == 5
    assert 6 not in checkpoint.steps(lake, "a")


def test_damaged_older_checkpoints_do_not_count_among_those_kept(lake: Lake) -> None:
    """Otherwise they would displace the intact checkpoint that the run resumed from."""
    settings: dict[str, Any] = {"steps": 6, "checkpoint_every": 3, "keep_last": 3}
    for count in (4, 1):
        train(make_spec(lake, **settings), Events(), after_steps(count))
    assert checkpoint.steps(lake, "a") == [3, 4, 5]
    for step in (4, 5):
        Path(lake.path("checkpoints", "a", checkpoint.step_name(step), "optimizer.safetensors")).write_bytes(b"")
    summary = train(make_spec(lake, **{**settings, "keep_last": 2}), Events())
    assert summary.best_step == 6
    assert checkpoint.steps(lake, "a") == [3, 6]


def test_a_finished_run_is_left_alone_until_it_gets_more_steps(lake: Lake) -> None:
    summary = train(make_spec(lake, steps=4), Events())
    before = {path: path.stat().st_mtime_ns for path in Path(lake.path("checkpoints", "a")).rglob("step-*/*")}
    for steps in (4, None):  # None: as many steps as the run began with, not the preset's
        assert train(make_spec(lake, steps=steps), Events()) == dataclasses.replace(summary, skipped=True)
    assert before == {path: path.stat().st_mtime_ns for path in Path(lake.path("checkpoints", "a")).rglob("step-*/*")}
    longer = train(make_spec(lake, steps=6), Events())
    assert (longer.steps, longer.skipped) == (6, False)


def test_the_last_and_periodic_and_best_checkpoints_are_kept(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last two, every eighth step and the best, which comes early here. This holds across a restart too."""
    monkeypatch.setattr(Trainer, "validate", lambda self, *_: (1.0 + abs(self.step - 4), 1))
    settings: dict[str, Any] = {"steps": 20, "keep_last": 2, "keep_every": 8}
    train(make_spec(lake, **settings), Events(), after_steps(13))
    assert checkpoint.steps(lake, "a") == [4, 8, 12, 13]
    summary = train(make_spec(lake, **settings), Events())
    assert (summary.best_step, summary.best_val_loss) == (4, 1.0)
    assert checkpoint.steps(lake, "a") == [4, 8, 16, 18, 20]


def test_validation_reads_val_sequences_windows(lake: Lake) -> None:
    held_out = len(open_corpus(lake, ("2026-10",), Path(lake.base).parent / "cache").val)
    for count in (1, 3):
        events = Events()
        train(make_spec(lake, f"windows-{count}", steps=2, val_every=1, val_sequences=count), events)
        tokens = sum(length for _, length in val_windows(held_out, 16, count))
        assert [event["tokens"] for event in events.of("val")] == [tokens] * 2
        assert tokens <= count * 16 < held_out


def test_one_batch_is_learnt_by_heart(tmp_path: Path) -> None:
    """A corpus of one batch of random tokens is learnt by heart."""
    lake = Lake(tmp_path / "lake")
    tokens = np.random.default_rng(0).integers(0, 64, 8 * 16).astype(np.uint16)
    publish_tokens(lake, "2026-10", [[tokens]], [[tokens]])
    settings: dict[str, Any] = {"width": 32, "dropout": 0.0, "learning_rate": 1e-2, "weight_decay": 0.0}
    summary = train(make_spec(lake, steps=200, checkpoint_every=200, val_every=200, **settings), Events())
    assert summary.first_loss == pytest.approx(math.log(64), abs=0.1)
    assert summary.train_loss < 0.2


def test_other_settings_are_refused(lake: Lake) -> None:
    train(make_spec(lake, steps=2), Events())
    with pytest.raises(InputError, match=r"begun with other settings \(learning_rate: 0.003 -> 0.1\)"):
        train(make_spec(lake, steps=4, learning_rate=0.1), Events())
    publish_tokens(lake, "2026-11", [documents(20, 9)], [documents(3, 10)])
    other = TrainSpec.from_json({**make_spec(lake, steps=4).to_json(), "corpus": ["2026-10", "2026-11"]}, "x")
    with pytest.raises(InputError, match="corpus: '"):
        train(other, Events())
    assert checkpoint.steps(lake, "a") == [2]


def test_a_corpus_with_another_vocabulary_is_refused(lake: Lake) -> None:
    with pytest.raises(
        InputError, match="has tokenizer sixty-four and ids up to 63, the model has gpt2 and a vocabulary of 50257"
    ):
        train(make_spec(lake, tokenizer="gpt2", vocab_size=50_257), Events())
    with pytest.raises(InputError, match="the model has sixty-four and a vocabulary of 60"):
        train(make_spec(lake, vocab_size=60), Events())
    assert not lake.exists("checkpoints", "a")


def test_a_checkpoint_with_another_vocabulary_is_refused(lake: Lake) -> None:
    train(make_spec(lake, steps=2), Events())
    with pytest.raises(InputError, match=r"its tokenizer is sixty-four \(64 tokens\), not gpt2"):
        checkpoint.load_model(lake, "a")
    model, state = checkpoint.load_model(lake, "a", tokenizer="sixty-four")
    assert (state.step, model.training) == (2, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 100_000}, "too few for one sample of context=100000"),
    ],
)
def test_impossible_settings_are_refused(lake: Lake, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(make_spec(lake, **settings), Events())
    assert not lake.exists("checkpoints", "a")


def test_an_unknown_device_is_refused(lake: Lake) -> None:
    for device in ("cuda:99", "abacus", "meta"):
        spec = TrainSpec.from_json({**make_spec(lake).to_json(), "device": device}, "x")
        with pytest.raises(InputError, match=f"--device {device}"):
            train(spec, Events())


def test_divergence_stops_before_the_update(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    train(make_spec(lake, steps=4), Events(), after_steps(3))
    before = files_of(lake, "a", 3)
    load = checkpoint.restore

    def poisoned(*arguments: Any) -> None:
        load(*arguments)
        with torch.no_grad():
            arguments[2].named["ln.weight"][0] = math.inf

    monkeypatch.setattr(checkpoint, "restore", poisoned)
    with pytest.raises(FailedStepError, match=r"step 4: loss nan.*samples 24 to 31"):
        train(make_spec(lake, steps=4), Events())
    monkeypatch.undo()
    assert checkpoint.steps(lake, "a")[-1] == 3
    assert_bit_equal(before, files_of(lake, "a", 3))
    assert train(make_spec(lake, steps=4), Events()).steps == 4


def test_a_checkpoint_that_cannot_be_written_is_an_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    train(make_spec(lake, steps=4), Events(), after_steps(1))
    monkeypatch.setattr(Lake, "publish_directory", full)
    with pytest.raises(
        InputError, match=r"step-00000002 cannot be written.*No space left.*goes on from the checkpoint"
    ):
        train(make_spec(lake, steps=4), Events())
    assert checkpoint.steps(lake, "a") == [1]


def test_a_second_process_of_a_run_waits_and_is_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.runs.LOCK_WAIT_S", 1.5)
    events = Events()
    with lake.lock("checkpoints-a"), pytest.raises(InputError, match="another webtext process"):
        train(make_spec(lake), events)
    (warning,) = events.of("warning")
    assert "waiting for it to end" in warning["message"]


def test_killed_and_stopped_processes_resume_to_the_same_bits(lake: Lake) -> None:
    """kill -9, later SIGTERM, then the rest; compared with one process without a restart."""
    steps = 400  # more lines than a pipe holds, so an unread process cannot reach its end
    settings: dict[str, Any] = {"steps": steps, "checkpoint_every": 40, "val_every": 100, "keep_last": 2}
    whole = run_process(lake, make_spec(lake, "whole", **settings))
    parts = run_process(lake, make_spec(lake, "parts", **settings))
    for number, at_step in ((signal.SIGKILL, 50), (signal.SIGTERM, 60)):
        assert parts.stdout is not None
        for line in parts.stdout:
            event = json.loads(line)
            if event["event"] == "step" and event["step"] >= at_step:
                parts.send_signal(number)
                break
        rest, _ = parts.communicate()
        if number == signal.SIGTERM:
            assert parts.returncode == 0
            stopped = json.loads(rest.splitlines()[-1])
            assert stopped["event"] == "stopped"
            assert checkpoint.steps(lake, "parts")[-1] == stopped["step"]
        else:
            assert parts.returncode == -signal.SIGKILL
        parts = run_process(lake, make_spec(lake, "parts", **settings))
    for process in (whole, parts):
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out.splitlines()[-1])["event"] == "done"
    assert_bit_equal(files_of(lake, "whole", steps), files_of(lake, "parts", steps))


def test_a_stopping_run_has_time_to_finish_a_step_and_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default torchrun kills its processes after 30 s."""
    found: list[list[str]] = []
    monkeypatch.setattr("torch.distributed.run.main", found.append)
    monkeypatch.setattr("model.launch.die_with_parent", lambda _: None)
    monkeypatch.setattr("sys.argv", ["launch", "--spec", "spec.json", "--processes", "2"])
    monkeypatch.setenv(launch.ENDED, "restored at the end")
    launch.main()
    options = get_args_parser().parse_args(found[0])
    assert (options.nproc_per_node, options.shutdown_timeout) == ("2", launch.STOP_GRACE_S)
    assert launch.STOP_GRACE_S >= 600


def test_one_process_is_alone_whatever_a_cluster_says_about_processes(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    process = run_process(lake, make_spec(lake, steps=2), program="model.launch")
    out, err = process.communicate()
    assert process.returncode == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert (events[0]["event"], events[0]["processes"], events[-1]["event"]) == ("start", 1, "done")


def test_a_process_saves_and_exits_when_its_supervisor_dies(lake: Lake) -> None:
    process = run_process(lake, make_spec(lake, steps=100_000, checkpoint_every=100_000, val_every=100_000))
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "start"
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    (step,) = checkpoint.steps(lake, "a")
    assert 0 < step < 100_000
    assert checkpoint.check(lake, "a", step).step == step


STEADY = {"schedule": "wsd", "final_lr_share": 1.0}  # a shorter run has the same learning rates


@dataclasses.dataclass(frozen=True)
class Pair:
    """What two processes have trained in one launch: "two" from its beginning, and the middle of "parts"."""

    lake: Lake
    begun: list[dict[str, Any]]  # the first share of "parts", in one process
    by_two: Reported  # by run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    lake = make_lake(tmp_path_factory.mktemp("pair") / "lake")
    begun = train_all(lake, [make_spec(lake, "parts", 3, **STEADY)], processes=1)["parts"]
    specs = [make_spec(lake, "two", 4, dropout=0.1), make_spec(lake, "parts", 6, **STEADY)]
    return Pair(lake, begun, train_all(lake, specs, processes=2))


def test_two_processes_equal_one_with_accumulation(pair: Pair) -> None:
    """With dropout: masks are keyed by sample, so two processes draw the same ones as two micro-batches of one."""
    events = Events()
    train(make_spec(pair.lake, "one", 4, dropout=0.1), events)
    lines = pair.by_two["two"]
    losses = {line["step"]: line["loss"] for line in lines if line["event"] == "step"}
    assert next(line for line in lines if line["event"] == "start")["processes"] == 2
    assert losses == pytest.approx(events.losses(), abs=1e-6)
    one = files_of(pair.lake, "one", 4)
    other = files_of(pair.lake, "two", 4)
    assert all(torch.allclose(tensor, other[name], atol=1e-5) for name, tensor in one.items())


def test_a_run_may_change_its_number_of_processes(pair: Pair) -> None:
    """With dropout; the losses equal the losses of one process without a restart."""
    whole = Events()
    train(make_spec(pair.lake, "whole", **STEADY), whole)
    last = Events()
    train(make_spec(pair.lake, "parts", 8, **STEADY), last)
    losses: dict[int, float] = {}
    for begin, processes, lines in ((0, 1, pair.begun), (3, 2, pair.by_two["parts"]), (6, 1, last.all)):
        assert next(line for line in lines if line["event"] == "start")["processes"] == processes
        assert [line["step"] for line in lines if line["event"] == "resumed"] == ([begin] if begin else [])
        losses |= {line["step"]: line["loss"] for line in lines if line["event"] == "step"}
    assert losses == pytest.approx(whole.losses(), abs=1e-5)


IN_FP64 = [("ddp", 0.0, 3), ("ddp", 0.1, 2), ("fsdp", 0.0, 2)]


@dataclasses.dataclass(frozen=True)
class InFp64:
    lake: Lake
    by_processes: dict[int, Reported]


@pytest.fixture(scope="module")
def in_fp64(tmp_path_factory: pytest.TempPathFactory) -> InFp64:
    """Runs of one process and runs of two, all cases in one launch each."""
    lake = make_lake(tmp_path_factory.mktemp("fp64") / "lake")
    found = {}
    for processes in (1, 2):
        specs = []
        for parallel, dropout, micro in IN_FP64:
            settings: dict[str, Any] = {"precision": "float32", "dropout": dropout, "micro_batch_size": micro}
            settings |= {"parallel": parallel} if processes == 2 else {}
            specs.append(make_spec(lake, f"{parallel}-{dropout}-{micro}-by-{processes}", 4, **settings))
        found[processes] = train_all(lake, specs, processes=processes, precision="fp64")
    return InFp64(lake, found)


@pytest.mark.parametrize(("parallel", "dropout", "micro"), IN_FP64)
def test_two_processes_in_fp64_equal_one(in_fp64: InFp64, parallel: str, dropout: float, micro: int) -> None:
    """To 1e-12, also when eight sequences are cut into micro-batches of 3, 3 and 2. Dropout masks belong to these."""
    one, two = (f"{parallel}-{dropout}-{micro}-by-{processes}" for processes in (1, 2))
    losses = []
    for processes, run in ((1, one), (2, two)):
        lines = in_fp64.by_processes[processes][run]
        assert next(line for line in lines if line["event"] == "start")["processes"] == processes
        losses.append([line["loss"] for line in lines if line["event"] == "step"])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], abs=1e-12)
    expected = files_of(in_fp64.lake, one, 4)
    if parallel == "fsdp":
        weights = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
        folder = Path(in_fp64.lake.path("checkpoints", two, checkpoint.step_name(4)))
        load_shards(weights, folder, alone=True)
    else:
        weights = files_of(in_fp64.lake, two, 4)
    for name, tensor in expected.items():
        assert tensor.dtype == torch.float64 or name.endswith("/step")
        assert torch.allclose(tensor, weights[name], atol=1e-12, rtol=0), name


def test_bad_input_is_one_line_and_exit_code_2(lake: Lake) -> None:
    process = run_process(lake, make_spec(lake, context=100_000))
    out, err = process.communicate()
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert json.loads(out.splitlines()[-1])["event"] == "error"


def test_validation_counts_every_token_once(lake: Lake) -> None:
    """Compared with the plain sum over positions; the last window is shorter than the others."""
    runner = trainer_of(lake, val_sequences=0, dropout=0.0)
    corpus = runner.corpus
    loss, tokens = runner.validate()
    context = runner.sampler.context
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(corpus.val) - 1, context):
            window = torch.from_numpy(corpus.val[start : start + context + 1].astype(np.int64))
            log_p = runner.model(window[None, :-1])[0].log_softmax(1)
            total -= float(log_p.gather(1, window[1:, None]).sum())
    assert (len(corpus.val) - 1) % context != 0
    assert tokens == len(corpus.val) - 1
    assert loss == pytest.approx(total / tokens, rel=1e-6)


def test_optimizer_state_is_stored_by_parameter_name(lake: Lake) -> None:
    runner = trainer_of(lake)
    runner.train_step()
    names = {name for name, _ in runner.model.named_parameters()}
    found = state_tensors(runner.weights.named, runner.optimizers)
    assert found.keys() == {f"{name}/{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}
