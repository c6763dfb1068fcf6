"""How many positions a pass without gradients holds, and what happens when memory runs out: torch's allocator fails."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from data.lake.store import Lake
from model import capacity, gpt2, scoring
from model.capacity import Capacity, Need, choose
from model.config import PRESETS, ModelConfig
from model.failure import FailedStepError
from model.gpt2 import GPT2
from model.loss import head_loss
from model.scoring import Request, Score, capacity_for, score
from tests.model.halving import HOLDS, hold
from tests.model.lakes import documents, make_lake, make_spec, publish_tokens
from tests.model.running import needs_bf16, run_process, trainer_of

CPU = torch.device("cpu")
LARGE = PRESETS["124M"].model
PARAMETERS = 124_439_808


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path / "lake")


def test_the_bytes_of_a_position_follow_from_shape_and_precision() -> None:
    autocast = Need.of(LARGE, PARAMETERS, "autocast")
    # 3 streams in fp32 and 9 bf16 numbers, times the width; bf16 logits and their softmax; head and weights in bf16
    assert (autocast.hidden, autocast.logits) == (768 * (12 + 18), 50_257 * 6)
    assert autocast.fixed == 2 * 50_257 * 768 + 2 * PARAMETERS
    for precision in ("float32", "tf32"):
        need = Need.of(LARGE, PARAMETERS, precision)
        assert (need.hidden, need.logits, need.fixed) == (768 * 48, 50_257 * 8, 4 * 50_257 * 768)
    bfloat16 = Need.of(LARGE, PARAMETERS, "bfloat16")
    assert (bfloat16.hidden, bfloat16.logits, bfloat16.fixed) == (768 * 24, 50_257 * 6, 2 * 50_257 * 768)


def test_what_fits_follows_from_the_free_memory() -> None:
    need = Need.of(LARGE, PARAMETERS, "autocast")
    assert need.fitting(4 << 30) == 9_581  # (0.8 x 4 GiB - 326 MB) / 325 kB
    assert need.of_pass(9_581) <= 0.8 * (4 << 30) < need.of_pass(9_582)
    assert need.fitting(60 << 30) == capacity.CUDA_MOST
    assert need.fitting(1 << 20) == 1  # less than the copies take: the pass itself finds out
    scoring = Need.of(LARGE, PARAMETERS, "float32", rows=4_096)
    assert scoring.fitting(1 << 30) == 1_605  # (0.8 GiB - 154 MB) / 439 kB: fewer than 4,096, so all logits are held
    assert scoring.fitting(2 << 30) < 4_096
    assert scoring.fitting(3 << 30) == 21_044  # (2.4 GiB - 154 MB - 4,096 x 402 kB) / 37 kB
    assert scoring.of_pass(21_044) <= 0.8 * (3 << 30) < scoring.of_pass(21_045)


def test_the_default_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    need = Need.of(LARGE, PARAMETERS, "autocast")
    assert choose("auto", CPU, need, 1_024, 16_384) == 1_024
    assert choose("auto", torch.device("mps"), need, 1_024, 16_384) == 16_384
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5 << 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2 << 30)
    assert choose("auto", torch.device("cuda"), need, 1_024, 16_384) == need.fitting(4 << 30)
    for device in ("cpu", "mps", "cuda"):
        assert choose(7, torch.device(device), need, 1_024, 16_384) == 7


def peak_bytes(compute: Callable[[], object]) -> int:
    """The most that torch had allocated at once while it computed, from its own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_a_pass_allocates_what_is_estimated(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend(qkv: Tensor, _: float) -> Tensor:  # as on a GPU
        return F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)

    monkeypatch.setattr(gpt2, "attend", attend)
    monkeypatch.setattr(gpt2, "gelu", functools.partial(F.gelu, approximate="tanh"))
    model = GPT2(ModelConfig(layers=2, heads=4, width=128, context=64, vocab_size=512)).eval()
    model = model.bfloat16() if precision == "bfloat16" else model
    need = Need.of(model.config, sum(weight.numel() for weight in model.parameters()), precision)
    ids = torch.zeros(64, 64, dtype=torch.long)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        hidden = model.hidden(ids)
        of_hidden = peak_bytes(lambda: model.hidden(ids))
        of_head = peak_bytes(lambda: head_loss(hidden.flatten(0, 1), model.tokens.weight, ids.flatten()))
        of_both = peak_bytes(lambda: model.loss(ids, ids))
    copies = need.fixed if precision == "autocast" else 0
    assert 0.85 < of_hidden / (copies + ids.numel() * need.hidden) <= 1.001
    assert 0.3 < of_head / (need.fixed + ids.numel() * need.logits) <= 1.001  # on a CPU the softmax of 16 rows only
    assert of_both <= need.of_pass(ids.numel())


def petabyte() -> Tensor:
    return torch.empty(1 << 50, dtype=torch.uint8)


def test_a_capacity_is_halved_until_the_pass_fits() -> None:
    messages: list[str] = []
    found = Capacity(100, CPU, "scoring", "--batch-tokens ", "buy memory", messages.append)
    assert found.rows(30) == 3
    assert found.attempt(3, 30, lambda: 7) == 7
    assert found.tokens == 100
    assert found.attempt(3, 30, petabyte) is None
    assert (found.tokens, found.rows(30)) == (45, 1)  # half of the pass, which is less than half of the capacity
    assert len(messages) == 1
    assert messages[0].startswith("scoring ran out of memory with 90 positions in one pass (")
    assert messages[0].endswith("); it goes on with at most 45, which --batch-tokens 45 chooses from the start")
    with pytest.raises(FailedStepError, match=r"with 30 positions in one pass \(.*, which cannot be divided: buy mem"):
        found.attempt(1, 30, petabyte)
    assert found.rows(1_000) == 1
    together = Capacity(100, CPU, "the validation", "--set val_batch_tokens=", "", messages.append, can_shrink=False)
    with pytest.raises(FailedStepError, match="; set fewer with --set val_batch_tokens=45") as error:
        together.attempt(3, 30, petabyte)
    assert error.value.kind == "out_of_memory"
    assert len(messages) == 1


def test_other_errors_are_not_tried_again() -> None:
    def wrong() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        Capacity(100, CPU, "scoring", "", "").attempt(2, 8, wrong)


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bf16)])
def test_a_validation_goes_on_in_smaller_passes(lake: Lake, precision: str) -> None:
    """240 tokens in windows of 16: the loss is the same, and the next validation begins with what fitted."""
    settings = {"val_sequences": 0, "precision": precision}
    expected = trainer_of(lake, **settings).validate()
    runner = trainer_of(lake, **settings, val_batch_tokens=200)
    passes = hold(runner.model, HOLDS)
    messages: list[str] = []
    loss, tokens = runner.validate(messages.append)
    assert passes[:3] == [192, 96, 48]
    assert max(passes[3:]) <= HOLDS
    assert sum(passes[3:]) == tokens == expected[1] == len(runner.corpus.val) - 1
    assert loss == pytest.approx(expected[0], rel=1e-6 if precision == "float32" else 1e-3)
    halves = [message.partition("it goes on with at most ")[2].partition(",")[0] for message in messages]
    assert halves == ["96", "48", "24"]
    assert runner.validate(messages.append) == (loss, tokens)
    assert len(messages) == 3


def test_a_window_that_does_not_fit_ends_the_validation(lake: Lake) -> None:
    runner = trainer_of(lake)
    hold(runner.model, 15)
    with pytest.raises(
        FailedStepError, match=r"the validation .* with 16 positions .*: free memory on the device"
    ) as e:
        runner.validate()
    assert e.value.kind == "out_of_memory"


def test_one_of_two_processes_halves_its_passes(lake: Lake) -> None:
    """The other one says so, computes its own share as before, and the loss is that of one process."""
    settings: dict[str, Any] = {"precision": "float32", "val_sequences": 0, "dropout": 0.0, "val_batch_tokens": 64}
    out, err = run_process(lake, make_spec(lake, steps=1, warmup_steps=0, **settings)).communicate()
    (alone,) = [event for event in map(json.loads, out.splitlines()) if event["event"] == "val"]
    spec = make_spec(lake, "two", steps=1, warmup_steps=0, **settings)
    out, err = run_process(lake, spec, processes=2, program="tests.model.halving").communicate()
    events = [json.loads(line) for line in out.splitlines()]
    (both,) = [event for event in events if event["event"] == "val"]
    assert both["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-6), err
    assert both["tokens"] == alone["tokens"]
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert warnings == ["another process ran out of memory: the validation goes on with at most 32 positions"]


def test_processes_that_compute_together_say_which_setting_helps(lake: Lake) -> None:
    settings: dict[str, Any] = {"parallel": "fsdp", "precision": "float32", "val_batch_tokens": 64}
    spec = make_spec(lake, steps=1, warmup_steps=0, **settings)
    process = run_process(lake, spec, processes=2, program="tests.model.halving")
    out, err = process.communicate()
    assert process.returncode == 1
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    messages = [event["message"] for event in events if event["event"] == "error"]
    assert any("; set fewer with --set val_batch_tokens=32" in message for message in messages), err


SMALL = ModelConfig(layers=2, heads=2, width=16, context=12, vocab_size=31, position_std=0.5)


def requests(count: int) -> list[Request]:
    """All are cut to the model's context of 12, and begin with other tokens."""
    random = np.random.default_rng(0)
    return [
        Request(random.integers(0, 31, random.integers(12, 20)).tolist(), random.integers(0, 31, n).tolist())
        for n in random.integers(1, 8, count)
    ]


def assert_same(found: list[Score], expected: list[Score]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=2e-5)
        assert one.n_dropped == other.n_dropped
        np.testing.assert_array_equal(one.is_likeliest, other.is_likeliest)


def test_scoring_goes_on_in_smaller_batches() -> None:
    """Every request is scored once, in the order of the requests."""
    torch.manual_seed(3)
    model = GPT2(SMALL)
    asked = requests(50)
    expected = score(model, asked)
    messages: list[str] = []
    done: list[int] = []
    passes = hold(model, HOLDS)
    found = score(model, asked, on_done=done.append, capacity=capacity_for(model, 300, messages.append))
    assert_same(found, expected)
    assert passes[:3] == [300, 144, 72]  # rows of 12
    assert max(passes[3:]) <= HOLDS
    assert len(messages) == 3
    assert "--batch-tokens 36 chooses from the start" in messages[-1]
    assert done == sorted(set(done))
    assert (len(done), done[-1]) == (len(passes) - 3, 50)
    hold(model, 11)
    with pytest.raises(FailedStepError, match=r"scoring .* 12 positions .*: score it with --device cpu, or on a"):
        score(model, asked)


@pytest.mark.parametrize("is_padded", [False, True])
def test_requests_that_are_packed_together_are_divided_if_they_do_not_fit(
    is_padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_is_padded", lambda _: is_padded)
    torch.manual_seed(3)
    model = GPT2(SMALL)
    asked = [Request([1, 2, 3, 4, 5, 6], [choice, 7, 8, 9]) for choice in range(10)]
    expected = score(model, asked)
    messages: list[str] = []
    passes = hold(model, 20)
    assert_same(score(model, asked, capacity=capacity_for(model, 300, messages.append)), expected)
    assert passes == [36, 18, 18, 12]  # 6 + 10 x 3 positions, then at most 6 + 4 x 3
    assert len(messages) == 1


def limited(program: str, *arguments: str, megabytes: int) -> subprocess.CompletedProcess[str]:
    """Run a program whose ``limit()`` allows that much more memory from then on, so that torch's allocator fails."""
    limit = (
        "import json, resource, sys\n"
        "from model import evaluate, train, hf, world\n"
        "world.keep_freed_memory = lambda: None\n"
        "def limit():\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"    resource.setrlimit(resource.RLIMIT_AS, (used + ({megabytes} << 20),) * 2)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", limit + program, *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_a_validation_survives_a_real_lack_of_memory(tmp_path: Path) -> None:
    """The logits of 100,000 positions over 4,096 words are 1.6 GB, and the process may use 600 MB more."""
    lake = Lake(tmp_path / "lake")
    publish_tokens(lake, "2026-10", [documents(40, 1)], [documents(2_500, 2)])
    settings = {"vocab_size": 4_096, "precision": "float32", "val_sequences": 0, "steps": 1, "warmup_steps": 0}
    expected = trainer_of(lake, **settings)
    spec = make_spec(lake, **settings, val_batch_tokens=1 << 20)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_json()))
    done = limited("limit(); sys.exit(train.main(['--spec', sys.argv[1]]))", str(path), megabytes=600)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert [message.partition(" positions")[0] for message in warnings[:1]] == [
        f"the validation ran out of memory with {(len(expected.corpus.val) - 1) // 16 * 16:,}"
    ]
    assert "allocate" in warnings[0]
    expected.train_step()
    loss, tokens = expected.validate()
    (val,) = [event for event in events if event["event"] == "val"]
    assert val["tokens"] == tokens == len(expected.corpus.val) - 1
    assert val["val_loss"] == pytest.approx(loss, rel=1e-5)


def test_scoring_survives_a_real_lack_of_memory() -> None:
    """The feed-forward layers of 2,000 requests of 64 tokens take 720 MB at width 128, and the process may use 400."""
    program = """
import numpy, torch
from model.config import ModelConfig
from model.gpt2 import GPT2
from model.scoring import Request, capacity_for, score
torch.set_num_threads(1)
torch.manual_seed(0)
model = GPT2(ModelConfig(layers=1, heads=1, width=128, context=64, vocab_size=97))
tokens = numpy.random.default_rng(0).integers(0, 97, (2_000, 65))
asked = [Request(row[:64], row[64:]) for row in tokens.tolist()]
expected = score(model, asked)
limit()
messages = []
found = score(model, asked, capacity=capacity_for(model, 1 << 20, messages.append))
worst = max(abs(one.log_likelihood - other.log_likelihood) for one, other in zip(found, expected, strict=True))
print(json.dumps([worst, messages]))
"""
    done = limited(program, megabytes=400)
    assert done.returncode == 0, done.stderr
    worst, messages = json.loads(done.stdout)
    assert worst < 1e-5
    assert messages[0].startswith("scoring ran out of memory with 128,000 positions in one pass (")
    assert "allocate" in messages[0]
