"""GELU in its tanh form: torch's, except for bfloat16 on a CPU, where forward and backward together take a third less.

torch computes the tanh of bfloat16 numbers in both passes. ``0.5 * (1 + tanh(z))`` is ``sigmoid(2 * z)``, which is
cheaper, and the derivative needs nothing else. So the forward pass computes both, in fp32 and in pieces that stay in
the CPU's cache, and keeps the derivative instead of its input; the backward pass is one multiplication. Measured in
docs/benchmarks.md.

On a GPU too the compiler gets the form with the sigmoid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PIECE = 65_536  # numbers per thread; three fp32 copies are 0.8 MB. Pieces of 8,192 take twice as long
LINEAR = 2 * math.sqrt(2 / math.pi)  # gelu(x) = x * sigmoid(LINEAR * x + CUBIC * x^3), Hendrycks and Gimpel, 2016
CUBIC = 0.044715 * LINEAR


def gelu(x: Tensor) -> Tensor:
    """``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``."""
    if x.device.type == "cpu" and x.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
        y: Tensor = _InPieces.apply(x)
        return y
    if x.device.type == "cuda" and torch.compiler.is_compiling():
        return by_sigmoid(x)
    return F.gelu(x, approximate="tanh")


def by_sigmoid(x: Tensor) -> Tensor:
    """The same for a compiler, computed in fp32."""
    wide = x.float()
    return (wide * torch.sigmoid(wide * (LINEAR + CUBIC * wide * wide))).to(x.dtype)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        is_trained = ctx.needs_input_grad[0]
        slope = torch.empty_like(x) if is_trained else y
        linear = torch.tensor(LINEAR)
        size = min(PIECE * torch.get_num_threads(), x.numel())
        room = torch.empty(3, size)
        with torch.autocast("cpu", enabled=False):
            pieces = (one.view(-1).split(size) for one in (x, y, slope))
            for x_piece, y_piece, slope_piece in zip(*pieces, strict=True):
                value, sigmoid, inner = room[:, : len(x_piece)]
                value.copy_(x_piece)
                torch.addcmul(linear, value, value, value=CUBIC, out=sigmoid).mul_(value).sigmoid_()
                if is_trained:
                    torch.addcmul(linear, value, value, value=3 * CUBIC, out=inner)
                y_piece.copy_(value.mul_(sigmoid))
                if is_trained:  # sigmoid + y * (1 - sigmoid) * inner
                    torch.addcmul(value, value, sigmoid, value=-1, out=value)
                    slope_piece.copy_(torch.addcmul(sigmoid, value, inner, out=sigmoid))
        if is_trained:
            ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope  # type: ignore[no-any-return]
