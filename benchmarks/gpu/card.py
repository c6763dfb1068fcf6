"""The card, its driver, torch, and the rate of a large product."""

from __future__ import annotations

import shutil
import subprocess
import time
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.job import Job
from model import compiling
from model.flops import known_gpu

HELD_SHARE = 0.05  # of the memory: more than a context of the driver takes


def card(job: Job) -> None:
    notes: list[str] = []
    job.put(torch=torch.__version__, cuda=torch.version.cuda)
    if job.is_cuda:
        job.put(**_facts(notes), notes=notes)
        known = known_gpu(torch.cuda.get_device_name(job.device))
        job.put(data_sheet_flop_per_s=known and known.flop_per_s, data_sheet=known and known.source)
    else:
        job.put(card="cpu", data_sheet_flop_per_s=None)
    job.put(**product(job))
    if job.is_cuda:
        why_not = compiling.why_not(job.device)
        notes += [] if why_not is None else [f"torch cannot compile here ({why_not}), so ours and nanoGPT run eager"]
        job.put(compiles=why_not is None, notes=notes)


def _facts(notes: list[str]) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    notes += complaints(total - free - torch.cuda.memory_reserved(), total, has_bf16=has_bf16)
    return {
        "card": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": total,
        "free_bytes": free,
        **_driver(),
    }


def complaints(held: int, total: int, *, has_bf16: bool) -> list[str]:
    """What makes this card slower than its kind; ``held``: bytes of its memory that other processes hold."""
    found = []
    if held > HELD_SHARE * total:
        found.append(
            f"other processes hold {held / 1e9:.1f} of {total / 1e9:.1f} GB of the card, so micro-batches are smaller; "
            "nvidia-smi lists them"
        )
    if not has_bf16:
        found.append("the card has no instructions for bf16: ours trains in fp32, and nanoGPT in fp16")
    return found


def _driver() -> dict[str, str]:
    """What nvidia-smi says, where it is."""
    fields = ("driver_version", "power.limit", "clocks.max.sm", "clocks.current.sm")
    if shutil.which("nvidia-smi") is None:
        return {"driver_version": "unknown: no nvidia-smi"}
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        return {"driver_version": f"unknown: nvidia-smi failed ({type(error).__name__})"}
    first = done.stdout.splitlines()[0] if done.stdout else ""
    return {name.replace(".", "_"): value.strip() for name, value in zip(fields, first.split(","), strict=False)}


def product(job: Job) -> dict[str, Any]:
    """The rate of a square product in the card's 16-bit format: the best and the median of several runs."""
    size = job.pick(8_192, 256)
    has_bf16 = not job.is_cuda or torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if has_bf16 else torch.float16
    left, right = (torch.randn(size, size, device=job.device).to(dtype) for _ in range(2))
    in_a_row = job.pick(10, 1)
    rates: list[float] = []
    ends = time.perf_counter() + job.pick(3.0, 0.1)
    while len(rates) < 4 or time.perf_counter() < ends:
        job.synchronize()
        began = time.perf_counter()
        for _ in range(in_a_row):
            torch.mm(left, right)
        job.synchronize()
        rates.append(2 * size**3 * in_a_row / (time.perf_counter() - began))
    kept = rates[1:]  # the first run loads the kernel
    what = f"{size}-cubed {str(dtype).removeprefix('torch.')} product"
    return {"product": what, "product_flop_per_s": max(kept), "product_median_flop_per_s": median(kept)}
