"""What a run measures: time, memory, throughput, utilisation."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F

from data.lake.store import Lake
from model.config import PRESETS, ModelConfig
from model.flops import Peak, flop_per_token, known_gpu, measured_peak
from model.gpt2 import GPT2, count_parameters
from model.memory import estimate
from model.telemetry import MAX_EVENTS, PHASES, Meter, Timer, peak_memory_bytes
from model.train import train
from tests.model.lakes import make_lake, make_spec
from tests.model.running import Events, after_steps, run_process


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make_lake(tmp_path / "lake")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_every_moment_belongs_to_one_phase() -> None:
    clock = Clock()
    timer = Timer(torch.device("cpu"), clock)
    for phase, seconds in (("data", 1.0), ("forward", 3.0), ("backward", 4.0), ("forward", 1.0), ("other", 0.5)):
        timer.start(phase)
        clock.now += seconds
    clock.now += 0.5
    shares = timer.shares()
    assert shares == {**dict.fromkeys(PHASES, 0.0), "data": 0.1, "forward": 0.4, "backward": 0.4, "other": 0.1}
    clock.now += 2.0
    assert timer.shares()["other"] == 1.0  # the phase continued
    assert sum(timer.shares().values()) == 0.0  # no time has passed


def test_marks_do_not_accumulate() -> None:
    clock = Clock()
    timer = Timer(torch.device("cpu"), clock)
    for _ in range(3 * MAX_EVENTS):
        for phase in ("data", "forward"):
            timer.start(phase)
            clock.now += 1.0
    assert len(timer._marks) <= MAX_EVENTS
    assert timer.shares()["forward"] == pytest.approx(0.5)


def test_a_run_reports_time_memory_and_utilisation(lake: Lake) -> None:
    events = Events()
    settings: dict[str, Any] = {"steps": 8, "log_every": 2}
    train(make_spec(lake, **settings), events, after_steps(5))
    summary = train(make_spec(lake, **settings), events)
    parameters = summary.parameters
    flop = 6 * parameters + 12 * 2 * 16 * 16
    assert [event["step"] for event in events.of("step")] == [1, 2, 4, 6, 8]
    peak = events.of("start")[0]["peak_flop_per_s"]
    for event in events.of("step"):
        assert event["mfu"] == pytest.approx(event["tokens_per_s"] * flop / peak)
        assert 0 < event["mfu"] < 1
        assert event["grad_norm"] > 0
        assert event["lr"] > 0
        assert event["memory_mb"] > 50
        shares = event["time_shares"]
        assert set(shares) == set(PHASES)
        assert sum(shares.values()) == pytest.approx(1, abs=0.001)
        assert min(shares["data"], shares["forward"], shares["backward"], shares["optimizer"]) > 0
    after_a_checkpoint = events.of("step")[2]["time_shares"]
    before_it = events.of("step")[1]["time_shares"]
    assert after_a_checkpoint["checkpoint"] > before_it["checkpoint"] == 0
    assert "measured: " in summary.peak
    assert summary.mfu == pytest.approx(summary.tokens_per_s * flop / peak)


def test_two_processes_wait_for_their_gradients(lake: Lake) -> None:
    out, err = run_process(lake, make_spec(lake, steps=4, log_every=4), processes=2).communicate()
    lines = [json.loads(line) for line in out.splitlines()]
    shares = [line["time_shares"] for line in lines if line["event"] == "step"]
    assert shares, err
    assert shares[-1]["communication"] > 0
    assert sum(shares[-1].values()) == pytest.approx(1, abs=0.001)


def test_throughput_covers_the_steps_since_the_last_report() -> None:
    meter = Meter(6_000_000, Peak(1e12, "a test"))
    meter.add(1.0, 500)
    meter.add(3.0, 1_500)
    assert meter.read() == {"tokens_per_s": 500.0, "mfu": pytest.approx(500 * 6e6 / 1e12)}
    meter.add(0.5, 1_000)
    assert meter.read()["tokens_per_s"] == 2_000.0


def test_flop_per_token_matches_the_arithmetic() -> None:
    """GPT-2 small: 0.75 GFLOP of products with weights, 0.11 GFLOP of attention at 1,024 positions."""
    model = PRESETS["124M"].model
    assert flop_per_token(model, count_parameters(model)) == 6 * 124_439_808 + 12 * 12 * 768 * 1024


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA L4", 121),
        ("Tesla V100-SXM2-32GB", 125),
        ("AMD Instinct MI300X", 1307),
        ("NVIDIA L40S", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A10", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ],
)
def test_known_gpus_have_their_peak(name: str, tflops: float | None) -> None:
    found = known_gpu(name)
    assert (found and found.flop_per_s / 1e12) == pytest.approx(tflops)


def test_a_slow_first_product_is_not_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's libraries may need seconds to get ready."""
    product = torch.mm
    waits = iter([1.5])
    monkeypatch.setattr("torch.mm", lambda a, b: time.sleep(next(waits, 0.0)) or product(a, b))
    measured_peak.cache_clear()
    peak = measured_peak(torch.device("cpu"), "float32")
    measured_peak.cache_clear()
    assert peak.flop_per_s > 1e9
    assert int(peak.source.split()[1].partition("-")[0]) >= 512


def test_shards_hold_full_gradients_during_accumulation() -> None:
    config = PRESETS["355M"].model
    sizes: dict[str, Any] = {"processes": 8, "is_sharded": True, "is_recomputed": False}
    one, several = (estimate(config, 1_000, 8, "autocast", is_accumulated=is_it, **sizes) for is_it in (False, True))
    assert one.gradients == 1_000 * 4 // 8 + 2 * (50_257 + 1_024) * 1_024
    assert several.gradients == 1_000 * 4 // 8 + 1_000 * 4


def test_the_peak_is_measured_once_and_quickly() -> None:
    measured_peak.cache_clear()
    before = torch.get_rng_state()
    began = time.perf_counter()
    peak = measured_peak(torch.device("cpu"), "float32")
    assert time.perf_counter() - began < 2.0
    assert 1e9 < peak.flop_per_s < 1e14
    assert "product in float32" in peak.source
    assert measured_peak(torch.device("cpu"), "float32") is peak
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("tf32", torch.float32), ("autocast", torch.bfloat16), ("bfloat16", torch.bfloat16)],
)
def test_the_peak_is_measured_in_the_precision_of_the_products(
    precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    product = torch.mm
    monkeypatch.setattr("torch.mm", lambda a, b: found.add(a.dtype) or product(a, b))
    monkeypatch.setattr("model.flops.MEASURE_S", 0.0)
    measured_peak.cache_clear()
    peak = measured_peak(torch.device("cpu"), precision)
    measured_peak.cache_clear()
    assert found == {dtype}
    assert peak.source.endswith(f"product in {str(dtype).removeprefix('torch.')}")


@pytest.mark.parametrize("precision", ["float32", "autocast", "bfloat16"])
def test_estimated_activations_match_what_autograd_keeps(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's attention, as on a GPU. Our attention for the CPU also keeps its softmax."""
    monkeypatch.setattr(
        "model.gpt2.attend",
        lambda qkv, _: F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True),
    )
    config = ModelConfig(layers=3, heads=4, width=128, context=64, vocab_size=500, tokenizer="x")
    model = GPT2(config).train()
    batch = 4
    if precision == "bfloat16":
        model.bfloat16()
    own = {weight.data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(500, (batch, 64))
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        loss = model.loss(ids, ids)
    assert loss.requires_grad
    measured = sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)
    if precision == "autocast":
        measured -= sum(2 * weight.numel() for weight in model.parameters() if weight.ndim == 2)  # casts of weights
        measured += 2 * model.positions.weight.numel()  # positions take part in no product
    found = estimate(config, 1, batch, precision, processes=1, is_sharded=False, is_recomputed=False)
    kept_logits = batch * 64 * 500 * (4 if precision == "float32" else 2)  # the rest exists only during the loss
    assert found.activations + kept_logits == pytest.approx(measured, rel=0.02)
    assert found.logits > kept_logits


def test_peak_memory_covers_what_was_resident() -> None:
    device = torch.device("cpu")
    held = torch.ones(30_000_000)
    resident = psutil.Process().memory_info().rss
    assert held.nbytes < resident * 0.99 <= peak_memory_bytes(device) < psutil.virtual_memory().total
    del held
    assert peak_memory_bytes(device) >= resident * 0.99
