"""How many positions one forward pass without gradients holds, and what is done when they do not fit.

Validation and scoring compute many rows of positions, in passes of as many rows as the capacity allows. On a CPU the
capacity is a measured constant of the caller. On CUDA it follows from the memory that is free when the first pass
begins and from the bytes that a position needs, or a setting names it. When a pass runs out of memory, the capacity is
halved, a message says so, and the same rows are computed in smaller passes. A single row that does not fit is an error.

Bytes per position, with C the width, V the vocabulary, and numbers of two kinds: the residual stream and the
normalised stream (``stream``: 2 bytes in bfloat16, else 4) and the products (``product``: 4 bytes in float32 and tf32,
else 2). The peak of a block is in its feed-forward layer:

    2 C stream    the block's input, and the stream after attention
    1 C stream    the output of the normalisation
    1 C product   its cast, under autocast
    8 C product   the inner layer before and after GELU

For each position whose logits are held at once, there are V product numbers and, for the softmax, V numbers in fp32.
Two things do not depend on the positions: a padded copy of the head and, under autocast, a bfloat16 copy of all
weights. All are added up as if they were held together, because torch keeps what the blocks freed for tensors of the
same size, and the logits are larger. tests/model/test_capacity.py compares the sum with what torch allocates on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import torch

from model import failure, world
from model.config import Auto, ModelConfig
from model.failure import FailedStepError

T = TypeVar("T")
Tokens = int | Auto
CUDA_SHARE = 0.8  # of the free memory; the rest is for fragmentation and the workspace of kernels. Not measured
CUDA_MOST = 32_768
"""Positions of a pass. It is an assumption, not a measurement, that larger passes gain nothing: products of this height
keep a GPU busy. The logits of a pass also stay below 2^31 numbers, up to which kernels can use indices of 32 bits."""


@dataclass(frozen=True)
class Need:
    """Bytes of a pass: ``fixed``, ``hidden`` per position, and ``logits`` per position of at most ``rows`` at once."""

    fixed: int
    hidden: int
    logits: int
    rows: int | None = None  # None: the logits of all positions are held

    @classmethod
    def of(cls, model: ModelConfig, parameters: int, precision: str, rows: int | None = None) -> Self:
        """``precision`` is float32, tf32, autocast or bfloat16."""
        stream = 2 if precision == "bfloat16" else 4
        product = 4 if precision in ("float32", "tf32") else 2
        head = product * model.vocab_size * model.width
        return cls(
            fixed=head + (product * parameters if precision == "autocast" else 0),
            hidden=(3 * stream + 9 * product) * model.width,
            logits=(product + 4) * model.vocab_size,
            rows=rows,
        )

    def of_pass(self, tokens: int) -> int:
        """Bytes of a pass of so many positions."""
        held = tokens if self.rows is None else min(tokens, self.rows)
        return self.fixed + tokens * self.hidden + held * self.logits

    def fitting(self, free: int) -> int:
        """The positions whose pass takes ``CUDA_SHARE`` of ``free`` bytes: 1 to ``CUDA_MOST``."""
        budget = int(free * CUDA_SHARE) - self.fixed
        tokens = budget // (self.hidden + self.logits)
        if self.rows is not None and tokens > self.rows:
            tokens = (budget - self.rows * self.logits) // self.hidden
        return min(max(tokens, 1), CUDA_MOST)


def choose(tokens: Tokens, device: torch.device, need: Need, on_cpu: int, elsewhere: int) -> int:
    """The positions of a pass: ``tokens``, or for auto what fits on CUDA, ``on_cpu`` on a CPU, else ``elsewhere``."""
    if tokens != "auto":
        return tokens
    if device.type == "cuda":
        return need.fitting(_free_bytes(device))
    return on_cpu if device.type == "cpu" else elsewhere


def _free_bytes(device: torch.device) -> int:
    """What the driver has free, and what torch keeps of memory that tensors have freed."""
    free, _ = world.memory_of(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def silent(message: str) -> None:
    """For callers that do not look at messages."""


@dataclass
class Capacity:
    """The positions of a pass, ``tokens``, which become fewer when a pass runs out of memory."""

    tokens: int
    device: torch.device
    what: str  # that runs out of memory, such as "the validation"
    setting: str  # what the user types before a number of positions, such as "--batch-tokens "
    advice: str  # for a single row that does not fit
    warn: Callable[[str], None] = silent  # gets a message for each halving
    can_shrink: bool = True  # False: several processes compute each pass together, and one cannot repeat it alone

    def rows(self, length: int) -> int:
        """Rows of ``length`` positions in a pass; at least one."""
        return max(1, self.tokens // length)

    def attempt(self, rows: int, length: int, compute: Callable[[], T], *, can_divide: bool = False) -> T | None:
        """The result of ``compute``, a pass over ``rows`` of ``length`` positions.

        None if it ran out of memory: ask ``rows`` again how many to compute. ``can_divide`` says that even a single row
        can be computed in parts. Raises FailedStepError of the kind ``out_of_memory`` if it cannot be tried with fewer.
        """
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if failure.kind_of(error) != "out_of_memory":
                raise
            cause = failure.one_line(error)
        self._shrink(rows, length, cause, can_divide)  # not in the handler: the error holds the tensors of the pass
        return None

    def _shrink(self, rows: int, length: int, cause: str, can_divide: bool) -> None:
        failed = rows * length
        half = max(1, failed // 2)
        found = f"{self.what} ran out of memory with {failed:,} positions in one pass ({cause})"
        if rows == 1 and not can_divide:
            raise FailedStepError("out_of_memory", f"{found}, which cannot be divided: {self.advice}")
        if not self.can_shrink:
            raise FailedStepError("out_of_memory", f"{found}; set fewer with {self.setting}{half}")
        self.tokens = half
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.warn(f"{found}; it goes on with at most {half:,}, which {self.setting}{half} chooses from the start")
