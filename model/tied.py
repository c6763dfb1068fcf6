"""The tied token embedding in bfloat16 on a CPU: the lookup and the head's loss, with one gradient for both.

The loss is that of model/loss.py: one matrix of logits, and the gradient overwrites it a few rows at a time. What this
file does differently was measured for GPT-2 124M (docs/benchmarks.md):

    alignment  the rows of the logits start at multiples of 128 bytes; the product that fills them is then up to 1.6
               times as fast
    loss       it is read from the softmax, which saves two passes over the logits
    lookup     its gradient has as many rows as the batch has tokens. They are added to the head's gradient, instead of
               filling and adding a second matrix of the vocabulary's size
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 4  # rows of logits per thread at a time: 4 x 50,257 fp32 numbers are 0.8 MB
ALIGNMENT = 64  # numbers
WORDS = 8_192  # rows of the weight's gradient at a time
TINY = 1e-30  # softmax below which fp32 loses digits


class Tie:
    """Carries the head's gradient of the weight to the backward pass of the lookup, which comes later."""

    def __init__(self) -> None:
        self.gradient_VC: Tensor | None = None


def can_tie(weight_VC: Tensor) -> bool:
    """Whether the weight gets one gradient for both uses."""
    return (
        weight_VC.device.type == "cpu"
        and weight_VC.dtype == torch.bfloat16
        and weight_VC.requires_grad
        and torch.is_grad_enabled()
    )


def lookup(ids_BT: Tensor, weight_VC: Tensor, tie: Tie) -> Tensor:
    """The rows of the ids, ``[B, T, C]``; the gradient of the weight includes the one of ``loss``."""
    x_BTC: Tensor = _Lookup.apply(ids_BT, weight_VC, tie)
    return x_BTC


def loss(hidden_RC: Tensor, weight_VC: Tensor, targets_R: Tensor, is_trained: bool, tie: Tie | None) -> Tensor:
    """Mean cross entropy, a scalar in fp32. With a ``tie``, ``hidden_RC`` must have been computed from its lookup."""
    mean: Tensor = _Loss.apply(hidden_RC, weight_VC, targets_R, is_trained, tie)
    return mean


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids_BT: Tensor, weight_VC: Tensor, tie: Tie) -> Tensor:
        ctx.save_for_backward(ids_BT)
        ctx.tie = tie
        return F.embedding(ids_BT, weight_VC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        (ids_BT,) = ctx.saved_tensors
        of_weight_VC = ctx.tie.gradient_VC
        assert of_weight_VC is not None
        ctx.tie.gradient_VC = None
        words_W, inverse_R = ids_BT.flatten().unique(return_inverse=True)
        sums_WC = of_weight_VC[words_W].float()
        sums_WC.index_add_(0, inverse_R, grads[0].flatten(0, 1).float())
        of_weight_VC[words_W] = sums_WC.bfloat16()
        return None, of_weight_VC, None


class _Loss(torch.autograd.Function):
    """R rows, C width, V vocabulary."""

    @staticmethod
    def forward(
        ctx: Any, hidden_RC: Tensor, weight_VC: Tensor, targets_R: Tensor, is_trained: bool, tie: Tie | None
    ) -> Tensor:
        n_rows = len(targets_R)
        n_tokens = len(weight_VC)
        room = hidden_RC.new_empty(n_rows, n_tokens + -n_tokens % ALIGNMENT)
        room[:, n_tokens:] = 0.0  # oneDNN multiplies one number behind an odd row with 0, so it must be finite
        logits_RV = room[:, :n_tokens]
        torch.mm(hidden_RC, weight_VC.T, out=logits_RV)
        total = torch.zeros(())
        rows = ROWS * torch.get_num_threads()
        for logits, targets in zip(logits_RV.split(rows), targets_R[:, None].split(rows), strict=True):
            softmax = torch.softmax(logits, dim=1, dtype=torch.float32)
            of_targets = softmax.gather(1, targets)
            if of_targets.min() > TINY:
                total -= of_targets.log().sum()
            else:  # also where it is not a number
                largest = logits.amax(dim=1, keepdim=True)  # its softmax is at least 1 / V
                norms = largest.float() - softmax.amax(dim=1, keepdim=True).log()
                total += (norms - logits.gather(1, targets)).sum()
            if is_trained:  # gradient: (softmax - one at the target) / rows
                softmax.scatter_(1, targets, of_targets - 1)
                logits.copy_(softmax.mul_(1.0 / n_rows))
        ctx.save_for_backward(hidden_RC, weight_VC, logits_RV)
        ctx.tie = tie
        return total / n_rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden_RC, weight_VC, gradient_RV = ctx.saved_tensors
        (by,) = grads
        scaled_RC = hidden_RC * by
        of_weight_VC = torch.empty_like(weight_VC)
        for part_WC, gradient_RW in zip(of_weight_VC.split(WORDS), gradient_RV.split(WORDS, dim=1), strict=True):
            torch.mm(gradient_RW.T, scaled_RC, out=part_WC)
        of_hidden_RC = (gradient_RV @ weight_VC).mul_(by)
        if ctx.tie is None:
            return of_hidden_RC, of_weight_VC, None, None, None
        ctx.tie.gradient_VC = of_weight_VC
        return of_hidden_RC, None, None, None, None
