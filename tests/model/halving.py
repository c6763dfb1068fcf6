"""``python -m tests.model.halving --spec FILE``: training whose second process has little memory for a validation.

There, a pass without gradients over more than ``HOLDS`` positions runs out of memory.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import Tensor

from model.gpt2 import GPT2
from model.train import main

HOLDS = 40


def hold(model: GPT2, positions: int) -> list[int]:
    """Let passes over more positions run out of memory; returns the list of the positions of all passes."""
    passes: list[int] = []

    def check(_: Any, arguments: tuple[Tensor, object]) -> None:
        rows, length, _ = arguments[0].shape
        passes.append(rows * length)
        if rows * length > positions and not torch.is_grad_enabled():
            torch.empty(1 << 50, dtype=torch.uint8)  # a petabyte: torch's allocator fails

    model.blocks[0].register_forward_pre_hook(check)
    return passes


if __name__ == "__main__":
    made = GPT2.__init__

    def init(self: GPT2, *arguments: Any) -> None:
        made(self, *arguments)
        if os.environ.get("RANK") == "1":
            hold(self, HOLDS)

    GPT2.__init__ = init  # type: ignore[method-assign]
    code = main()
    sys.stdout.flush()
    os._exit(code)  # as model.train ends
