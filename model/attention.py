"""Causal attention: torch's, except for bfloat16 on a CPU, where ours takes less than half the time.

Of torch's kernels, training on Hopper prefers cuDNN's; torch itself would take flash attention (version 2) everywhere.
cuDNN makes a plan for each new shape. So scoring, where shapes vary, keeps torch's choice.

On a CPU the tiles of torch's flash attention are too small for the matrix instructions: they reach 64 of a core's 460
GFLOP/s for 4 x 256 positions of GPT-2 124M. Here rows are computed in blocks, all heads at a time. A block sees only
the positions up to its own end, so the wasted work above the diagonal is half a block per row. Scores and softmax are
fp32; the softmax is rounded to bfloat16 before it is multiplied with the values, as in flash attention (Dao et al.,
2022). It is kept for the backward pass, about B x N x T^2 bytes per layer. Measured in docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""An order and not a choice: cuDNN takes no fp32 and no deterministic algorithms."""
BLOCK = 128  # rows; of 64, 128 and 256 the fastest at 1,024 positions, and within 4 % of the fastest at 256


def attend(qkv_BT3NH: Tensor, dropout: float) -> Tensor:
    """``softmax(q @ k.T / sqrt(H)) @ v``, ``[B, N, T, H]``; a position sees itself and the ones before it."""
    if qkv_BT3NH.device.type == "cpu" and qkv_BT3NH.dtype == torch.bfloat16 and dropout == 0.0:
        y_BNTH: Tensor = _InBlocks.apply(qkv_BT3NH)
        return y_BNTH
    q_BNTH, k_BNTH, v_BNTH = qkv_BT3NH.permute(2, 0, 3, 1, 4)
    if qkv_BT3NH.requires_grad and prefers_cudnn():
        with sdpa_kernel(CUDNN_FIRST, set_priority=True):
            return F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, is_causal=True, dropout_p=dropout)
    return F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, is_causal=True, dropout_p=dropout)


@dataclass(frozen=True)
class Segment:
    """``rows`` sequences of ``length`` tokens, which begin at token ``start`` of a packed row."""

    start: int
    rows: int
    length: int
    mask: Tensor | None  # added to the scores, ``[rows, 1, length, length]``; None: causal


@dataclass(frozen=True)
class Packing:
    """What lies in one long row ``[1, M]``: sequences, one after the other, which do not see each other.

    Only attention and the position embedding need to know. So nothing is computed for padding.
    """

    positions: Tensor  # of each token in its sequence, ``[M]``
    segments: tuple[Segment, ...]


def attend_packed(qkv_1M3NH: Tensor, packing: Packing) -> Tensor:
    """``attend`` within each segment, without dropout: ``[1, N, M, H]``."""
    _, M, _, N, H = qkv_1M3NH.shape
    y_MNH = qkv_1M3NH.new_empty(M, N, H)
    for segment in packing.segments:
        at = slice(segment.start, segment.start + segment.rows * segment.length)
        qkv_BT3NH = qkv_1M3NH[0, at].view(segment.rows, segment.length, 3, N, H)
        if segment.mask is None:
            y_BNTH = attend(qkv_BT3NH, 0.0)
        else:
            q_BNTH, k_BNTH, v_BNTH = qkv_BT3NH.permute(2, 0, 3, 1, 4)
            y_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNTH, v_BNTH, attn_mask=segment.mask)
        y_MNH[at].view(segment.rows, segment.length, N, H).copy_(y_BNTH.transpose(1, 2))
    return y_MNH.transpose(0, 1)[None]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def prefers_cudnn() -> bool:
    """Whether this process trains on Hopper (compute capability 9)."""
    return torch.cuda.is_initialized() and torch.cuda.get_device_capability()[0] == 9


class _InBlocks(torch.autograd.Function):
    """M = B x N heads, R rows of a block, S positions that the block sees."""

    @staticmethod
    def forward(ctx: Any, qkv_BT3NH: Tensor) -> Tensor:
        B, T, _, N, H = qkv_BT3NH.shape
        q_MTH, k_MTH, v_MTH = (x_BNTH.reshape(-1, T, H) for x_BNTH in qkv_BT3NH.permute(2, 0, 3, 1, 4))
        y_MTH = torch.empty_like(q_MTH)
        kept = []
        with torch.autocast("cpu", enabled=False):
            scaled_MTH = q_MTH.float() * H**-0.5
            k_MHT = k_MTH.float().transpose(1, 2)
            above_RR = torch.full((BLOCK, BLOCK), float("-inf")).triu(1)
            for first in range(0, T, BLOCK):
                end = min(first + BLOCK, T)
                scores_MRS = torch.bmm(scaled_MTH[:, first:end], k_MHT[:, :, :end])
                scores_MRS[:, :, first:] += above_RR[: end - first, : end - first]
                softmax_MRS = torch.softmax(scores_MRS, dim=2).bfloat16()
                y_MTH[:, first:end] = torch.bmm(softmax_MRS, v_MTH[:, :end])
                kept.append(softmax_MRS)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(q_MTH, k_MTH, v_MTH, y_MTH, *kept)
        return y_MTH.view(B, N, T, H)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """With P the softmax and G the gradient of y: dS = P * (G @ v.T - rowsum(G * y))."""
        q_MTH, k_MTH, v_MTH, y_MTH, *kept = ctx.saved_tensors
        (g_BNTH,) = grads
        B, N, T, H = g_BNTH.shape
        g_MTH = g_BNTH.reshape(-1, T, H)
        mean_MT1 = (g_MTH.float() * y_MTH.float()).sum(dim=2, keepdim=True).bfloat16()
        dq_MTH = torch.empty_like(q_MTH)
        dk_MTH = torch.empty_like(k_MTH)
        dv_MTH = torch.empty_like(v_MTH)
        blocks = list(zip(range(0, T, BLOCK), kept, strict=True))
        for first, softmax_MRS in reversed(blocks):  # the last block sees every position
            end = min(first + BLOCK, T)
            q_MRH = q_MTH[:, first:end]
            g_MRH = g_MTH[:, first:end]
            ds_MRS = torch.bmm(g_MRH, v_MTH[:, :end].transpose(1, 2)).sub_(mean_MT1[:, first:end])
            ds_MRS.mul_(softmax_MRS).mul_(H**-0.5)
            dq_MTH[:, first:end] = torch.bmm(ds_MRS, k_MTH[:, :end])
            if end == T:
                torch.bmm(ds_MRS.transpose(1, 2), q_MRH, out=dk_MTH)
                torch.bmm(softmax_MRS.transpose(1, 2), g_MRH, out=dv_MTH)
            else:
                dk_MTH[:, :end] += torch.bmm(ds_MRS.transpose(1, 2), q_MRH)
                dv_MTH[:, :end] += torch.bmm(softmax_MRS.transpose(1, 2), g_MRH)
        of_qkv_BT3NH = g_BNTH.new_empty(B, T, 3, N, H)
        for index, d_MTH in enumerate((dq_MTH, dk_MTH, dv_MTH)):
            of_qkv_BT3NH[:, :, index] = d_MTH.view(B, N, T, H).transpose(1, 2)
        return of_qkv_BT3NH
