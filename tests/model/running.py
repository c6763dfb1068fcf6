"""Helpers for training in tests: collecting its events, stopping it, reading its files, running it in processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.lake.store import Lake
from model import checkpoint, world
from model.config import TrainSpec
from model.events import EvalEvent, TrainEvent, to_line
from model.loader import open_corpus
from model.machine import settle
from model.trainer import Trainer
from tests.model.lakes import make_spec

HAS_BF16 = world.precision_for("auto", torch.device("cpu")) == "bfloat16"
needs_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this CPU has no instructions for bfloat16")


class Events:
    """Collects events as a supervising process reads them."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def __call__(self, event: TrainEvent | EvalEvent) -> None:
        self.all.append(json.loads(to_line(event)))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for fields in self.all if fields["event"] == event]

    def losses(self) -> dict[int, float]:
        return {fields["step"]: fields["loss"] for fields in self.of("step")}

    def warnings(self) -> list[str]:
        return [fields["message"] for fields in self.of("warning")]


def ignore(event: TrainEvent | EvalEvent) -> None:
    """For tests that do not look at events."""


def after_steps(count: int) -> Callable[[], bool]:
    """Stops training after that many steps of this process."""
    left = iter(range(count - 1))
    return lambda: next(left, None) is None


def files_of(lake: Lake, run: str, step: int) -> dict[str, torch.Tensor]:
    folder = Path(lake.path("checkpoints", run, checkpoint.step_name(step)))
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "optimizer.safetensors")}


def assert_bit_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    differing = [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
    assert differing == []


def trainer_of(lake: Lake, **settings: Any) -> Trainer:
    spec = make_spec(lake, **settings)
    preset = spec.resolve()
    peers = world.join("cpu")
    config, _ = settle(preset.model, dataclasses.replace(preset.train, precision="float32"), peers)
    config = dataclasses.replace(config, precision=preset.train.precision)  # also one that this CPU lacks
    return Trainer(preset.model, config, open_corpus(lake, spec.corpus, Path(spec.cache_dir)), peers)


def run_process(
    lake: Lake, spec: TrainSpec, *, processes: int = 1, program: str = "model.train"
) -> subprocess.Popen[str]:
    path = Path(lake.base).parent / f"{spec.run}.json"
    path.write_text(json.dumps(spec.to_json()))
    command = [sys.executable, "-m", program, "--spec", str(path)]
    if processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*launcher, *command[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
