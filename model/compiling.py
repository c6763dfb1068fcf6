"""torch.compile: whether it can be used here, and how long it takes.

Blocks are compiled one by one, not the model as a whole: all have the same code, so one of them is compiled and the
others reuse it. On a GPU the whole is no faster and takes longer to compile (docs/benchmarks.md). There torch needs
Triton, which also compiles the kernel of the loss, and a C compiler; on a CPU it needs a C++ compiler.
"""

from __future__ import annotations

import dataclasses
import functools
import time

import torch
from torch import Tensor

from model import failure
from model.config import ModelConfig
from model.gpt2 import GPT2

SEQUENCES = 2  # in the trial that ``first_compilation_s`` times


def compile_model(model: GPT2) -> None:
    """Compile the blocks and, on a GPU, the kernel of the loss at their first use."""
    for block in model.blocks:
        block.compile()
    model.has_loss_kernel = model.tokens.weight.device.type == "cuda"


@functools.cache
def why_not(device: torch.device) -> str | None:
    """What keeps torch from compiling for this device; None if it can. Compiles a small function, in seconds."""

    def double(x: Tensor) -> Tensor:
        return x * 2 + 1

    try:
        torch.compile(double)(torch.ones(8, device=device))
    except Exception as error:  # whatever a missing or broken tool chain raises
        return failure.one_line(error)
    return None


def first_compilation_s(config: ModelConfig, device: torch.device, precision: str) -> float:
    """The seconds that the first step of a run spends on compiling: a trial with one block, two training passes.

    Files of an earlier compilation that torch keeps make it shorter, here as in the run.
    """
    model = GPT2(dataclasses.replace(config, layers=1)).to(device)
    if precision == "bfloat16":
        model.bfloat16()
    compile_model(model)
    ids_BT = torch.zeros(SEQUENCES, config.context, dtype=torch.long, device=device)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "autocast"):
            loss = model.loss(ids_BT, ids_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        loss.item()
        seconds.append(time.perf_counter() - began)
    return max(0.0, seconds[0] - seconds[1])
