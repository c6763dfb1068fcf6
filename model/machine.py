"""What the automatic settings of a run mean on this machine: ``precision``, ``compile`` and ``micro_batch_size``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from model import compiling, world
from model.config import ModelConfig, TrainConfig
from model.gpt2 import count_parameters
from model.memory import estimate_for, largest_micro_batch
from model.world import World

CPU_SEQUENCES = 8  # larger micro-batches are not faster there
TAKEN = 0.1  # a share of a GPU's memory; if other processes hold more, a run says so


def settle(
    model: ModelConfig, config: TrainConfig, peers: World, begun: Mapping[str, Any] | None = None
) -> tuple[TrainConfig, tuple[str, ...]]:
    """The settings with nothing left at "auto" but ``val_batch_tokens``, and notes for people. Called by all processes.

    ``begun`` are the settings that the run began with: its precision stays, and its micro-batch if it fits and is not
    less than half of what fits, so that a run resumed on the same machine ends in the same bits. Raises InputError for
    a precision that the device does not support.
    """
    begun = begun or {}
    notes: list[str] = []
    precision = config.precision
    if precision == "auto":
        precision = begun.get("precision", "auto")
    is_automatic = precision == "auto"
    precision = world.precision_for(precision, peers.device, config.parallel, peers.size)
    if is_automatic and precision == "float32" and peers.device.type == "cuda":
        notes.append(f"precision: {peers.device} has no instructions for bfloat16; fp32 is much slower")
    config = dataclasses.replace(config, precision=precision, compile=_compiles(config, peers, notes))
    if config.micro_batch_size == "auto":
        size = _micro_batch(model, config, peers, notes)
        earlier = begun.get("micro_batch_size")
        if isinstance(earlier, int) and size // 2 < earlier <= size:
            size = earlier
        config = dataclasses.replace(config, micro_batch_size=size)
    return config, tuple(notes)


def _compiles(config: TrainConfig, peers: World, notes: list[str]) -> bool:
    wanted = peers.device.type == "cuda" if config.compile == "auto" else config.compile
    if wanted and (why := compiling.why_not(peers.device)):
        notes.append(
            f"compile: torch cannot compile for {peers.device} here ({why}), so training is slower; install a C++ "
            "compiler, or say --set compile=false"
        )
        return False
    return wanted


def _micro_batch(model: ModelConfig, config: TrainConfig, peers: World, notes: list[str]) -> int:
    free, total = world.memory_of(peers.device)
    is_cpu = peers.device.type == "cpu"
    memory = peers.least(free // peers.size if is_cpu else free)  # the processes on a machine share its memory
    parameters = count_parameters(model)
    size = largest_micro_batch(model, config, parameters, peers.size, memory, CPU_SEQUENCES if is_cpu else None)
    needed = estimate_for(model, config, parameters, size, peers.size).total
    where = f"{peers.device} has {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if needed > memory:
        notes.append(
            f"memory: a step with one sequence needs about {needed / 1e9:.1f} GB, and {where}; if it fails, say --set "
            "recompute=true, or use more --processes with --set parallel=fsdp"
        )
    elif free < (1 - TAKEN) * total:
        notes.append(f"memory: {where}, because other processes hold the rest; micro_batch_size is {size}")
    return size
