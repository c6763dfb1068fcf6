"""The loss over the head, bfloat16 with fp32 masters, optimizers and schedules."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from data.errors import InputError
from data.lake.store import Lake
from flows.cli import show
from flows.cli.dryrun import train_plan
from model import checkpoint, world
from model.attention import attend
from model.compiling import compile_model
from model.config import ModelConfig, TrainConfig
from model.gelu import PIECE, by_sigmoid, gelu
from model.gpt2 import GPT2
from model.loader import Sampler
from model.loss import head_loss
from model.optim import learning_rate, make_optimizers, state_tensors
from model.train import train
from tests.model.lakes import make_lake, make_spec
from tests.model.running import (
    HAS_BF16,
    Events,
    after_steps,
    assert_bit_equal,
    files_of,
    needs_bf16,
    trainer_of,
)

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("precision") / "lake")


@pytest.fixture(params=["by rows", "kernel"])
def loss_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.Tensor]:
    """Each path of the head's loss, with the padding that a GPU gets."""
    monkeypatch.setattr("model.loss.CPU_MULTIPLE", 64)
    monkeypatch.setattr("model.loss_kernel.PIECE", 64)  # a row has several pieces
    return functools.partial(head_loss, has_kernel=request.param == "kernel")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
@pytest.mark.parametrize("rows", [1, 16, 50])
def test_head_loss_is_cross_entropy(
    loss_of: Callable[..., torch.Tensor], dtype: torch.dtype, tolerance: float, rows: int
) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(rows, 24, dtype=dtype)
    weight = torch.randn(101, 24, dtype=dtype)
    targets = torch.randint(0, 101, (rows,))
    found = []
    for one in (loss_of, lambda h, w, y: F.cross_entropy(h @ w.T, y)):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        loss = one(*leaves, targets)
        (3 * loss).backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == dtype
        assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.allclose(loss_of(hidden, weight, targets), found[0][0], rtol=tolerance)


def test_head_loss_in_bfloat16_is_summed_in_fp32(loss_of: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(64, 32).bfloat16()
    weight = torch.randn(300, 32).bfloat16()
    targets = torch.randint(0, 300, (64,))
    loss = loss_of(hidden, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy((hidden @ weight.T).float(), targets).item(), rel=1e-6)


def test_a_target_far_below_the_other_logits_has_its_full_loss_in_bfloat16() -> None:
    """Its softmax is 0 in fp32, and the log of that would be infinite."""
    hidden = torch.tensor([[1.0], [-1.0]]).bfloat16().requires_grad_()
    weight = torch.tensor([[100.0], [0.0], [-100.0]]).bfloat16().requires_grad_()
    loss = head_loss(hidden, weight, torch.tensor([2, 0]))
    loss.backward()
    assert loss.item() == 200.0
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [1.0, 0.0, -1.0]
    assert hidden.grad is not None
    assert hidden.grad.flatten().tolist() == [100.0, -100.0]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_tied_weight_has_one_gradient_in_bfloat16(recompute: bool) -> None:
    """The gradient of the loss by the token embedding, measured against fp64: the error is rounding."""
    torch.manual_seed(0)
    config = ModelConfig(layers=2, heads=2, width=32, context=64, vocab_size=101)
    narrow = GPT2(config).bfloat16()
    narrow.recompute = recompute
    exact = GPT2(config).double()
    exact.load_state_dict({name: tensor.double() for name, tensor in narrow.state_dict().items()})
    ids = torch.randint(50, (2, 64))  # the others only occur in the head
    ids[:, 32:] = 7
    targets = torch.randint(101, (2, 64))
    for network in (narrow, exact):
        (network.loss(ids, targets) / 3).backward()
    for name in ("tokens.weight", "positions.weight"):
        weight = narrow.get_parameter(name)
        want = exact.get_parameter(name).grad
        assert want is not None
        assert weight.grad is not None
        assert weight.grad.dtype == torch.bfloat16
        assert (weight.grad.double() - want).norm() <= 2e-2 * want.norm(), name


@pytest.mark.parametrize("positions", [1, 7, 128, 300])
def test_attention_in_bfloat16_is_as_accurate_as_torchs(positions: int) -> None:
    """Errors of outputs and gradients, measured against fp64, are at most 1.5 times torch's errors in bfloat16."""
    torch.manual_seed(0)
    inputs = torch.randn(2, positions, 3, 3, 16).bfloat16()
    gradient = torch.randn(2, 3, positions, 16).bfloat16()

    def run(dtype: torch.dtype, attention: Any) -> list[torch.Tensor]:
        leaf = inputs.clone().to(dtype).requires_grad_()
        y = attention(leaf)
        y.backward(gradient.to(dtype))
        assert leaf.grad is not None
        return [y.detach().double(), *leaf.grad.double().unbind(2)]

    def torchs(qkv: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)

    exact = run(torch.float64, torchs)
    theirs = run(torch.bfloat16, torchs)
    ours = run(torch.bfloat16, lambda qkv: attend(qkv, 0.0))
    for want, their, own in zip(exact, theirs, ours, strict=True):
        assert (own - want).norm() <= 1.5 * (their - want).norm() + 1e-3 * want.norm()


@pytest.mark.parametrize(("capability", "prefers"), [((8, 0), False), ((9, 0), True), ((10, 0), False)])
def test_training_prefers_cudnns_attention_on_hopper_only(
    capability: tuple[int, int], prefers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And scoring nowhere. Where cuDNN cannot compute, as here, torch takes the next backend."""
    torch.manual_seed(0)
    qkv = torch.randn(2, 16, 3, 2, 8, requires_grad=True)
    expected = attend(qkv, 0.0)
    orders = []

    def recorded(backends: list[SDPBackend], set_priority: bool) -> Any:
        orders.append((backends[0], set_priority))
        return sdpa_kernel(backends, set_priority)

    monkeypatch.setattr("model.attention.sdpa_kernel", recorded)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    assert torch.equal(attend(qkv, 0.0), expected)
    assert orders == ([(SDPBackend.CUDNN_ATTENTION, True)] if prefers else [])
    with torch.inference_mode():
        assert torch.equal(attend(qkv.detach(), 0.0), expected)
    assert len(orders) == prefers


@pytest.mark.parametrize("function", [gelu, by_sigmoid])
@pytest.mark.parametrize("n", [1, 3 * PIECE])
def test_gelu_in_bfloat16_is_as_accurate_as_torchs(n: int, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Errors of outputs and gradients, measured against fp64, are at most 1.6 times torch's errors in bfloat16.

    The derivative is rounded once more than torch's.
    """
    torch.manual_seed(0)
    values = torch.cat([torch.randn(n) * 2, torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4])]).bfloat16()
    gradient = torch.randn(values.shape).bfloat16()

    def run(dtype: torch.dtype, gelu_of: Any) -> list[torch.Tensor]:
        leaf = values.clone().to(dtype).requires_grad_()
        y = gelu_of(leaf)
        y.backward(gradient.to(dtype))
        assert leaf.grad is not None
        return [y.detach().double(), leaf.grad.double()]

    def torchs(x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh")

    exact = run(torch.float64, torchs)
    theirs = run(torch.bfloat16, torchs)
    ours = run(torch.bfloat16, function)
    for want, their, own in zip(exact, theirs, ours, strict=True):
        assert torch.equal(own[-5:], want[-5:].bfloat16().double())
        assert (own[:-5] - want[:-5]).norm() <= 1.6 * (their[:-5] - want[:-5]).norm() + 1e-3 * want[:-5].norm()
    with torch.no_grad():
        assert torch.equal(function(values), function(values.clone().requires_grad_()).detach())


def test_recomputed_activations_change_nothing(lake: Lake) -> None:
    """With dropout: the second forward pass draws the same masks as the first."""
    kept = trainer_of(lake)
    recomputed = trainer_of(lake, recompute="true")
    passes = {"kept": 0, "recomputed": 0}
    for name, runner in (("kept", kept), ("recomputed", recomputed)):
        for block in runner.model.blocks:
            block.register_forward_pre_hook(lambda *_, name=name: passes.update({name: passes[name] + 1}))
    assert kept.train_step().read() == recomputed.train_step().read()
    assert passes == {"kept": 2 * 2, "recomputed": 2 * 2 * 2}  # two blocks, two micro-batches
    pairs = zip(kept.weights, recomputed.weights, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@needs_bf16
@pytest.mark.slow  # a compiler builds the kernels
@needs_compiler
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bf16)])
def test_compiled_blocks_train_the_same(lake: Lake, precision: str) -> None:
    counters.clear()
    losses = []
    for name in ("false", "true"):
        events = Events()
        settings = {"compile": name, "precision": precision, "dropout": 0.0}
        train(make_spec(lake, f"compile-{precision}-{name}", 4, **settings), events)
        losses.append(events.losses())
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert losses[1] == pytest.approx(losses[0], abs=1e-5 if precision == "float32" else 1e-3)


@pytest.mark.slow  # a compiler builds the kernels
@needs_compiler
def test_all_blocks_share_one_compilation() -> None:
    """More than eight would exceed torch's limit, and the rest would silently not be compiled."""
    counters.clear()
    torch._dynamo.reset()
    model = GPT2(ModelConfig(layers=12, heads=2, width=32, context=16, vocab_size=64, tokenizer="x")).train()
    compile_model(model)
    ids = torch.randint(64, (2, 16))
    for _ in range(2):
        model.loss(ids, ids).backward()
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow  # a compiler builds the kernels
@needs_compiler
def test_the_dry_run_times_the_compilation(capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.reset()
    plan = train_plan("nano", {"compile": "true", "precision": "float32"}, None)
    assert plan.compile_s is not None
    assert plan.compile_s > 0.5
    show.training_plan(plan)
    assert f"compiling: {plan.compile_s:.0f} s in the first step, measured here" in capsys.readouterr().out
    assert train_plan("nano", {}, None).compile_s is None


def test_master_weights_are_fp32_and_the_model_holds_a_copy(lake: Lake) -> None:
    runner = trainer_of(lake, precision="bfloat16")
    for _ in range(3):
        runner.train_step()
    assert {weight.dtype for weight in runner.weights} == {torch.float32}
    for name, copy in runner.model.named_parameters():
        assert copy.dtype == torch.bfloat16
        assert torch.equal(copy, runner.weights.named[name].bfloat16())
        assert copy.grad is None


@needs_bf16
def test_training_in_bfloat16_follows_fp32(lake: Lake) -> None:
    losses = {}
    for precision in ("float32", "bfloat16", "autocast"):
        runner = trainer_of(lake, precision=precision, dropout=0.0, steps=40)
        losses[precision] = [runner.train_step().read().loss for _ in range(40)]
    assert losses["float32"][-1] < losses["float32"][0] - 0.4
    for precision in ("bfloat16", "autocast"):
        assert losses[precision] == pytest.approx(losses["float32"], abs=0.05)


@needs_bf16
def test_gradients_of_micro_batches_are_summed_in_fp32(lake: Lake) -> None:
    """One sample per micro-batch: eight gradients in bfloat16, summed without rounding in between."""
    runner = trainer_of(lake, precision="bfloat16", dropout=0.0, micro_batch_size=1)
    seen: dict[str, torch.Tensor] = {}
    take = runner.weights.take_gradients

    def recording() -> None:
        for name, copy in runner.model.named_parameters():
            assert copy.grad is not None
            seen[name] = seen.get(name, torch.zeros(copy.shape)) + copy.grad.float()
        take()

    runner.weights.take_gradients = recording  # type: ignore[method-assign]
    sums: dict[str, torch.Tensor] = {}
    publish = runner.weights.sum_gradients

    def before_clipping(processes: int) -> None:
        publish(processes)
        sums.update({name: master.grad.clone() for name, master in runner.weights.named.items()})

    runner.weights.sum_gradients = before_clipping  # type: ignore[method-assign]
    runner.train_step()
    assert_bit_equal(seen, sums)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "muon"},
        {"schedule": "wsd"},
        {"recompute": "true"},
        {"batch_warmup_steps": "6", "micro_batch_size": "1"},
        pytest.param({"precision": "bfloat16"}, marks=needs_bf16),
        pytest.param({"precision": "bfloat16", "optimizer": "muon"}, marks=needs_bf16),
        pytest.param({"precision": "autocast"}, marks=needs_bf16),
    ],
    ids=str,
)
def test_a_resumed_run_equals_an_uninterrupted_one(lake: Lake, settings: dict[str, str]) -> None:
    name = "-".join(f"{key}-{value}" for key, value in settings.items())
    whole = Events()
    parts = Events()
    train(make_spec(lake, f"whole-{name}", **settings), whole)
    train(make_spec(lake, f"parts-{name}", **settings), parts, after_steps(3))
    train(make_spec(lake, f"parts-{name}", **settings), parts)
    assert len(parts.of("resumed")) == 1
    assert parts.losses() == whole.losses()
    stored = files_of(lake, f"parts-{name}", 8)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert_bit_equal(files_of(lake, f"whole-{name}", 8), stored)
    assert checkpoint.load_model(lake, f"parts-{name}", tokenizer="sixty-four")[0].tokens.weight.dtype == torch.float32


def test_muon_updates_only_the_matrices_of_the_blocks(lake: Lake) -> None:
    model = GPT2(make_spec(lake).resolve().model)
    weights = dict(model.named_parameters())
    adamw, muon = make_optimizers(weights, TrainConfig(optimizer="muon"))
    names = {weight: name for name, weight in weights.items()}
    in_muon = {names[weight] for group in muon.param_groups for weight in group["params"]}
    in_adamw = {names[weight] for group in adamw.param_groups for weight in group["params"]}
    assert in_muon == {name for name in weights if name.startswith("blocks.") and weights[name].ndim == 2}
    assert in_adamw == weights.keys() - in_muon
    runner = trainer_of(lake, optimizer="muon")
    before = {name: weight.detach().clone() for name, weight in runner.weights.named.items()}
    runner.train_step()
    assert not any(torch.equal(before[name], weight) for name, weight in runner.weights.named.items())
    assert {key.partition("/")[2] for key in state_tensors(runner.weights.named, runner.optimizers)} == {
        *("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
    }


def test_wsd_rises_stays_and_falls() -> None:
    config = TrainConfig(schedule="wsd", steps=100, warmup_steps=10, learning_rate=1.0, decay_share=0.2)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert set(rates[10:80]) == {1.0}
    falls = [later - earlier for earlier, later in itertools.pairwise(rates[79:])]
    assert falls == [pytest.approx(-0.9 / 20)] * 20
    assert rates[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("warmup_steps", [0, 1, 3, 8, 21, 400])
def test_the_batch_grows_by_eighths(warmup_steps: int) -> None:
    config = TrainConfig(batch_size=64, batch_warmup_steps=warmup_steps)
    sizes = [config.batch_at(step) for step in range(500)]
    assert sizes == [64 if step >= warmup_steps else 8 * (1 + 8 * step // warmup_steps) for step in range(500)]
    assert [config.samples_before(step) for step in range(501)] == [0, *itertools.accumulate(sizes)]


def test_growing_batches_use_the_samples_in_order(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = trainer_of(lake, batch_warmup_steps=4, micro_batch_size=1)
    seen: list[int] = []
    batch = Sampler.batch

    def recording(self: Sampler, train: Any, samples: Any) -> Any:
        seen.extend(samples.tolist())
        return batch(self, train, samples)

    monkeypatch.setattr(Sampler, "batch", recording)
    ends = []
    for _ in range(6):
        runner.train_step()
        ends.append(runner.config.samples_before(runner.step))
    assert ends == [1, 4, 9, 16, 24, 32]
    runner.batches.drop()
    assert seen[:32] == list(range(32))
    assert seen[32:] in ([], [32]), "at most one micro-batch is read ahead"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer must be 'adamw' or 'muon', got 'sgd'"),
        ({"schedule": "linear"}, "schedule must be 'cosine' or 'wsd', got 'linear'"),
        ({"parallel": "pipeline"}, "parallel must be 'ddp' or 'fsdp', got 'pipeline'"),
        ({"decay_share": "0"}, "decay_share must be greater than 0, got 0.0"),
        ({"batch_warmup_steps": "4", "batch_size": "12"}, "batch_size must be divisible by 8 to warm up, got 12"),
        ({"learning_rate": "inf"}, "learning_rate must be a finite number, got inf"),
        ({"position_std": "inf"}, "position_std must be a finite number, got inf"),
        ({"learning_rate": "nan"}, "learning_rate must be a finite number, got nan"),
        ({"recompute": "yes"}, "--set recompute=yes: must be true or false"),
    ],
)
def test_bad_settings_are_refused(lake: Lake, settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as error:
        make_spec(lake, **settings).resolve()
    assert message in str(error.value)


def test_bfloat16_with_fsdp_is_refused() -> None:
    with pytest.raises(InputError, match="use --set precision=autocast"):
        TrainConfig(precision="bfloat16", parallel="fsdp")


@needs_bf16
def test_auto_precision_with_fsdp_is_autocast() -> None:
    assert world.precision_for("auto", CPU, "fsdp") == "autocast"


@pytest.mark.parametrize(
    ("parallel", "processes", "precision"),
    [("ddp", 1, "bfloat16"), ("fsdp", 1, "autocast"), ("ddp", 8, "autocast")],
)
def test_auto_precision_on_gpus(parallel: str, processes: int, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
    assert world.precision_for("auto", torch.device("cuda"), parallel, processes) == precision


def test_auto_keeps_the_initial_precision_of_a_run(lake: Lake) -> None:
    """This holds even where auto would now choose another, with fsdp or on another machine."""
    train(make_spec(lake, "auto", 2, precision="float32"), Events())
    events = Events()
    train(make_spec(lake, "auto", 4, precision="auto"), events)
    assert [event["precision"] for event in events.of("start")] == ["float32"]


@needs_bf16
def test_sharding_a_bfloat16_run_is_refused(lake: Lake) -> None:
    train(make_spec(lake, "narrow", 2, precision="auto"), Events())
    with pytest.raises(InputError, match="--set parallel=ddp for one that began with bfloat16"):
        train(make_spec(lake, "narrow", 4, precision="auto", parallel="fsdp"), Events())
    assert checkpoint.steps(lake, "narrow") == [2]


def test_tf32_is_refused_without_a_gpu(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="precision=tf32: cpu has no instructions for it; use --set precision=float32"):
        train(make_spec(lake, "tf32", precision="tf32"), Events())
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    for capability, is_there in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _, found=capability: found)
        if is_there:
            assert world.precision_for("tf32", torch.device("cuda")) == "tf32"
        else:
            with pytest.raises(InputError, match="precision=tf32: cuda has no instructions for it"):
                world.precision_for("tf32", torch.device("cuda"))


def test_products_are_rounded_to_ten_bits_only_with_tf32(lake: Lake) -> None:
    for precision, expected in (("tf32", "high"), ("float32", "highest"), ("tf32", "high"), ("autocast", "highest")):
        trainer_of(lake, precision=precision)
        assert torch.get_float32_matmul_precision() == expected


def test_initial_loss_is_the_same_in_any_precision(lake: Lake) -> None:
    losses = [trainer_of(lake, precision=p).validate()[0] for p in ("float32", *(["bfloat16"] if HAS_BF16 else []))]
    assert all(math.isclose(loss, losses[0], rel_tol=2e-3) for loss in losses)
