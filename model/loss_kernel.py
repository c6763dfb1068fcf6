"""The loss by rows of logits and its gradient as one kernel for GPUs, written in Triton.

A program works through one row in pieces. It reads the row once for the largest logit and the sum of exponentials
(online softmax: Milakov and Gimelshein, 2018), and once more for the gradient, which overwrites the logits. What
torch.compile makes of the same takes 1.8 times as long, a loop over rows 8 times (docs/benchmarks.md).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIECE = 2_048  # logits of a row at a time; of nine pairs of these two numbers the fastest on an H200
WARPS = 4


def mean_loss(logits_RP: Tensor, targets_R: Tensor, n_tokens: int, is_trained: bool) -> Tensor:
    """The mean loss in nats; if it ``is_trained``, the gradient overwrites the logits.

    Logits from ``n_tokens`` on are padding: no probability, no gradient. Rows must be contiguous.
    """
    n_rows, n_padded = logits_RP.shape
    losses_R = torch.empty(n_rows, dtype=torch.float32, device=logits_RP.device)
    _loss_of_row[(n_rows,)](
        logits_RP, targets_R, losses_R, 1.0 / n_rows, n_tokens, n_padded, is_trained, PIECE, num_warps=WARPS
    )
    return losses_R.mean()


@triton.jit
def _loss_of_row(
    logits,
    targets,
    losses,
    share,
    N_TOKENS: tl.constexpr,
    N_PADDED: tl.constexpr,
    IS_TRAINED: tl.constexpr,
    PIECE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * N_PADDED
    target = tl.load(targets + row)
    logit = tl.load(logits + target).to(tl.float32)  # now, for the gradient will overwrite it
    largest = float("-inf")
    total = 0.0
    for first in range(0, N_PADDED, PIECE):
        words = first + tl.arange(0, PIECE)
        # The bound of the load is a multiple of 64, so that it reads 16 bytes at a time.
        x = tl.load(logits + words, mask=words < N_PADDED, other=float("-inf")).to(tl.float32)
        x = tl.where(words < N_TOKENS, x, float("-inf"))
        before = largest
        largest = tl.maximum(before, tl.max(x))
        total = total * tl.exp(before - largest) + tl.sum(tl.exp(x - largest))
    norm = largest + tl.log(total)
    tl.store(losses + row, norm - logit)
    if IS_TRAINED:
        for first in range(0, N_PADDED, PIECE):
            words = first + tl.arange(0, PIECE)
            x = tl.load(logits + words, mask=words < N_PADDED, other=float("-inf")).to(tl.float32)
            x = tl.where(words < N_TOKENS, x, float("-inf"))
            gradient = (tl.exp(x - norm) - (words == target).to(tl.float32)) * share
            tl.store(logits + words, gradient.to(logits.dtype.element_ty), mask=words < N_PADDED)
