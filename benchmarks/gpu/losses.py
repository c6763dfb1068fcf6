"""The rows of the head's loss on a GPU: our kernel beside our loop over rows and what torch.compile makes of the same.

Each turns the logits of a micro-batch into their gradient. Reading and writing them once is the least that memory has
to move.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from benchmarks.gpu.job import Job
from model import loss

ROWS, VOCABULARY, PADDED = 40_960, 50_257, 50_304
REPEATS = 10


def rows_ms(job: Job) -> dict[str, float]:
    """Median milliseconds of each."""
    rows, n_tokens, padded = job.pick((ROWS, VOCABULARY, PADDED), (64, 301, 320))
    logits = torch.randn(rows, padded, device=job.device).bfloat16()
    targets = torch.randint(0, n_tokens, (rows,), device=job.device)
    ways: dict[str, Callable[[], Tensor]] = {
        "by rows": lambda: loss.by_rows(logits, targets, n_tokens, True, loss.GPU_ROWS),
    }
    if job.is_cuda:
        from model import loss_kernel

        compiled = torch.compile(_at_once)
        ways |= {
            "kernel": lambda: loss_kernel.mean_loss(logits, targets, n_tokens, True),
            "torch.compile": lambda: compiled(logits, targets, n_tokens),
        }
    found = {}
    for name, run in ways.items():
        milliseconds = []
        for _ in range(job.pick(REPEATS, 1) + 1):
            job.synchronize()
            began = time.perf_counter()
            run()
            job.synchronize()
            milliseconds.append(1e3 * (time.perf_counter() - began))
        found[name] = round(median(milliseconds[1:]), 3)
    return found


def _at_once(logits_RP: Tensor, targets_R: Tensor, n_tokens: int) -> Tensor:
    wide_RP = logits_RP.float()
    words_P = torch.arange(logits_RP.shape[1], device=logits_RP.device)
    wide_RP = torch.where(words_P < n_tokens, wide_RP, float("-inf"))
    largest_R1 = wide_RP.amax(dim=1, keepdim=True)
    sums_R1 = (wide_RP - largest_R1).exp().sum(dim=1, keepdim=True)
    losses_R1 = largest_R1 + sums_R1.log() - wide_RP.gather(1, targets_R[:, None])
    softmax_RP = (wide_RP - largest_R1).exp() / sums_R1
    logits_RP.copy_((softmax_RP - (words_P == targets_R[:, None]).float()) / len(targets_R))
    return losses_R1.mean()
