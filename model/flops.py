"""The FLOP of training and the peak rate of a device, for utilisation (MFU).

A token costs 6 x parameters + 12 x layers x width x context FLOP, forward and backward, as in the PaLM paper (Chowdhery
et al., 2022, appendix B). The second term is attention's two products over the whole square of positions, although the
causal mask discards half of it. Recomputed activations do not count.

The peaks in the table are for dense bf16 products with fp32 accumulation, from the makers' data sheets. MFU refers to
them in every precision, so fp32 training shows how much it leaves unused. On every CPU, and on a GPU that is not in the
table, the peak is measured: the rate of a square matrix product in the number format of the run's products.
"""

from __future__ import annotations

import functools
import re
import time
from dataclasses import dataclass

import torch

from model.config import ModelConfig

GPU_PEAKS: tuple[tuple[str, str, float], ...] = (
    # pattern of the name that CUDA or ROCm reports, label, TFLOP/s
    (r"\bH100 PCIe", "H100 PCIe", 756),  # NVIDIA H100 data sheet: 1,513 with sparsity
    (r"\bH100\b", "H100 SXM", 989),  # NVIDIA H100 data sheet: 1,979 with sparsity
    (r"\bH200\b", "H200 SXM", 989),  # NVIDIA H200 data sheet: 1,979 with sparsity
    (r"\bA100\b", "A100", 312),  # NVIDIA A100 data sheet
    (r"\bRTX 4090\b(?! D)", "RTX 4090", 165.2),  # NVIDIA Ada GPU architecture white paper, appendix A
    (r"\bRTX 3090\b(?! Ti)", "RTX 3090", 71),  # NVIDIA GA102 GPU architecture white paper, appendix A
    (r"\bL4\b", "L4", 121),  # NVIDIA L4 data sheet: 242 with sparsity
    (r"\bV100\b", "V100 (fp16: it has no bf16)", 125),  # NVIDIA V100 data sheet, SXM2
    (r"\bMI300X\b", "MI300X", 1307),  # AMD Instinct MI300X data sheet: 1,307.4
)
A100_PEAK = 312e12
MEASURE_S = 1.2  # about the longest that a measurement takes


@dataclass(frozen=True)
class Peak:
    """The highest rate of a device."""

    flop_per_s: float
    source: str  # for people: the table entry, or what was measured


def flop_per_token(model: ModelConfig, parameters: int) -> int:
    """FLOP of one token of a full window, forward and backward; see the module."""
    return 6 * parameters + 12 * model.layers * model.width * model.context


def known_gpu(name: str) -> Peak | None:
    """The peak of a GPU by its name, such as ``NVIDIA A100-SXM4-80GB``; None if it is not in the table."""
    if re.search(r"\b(NVL|MIG|Laptop|Max.?Q)\b", name, re.IGNORECASE):
        return None  # partitions and slower variants of GPUs in the table
    for pattern, label, tflops in GPU_PEAKS:
        if re.search(pattern, name.replace("-", " "), re.IGNORECASE):
            return Peak(tflops * 1e12, f"data sheet: {label}")
    return None


def peak_of(device: torch.device, precision: str) -> Peak:
    """The peak of a device: from the table, otherwise measured with products of ``precision``."""
    known = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return known or measured_peak(device, precision)


@functools.cache
def measured_peak(device: torch.device, precision: str) -> Peak:
    """The best rate of a few square matrix products, up to 2048-cubed on a CPU and 8192-cubed on a GPU.

    Measured once per process and device, in about ``MEASURE_S``. Draws no random numbers.
    """
    dtype = torch.float32 if precision in ("float32", "tf32") else torch.bfloat16  # also autocast's
    is_cpu = device.type == "cpu"
    largest, in_a_row = (2_048, 1) if is_cpu else (8_192, 10)  # a launch on a GPU takes longer than a small product
    rate = 0.0
    size = 256
    _multiply(size, dtype, device, 1)  # the first product initialises libraries
    deadline = time.perf_counter() + MEASURE_S
    while True:
        for _ in range(3):  # the first one of a size is slower
            rate = max(rate, 2 * size**3 * in_a_row / _multiply(size, dtype, device, in_a_row))
            if time.perf_counter() > deadline:
                break
        if size == largest or time.perf_counter() + 3 * in_a_row * 2 * (2 * size) ** 3 / rate > deadline:
            return Peak(rate, f"measured: {size}-cubed product in {str(dtype).removeprefix('torch.')}")
        size *= 2


def _multiply(size: int, dtype: torch.dtype, device: torch.device, count: int) -> float:
    """The seconds that ``count`` products of two square matrices take."""
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(count):
        torch.mm(left, right)
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
