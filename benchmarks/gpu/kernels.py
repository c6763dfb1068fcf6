"""Where the time of a training step goes: shares by kind of kernel, and how often the host waits for the device.

Read from the trace that torch.profiler exports (Chrome's format: "ts" and "dur" in microseconds, "cat" says what an
event is). The window reaches from the first kernel of the profiled steps to the end of the last one. Kernels of one
stream do not overlap, so what the kernels leave of the window is idle time.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from benchmarks.gpu.job import Job

FAMILIES: tuple[tuple[str, str], ...] = (
    # the first pattern that fits the name of a kernel decides
    ("copies", r"memcpy|memset|catarray|direct_copy|_copy_kernel|aten::copy_|aten::_to_copy"),
    ("attention", r"flash|fmha|attention|attend|_InBlocks"),
    ("optimizer", r"adam|muon|multi_tensor|lpnorm|foreach|clip"),
    (
        "loss",
        r"softmax|nll_loss|cross_entropy|logsumexp|_HeadLoss|scatter_gather|fused.*(amax|exp(?!and)|gather)|MaxNan",
    ),
    (
        "products",
        r"gemm|cutlass|nvjet|cublas|ampere_.*_tn|splitk|aten::(addmm|mm|bmm|linear|mkldnn|matmul)|mkldnn|gemv",
    ),
    ("norms, elementwise, embeddings", r"."),
)
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "cuStreamSynchronize")
ALLOCATIONS = ("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaHostRegister")
STEPS = 3
Event = dict[str, Any]


def family(name: str) -> str:
    return next(kind for kind, pattern in FAMILIES if re.search(pattern, name, re.IGNORECASE))


def shares(events: Iterable[Event], kinds: tuple[str, ...]) -> dict[str, float]:
    """The share of the window by family, and idle; they sum to 1. ``kinds`` are the categories that occupy a device."""
    busy = [event for event in events if event.get("ph") == "X" and event.get("cat") in kinds]
    if not busy:
        return {}
    first = min(float(event["ts"]) for event in busy)
    last = max(float(event["ts"]) + float(event["dur"]) for event in busy)
    spent: Counter[str] = Counter()
    for event in busy:
        spent[family(event["name"])] += float(event["dur"])
    window = max(last - first, sum(spent.values()))
    found = {kind: round(spent[kind] / window, 4) for kind, _ in FAMILIES}
    return {**found, "idle": round(1 - sum(spent.values()) / window, 4)}


def largest(events: Iterable[Event], kinds: tuple[str, ...], count: int = 20) -> list[dict[str, Any]]:
    """The kernels that take the most time, with their family, so that a wrong family is seen."""
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in kinds:
            spent[event["name"]] += float(event["dur"])
            calls[event["name"]] += 1
    return [
        {"name": name[:120], "family": family(name), "ms": round(us / 1e3, 3), "calls": calls[name]}
        for name, us in spent.most_common(count)
    ]


def host_calls(events: Iterable[Event], names: tuple[str, ...], mark: str) -> dict[str, int]:
    """How often the host called these functions of CUDA between the first beginning and the last end of ``mark``."""
    events = list(events)
    marks = [event for event in events if event.get("cat") == "user_annotation" and event["name"] == mark]
    if not marks:
        return {}
    first = min(float(event["ts"]) for event in marks)
    last = max(float(event["ts"]) + float(event["dur"]) for event in marks)
    inside = (e for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver") and first <= float(e["ts"]) < last)
    return dict(Counter(event["name"] for event in inside if event["name"] in names))


def own_times(events: Iterable[Event]) -> list[Event]:
    """The operations of a CPU, each without the time of the operations that it called."""
    ops = [dict(event) for event in events if event.get("ph") == "X" and event.get("cat") == "cpu_op"]
    ops.sort(key=lambda op: (op["tid"], float(op["ts"]), -float(op["dur"])))
    callers: list[tuple[Event, float]] = []  # with their end
    for op in ops:
        while callers and (callers[-1][0]["tid"] != op["tid"] or callers[-1][1] <= float(op["ts"])):
            callers.pop()
        if callers:
            callers[-1][0]["dur"] = float(callers[-1][0]["dur"]) - float(op["dur"])
        callers.append((op, float(op["ts"]) + float(op["dur"])))
    return ops


def of_steps(job: Job, steps: Callable[[int], object]) -> dict[str, Any]:
    """Profile ``STEPS`` steps of ``steps(count)``, which queues and reads them as the training loop does."""
    count = job.pick(STEPS, 1)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if job.is_cuda else [])]
    with torch.profiler.profile(activities=activities) as profiler, torch.profiler.record_function("webtext steps"):
        steps(count)
    job.synchronize()
    with tempfile.TemporaryDirectory(prefix="webtext-gpu-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(errors="replace"))["traceEvents"]
    kinds = ("kernel", "gpu_memcpy", "gpu_memset") if job.is_cuda else ("cpu_op",)
    busy = events if job.is_cuda else own_times(events)
    is_seen = any(event.get("cat") == "cuda_runtime" for event in events)  # not if CUPTI is missing
    waits = host_calls(events, WAITS, "webtext steps")
    return {
        "steps": count,
        "shares": shares(busy, kinds),
        "largest": largest(busy, kinds),
        "waits": waits,
        "waits_per_step": round(sum(waits.values()) / count, 2) if is_seen else None,
        "allocations": host_calls(events, ALLOCATIONS, "webtext steps"),
    }
