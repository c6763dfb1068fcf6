"""The loss of the tied head: cross entropy over the whole vocabulary, with one matrix of logits in memory.

``F.cross_entropy(hidden @ weight.T, targets)`` holds the logits (T x 50,257 numbers per sequence), their log-softmax
and their gradient, and in bfloat16 it rounds the log-probabilities. Here the gradient is computed with the loss, a few
rows at a time in fp32, and overwrites the logits. So there is one such matrix, and the softmax stays in the CPU's
cache. This is fused linear cross entropy (Hsu et al., "Liger Kernel", 2024) with torch's matrix products. On a GPU with
Triton one kernel works through all rows (model/loss_kernel.py). In bfloat16 on a CPU model/tied.py does the same.

torch's own ``F.linear_cross_entropy`` (2.13) is not used: for 1,024 rows in bfloat16 on two cores it takes 5 times as
long in chunks of 256 rows and 30 times as long in the chunks that it chooses, with four times the memory, and it rounds
the loss to bfloat16. In fp32, chunks of 256 rows are as fast as this file (``python -m benchmarks.loss``).

50,257 is odd, and kernels for tensor cores are fastest when sizes are divisible by 64: nanoGPT became a quarter faster
with 50,304 rows (A. Karpathy, February 2023). So on GPUs rows of zeros are added for the products, and their logits are
masked: no probability, no gradient. These rows exist only here. The weights, the optimizer's state, checkpoints and
exports do not have them, so nothing must be stripped, and runs can move between devices.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model import tied

CPU_ROWS = 16  # rows of logits at a time: 16 x 50,257 fp32 numbers are 3 MB
GPU_ROWS = 2_048  # without Triton
CPU_MULTIPLE = 1  # the vocabulary is padded to a multiple of this
GPU_MULTIPLE = 64  # its gain on a GPU is not measured
CPU_WORDS = 8_192  # rows of the weight's gradient at a time: one product of all 50,257 takes 1.4 times as long


class _HeadLoss(torch.autograd.Function):
    """R rows, C width, V vocabulary, P padded vocabulary."""

    @staticmethod
    def forward(
        ctx: Any, hidden_RC: Tensor, weight_VC: Tensor, targets_R: Tensor, is_trained: bool, has_kernel: bool
    ) -> Tensor:
        is_cpu = hidden_RC.device.type == "cpu"
        n_tokens = len(weight_VC)
        n_padding = -n_tokens % (CPU_MULTIPLE if is_cpu else GPU_MULTIPLE)
        weight_PC = F.pad(weight_VC, (0, 0, 0, n_padding)) if n_padding else weight_VC
        logits_RP = F.linear(hidden_RC, weight_PC)
        if has_kernel and logits_RP.dtype != torch.float64:
            from model import loss_kernel

            loss = loss_kernel.mean_loss(logits_RP, targets_R, n_tokens, is_trained)
        else:
            loss = by_rows(logits_RP, targets_R, n_tokens, is_trained, CPU_ROWS if is_cpu else GPU_ROWS)
        ctx.save_for_backward(hidden_RC, weight_PC, logits_RP)
        ctx.n_tokens = n_tokens
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_RC, weight_PC, gradient_RP = ctx.saved_tensors
        (by,) = grads
        of_weight_PC = torch.empty_like(weight_PC)
        words = CPU_WORDS if weight_PC.device.type == "cpu" else len(weight_PC)
        for part_WC, gradient_RW in zip(of_weight_PC.split(words), gradient_RP.split(words, dim=1), strict=True):
            torch.mm(gradient_RW.T, hidden_RC, out=part_WC).mul_(by)
        return (gradient_RP @ weight_PC).mul_(by), of_weight_PC[: ctx.n_tokens], None, None, None


def by_rows(logits_RP: Tensor, targets_R: Tensor, n_tokens: int, is_trained: bool, rows: int) -> Tensor:
    """The mean loss, some rows at a time; if it ``is_trained``, the gradient overwrites the logits."""
    n_rows = len(targets_R)
    logits_RP[:, n_tokens:] = float("-inf")
    wide = torch.promote_types(logits_RP.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=logits_RP.device)
    for logits, targets in zip(logits_RP.split(rows), targets_R[:, None].split(rows), strict=True):
        softmax = torch.softmax(logits, dim=1, dtype=wide)
        largest = logits.amax(dim=1, keepdim=True)  # its softmax is at least 1 / V, so its log is exact
        norms = largest.to(wide) - softmax.amax(dim=1, keepdim=True).log()
        total += (norms - logits.gather(1, targets)).sum()
        if is_trained:  # gradient: (softmax - one at the target) / rows
            softmax.scatter_add_(1, targets, softmax.new_full(targets.shape, -1.0))
            logits.copy_(softmax.mul_(1.0 / n_rows))
    return total / n_rows


def head_loss(
    hidden_RC: Tensor, weight_VC: Tensor, targets_R: Tensor, tie: tied.Tie | None = None, *, has_kernel: bool = False
) -> Tensor:
    """Mean cross entropy of ``hidden_RC @ weight_VC.T`` and the target ids, nats per row: a scalar in fp32 or fp64.

    ``tie``: through which the model looked the tokens up, if it did (model/tied.py). ``has_kernel``: Triton
    compiles for this device, so its kernel works through the rows.
    """
    device = hidden_RC.device.type
    if torch.is_autocast_enabled(device):  # autocast does not reach into the backward pass
        dtype = torch.get_autocast_dtype(device)
        hidden_RC = hidden_RC.to(dtype)
        weight_VC = weight_VC.to(dtype)
    is_trained = torch.is_grad_enabled() and (hidden_RC.requires_grad or weight_VC.requires_grad)
    if device == "cpu" and hidden_RC.dtype == torch.bfloat16 and not has_kernel:
        return tied.loss(hidden_RC, weight_VC, targets_R, is_trained, tie)
    loss: Tensor = _HeadLoss.apply(hidden_RC, weight_VC, targets_R, is_trained, has_kernel)
    return loss
