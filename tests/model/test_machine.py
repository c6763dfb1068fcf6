"""What automatic settings mean on a machine: micro-batches from a stated memory, and compiling where it works."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import InputError
from model import compiling, world
from model.config import PRESETS, ModelConfig, TrainConfig, resolve
from model.gpt2 import count_parameters
from model.machine import settle
from model.memory import MARGIN, estimate_for, largest_micro_batch
from model.world import World

GPU = torch.device("cuda", 0)
GB = 10**9


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Settings as a GPU with so much free and total memory would get them."""

    def settle_with(
        free: float, total: float, preset: str, begun: dict[str, Any] | None = None, processes: int = 1, **changes: Any
    ) -> tuple[TrainConfig, tuple[str, ...]]:
        monkeypatch.setattr(world, "memory_of", lambda _: (int(free * GB), int(total * GB)))
        monkeypatch.setattr(compiling, "why_not", lambda _: None)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
        peers = World(0, processes, GPU)
        monkeypatch.setattr(World, "least", lambda _, value: value)
        config = dataclasses.replace(PRESETS[preset].train, **changes)
        return settle(PRESETS[preset].model, config, peers, begun)

    return settle_with


@pytest.mark.parametrize("preset", ["124M", "355M", "774M", "1558M"])
@pytest.mark.parametrize("free", [40, 80, 141])
def test_an_automatic_micro_batch_is_the_largest_that_the_estimate_allows(gpu: Any, preset: str, free: int) -> None:
    config, notes = gpu(free, free, preset)
    assert (config.precision, config.compile, notes) == ("bfloat16", True, ())
    size = config.micro_batch_size
    assert config.batch_size % size == 0
    model = PRESETS[preset].model
    parameters = count_parameters(model)
    usable = (1 - MARGIN) * free * GB
    assert estimate_for(model, config, parameters, size, 1).total <= usable
    larger = next(n for n in range(size + 1, 513) if config.batch_size % n == 0)
    has_too_many_logits = larger * model.context * model.vocab_size > 2**31
    assert has_too_many_logits or estimate_for(model, config, parameters, larger, 1).total > usable


def test_more_memory_never_makes_a_micro_batch_smaller() -> None:
    model = PRESETS["355M"].model
    config = dataclasses.replace(PRESETS["355M"].train, precision="autocast", compile=True)
    parameters = count_parameters(model)
    sizes = [largest_micro_batch(model, config, parameters, 1, gb * GB) for gb in range(1, 400, 7)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 32), "the next divisor of 512 has more than 2^31 logits"
    few = dataclasses.replace(config, batch_size=64)
    assert largest_micro_batch(model, few, parameters, 8, 10_000 * GB) == 8, "a process's share of the batch"


def test_a_share_without_a_fitting_divisor_is_cut_unevenly() -> None:
    model = PRESETS["124M"].model
    config = dataclasses.replace(PRESETS["124M"].train, precision="autocast", compile=True, batch_size=62)
    parameters = count_parameters(model)
    fits = estimate_for(model, config, parameters, 10, 1).total / (1 - MARGIN)
    assert largest_micro_batch(model, config, parameters, 1, int(fits) + 1) == 10, "its divisors are 1, 2 and 31"


def test_a_gpu_that_other_processes_use_gets_smaller_micro_batches(gpu: Any) -> None:
    alone, _ = gpu(80, 80, "774M")
    shared, notes = gpu(40, 80, "774M")
    assert shared.micro_batch_size < alone.micro_batch_size
    (note,) = notes
    assert "cuda:0 has 40.0 GB free of 80.0 GB, because other processes hold the rest" in note
    assert f"micro_batch_size is {shared.micro_batch_size}" in note


def test_a_model_that_does_not_fit_is_tried_with_advice(gpu: Any) -> None:
    config, (note,) = gpu(24, 24, "1558M")
    assert config.micro_batch_size == 1
    assert "needs about 34.1 GB" in note
    assert "recompute=true" in note


def test_a_resumed_run_keeps_its_micro_batch_where_it_suits(gpu: Any) -> None:
    fresh, _ = gpu(80, 80, "355M")
    assert fresh.micro_batch_size == 32
    for earlier, expected in ((32, 32), (20, 20), (16, 32), (64, 32)):
        begun = {"micro_batch_size": earlier, "precision": "bfloat16"}
        config, _ = gpu(80, 80, "355M", begun)
        assert config.micro_batch_size == expected, earlier
        assert config.precision == "bfloat16"


def test_a_card_without_bfloat16_trains_in_fp32_and_says_so(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.precision_for

    def without_bf16(*arguments: Any) -> Any:
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
        return real(*arguments)

    monkeypatch.setattr(world, "precision_for", without_bf16)
    config, notes = gpu(16, 16, "124M")
    assert config.precision == "float32"
    assert notes == ("precision: cuda:0 has no instructions for bfloat16; fp32 is much slower",)


def test_chosen_settings_are_kept(gpu: Any) -> None:
    config, notes = gpu(10, 80, "355M", micro_batch_size=3, compile=False, precision="float32")
    assert (config.micro_batch_size, config.compile, config.precision, notes) == (3, False, "float32", ())


def test_a_cpu_gets_small_micro_batches_and_no_compiler() -> None:
    for preset, size in (("nano", 8), ("124M", 8)):
        config, notes = settle(PRESETS[preset].model, PRESETS[preset].train, world.join("cpu"))
        assert (config.micro_batch_size, config.compile, notes) == (size, False, ())


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("7", 7), ("1_000", 1000)])
def test_a_micro_batch_is_a_number_or_auto(text: str, value: int | str) -> None:
    assert resolve("nano", {"micro_batch_size": text}).train.micro_batch_size == value


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("micro_batch_size", "most", "micro_batch_size=most: must be a whole number or auto"),
        ("micro_batch_size", "0", "micro_batch_size must be .*got 0"),
        ("compile", "yes", "compile=yes: must be true, false or auto"),
    ],
)
def test_bad_values_say_what_is_allowed(key: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve("nano", {key: text})


def test_without_a_compiler_training_goes_on_and_says_so_once(tmp_path: Path) -> None:
    """No program is on the PATH, so torch finds no compiler."""
    program = (
        "import torch; from model import world, machine; from model.config import *;"
        "model = ModelConfig(1, 1, 8, context=8, vocab_size=64);"
        "settled = [machine.settle(model, TrainConfig(compile=True), world.join('cpu')) for _ in range(2)];"
        "print(settled[0][0].compile, settled[0][1][0])"
    )
    environment = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert done.stdout.startswith("False compile: torch cannot compile for cpu here (")
    assert done.stdout.rstrip().endswith("install a C++ compiler, or say --set compile=false")


def test_a_model_too_small_for_its_share_of_memory_still_gets_one_sequence() -> None:
    model = ModelConfig(layers=1, heads=1, width=8, context=8, vocab_size=64)
    config = dataclasses.replace(TrainConfig(batch_size=4), precision="float32", compile=False)
    assert largest_micro_batch(model, config, 1_000, 1, 0) == 1
