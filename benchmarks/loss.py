"""The loss of the head (model/loss.py) beside torch's cross entropy and its chunked ``linear_cross_entropy``.

    python -m benchmarks.loss [--rows 1024] [--width 768] [--repeats 4] [--threads 1] [--quick]

Forward and backward of the head of GPT-2 124M for 4 x 256 tokens on the CPU, in fp32 and in bfloat16, over the
vocabulary of 50,257 tokens and over 50,304, its next multiple of 64. Each variant runs in a process of its own, so that
its peak memory is its own:

    ours             model.loss.head_loss
    cross_entropy    F.cross_entropy(F.linear(hidden, weight), targets)
    chunked          F.linear_cross_entropy with LinearCrossEntropyOptions(), which chooses its chunks
    chunked-256      the same with chunks of 256 rows

A ratio is the time of the variant divided by ours: above 1, ours is faster. The first repetition is left out. Memory
is the peak of the process above what it held before the first repetition. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine, peak_rss_mb

VARIANTS = ("ours", "cross_entropy", "chunked", "chunked-256")
PRECISIONS = ("float32", "bfloat16")
VOCABULARIES = (50_257, 50_304)


def measure(variant: str, precision: str, vocabulary: int, rows: int, width: int, repeats: int) -> dict[str, float]:
    """The median seconds of forward and backward, the memory they take, and the loss."""
    import torch

    torch.manual_seed(0)
    dtype = getattr(torch, precision)
    hidden = torch.randn(rows, width).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width).mul_(0.02).to(dtype).requires_grad_()
    targets = torch.randint(50_257, (rows,))
    loss_of = _loss(variant)
    Path("/proc/self/clear_refs").write_text("5")  # peak_rss_mb starts again from what is held now
    held_mb = peak_rss_mb()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        loss = loss_of(hidden, weight, targets)
        loss.backward()
        seconds.append(time.perf_counter() - began)
        hidden.grad = weight.grad = None
    return {"seconds": median(seconds[1:]), "memory_mb": peak_rss_mb() - held_mb, "loss": float(loss)}


def _loss(variant: str) -> Callable[..., Any]:
    import torch.nn.functional as F
    from torch.nn import LinearCrossEntropyOptions

    from model.loss import head_loss

    if variant == "ours":
        return head_loss
    if variant == "cross_entropy":
        return lambda hidden, weight, targets: F.cross_entropy(F.linear(hidden, weight), targets)
    size = 256 if variant == "chunked-256" else None
    options = LinearCrossEntropyOptions(batch_chunk_size=size, chunking_method=None if size else "auto")
    return lambda hidden, weight, targets: F.linear_cross_entropy(hidden, weight, targets, options=options)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every variant in a process of its own, for each precision and vocabulary."""
    ratios: dict[str, float] = {}
    found: dict[str, dict[str, dict[str, float]]] = {variant: {} for variant in VARIANTS}
    for precision in PRECISIONS:
        for vocabulary in VOCABULARIES:
            case = f"{precision}/{vocabulary}"
            for variant in VARIANTS:
                size = [vocabulary, arguments.rows, arguments.width, arguments.repeats]
                command = [sys.executable, "-m", "benchmarks.loss", "--run", variant, precision, *map(str, size)]
                done = subprocess.run(
                    command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True
                )
                result = json.loads(done.stdout.splitlines()[-1])
                found[variant][case] = {name: round(value, 4) for name, value in result.items()}
                ratio = result["seconds"] / found["ours"][case]["seconds"]
                if variant != "ours":
                    ratios[f"{variant}/{case}"] = round(ratio, 2)
                print(
                    f"  {case:16} {variant:14} {result['seconds']:7.3f} s {ratio:6.2f} x "
                    f"{result['memory_mb']:7.0f} MB  loss {result['loss']:.4f}",
                    flush=True,
                )
    ours = found.pop("ours")
    return {
        "bench": "loss",
        "ratios": ratios,
        "ours": ours,
        "peers": found,
        "peak_rss_mb": max(one["memory_mb"] for one in ours.values()),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_024, help="tokens in a micro-batch")
    parser.add_argument("--width", type=int, default=768, help="of the model")
    parser.add_argument("--repeats", type=int, default=4, help="per variant; the first is left out")
    parser.add_argument("--threads", type=int, help="per process; default: one per core")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, not how fast it is")
    parser.add_argument("--run", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        variant, precision, *size = arguments.run
        print(json.dumps(measure(variant, precision, *map(int, size))))
        return
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # read by the children
    if arguments.quick:
        arguments.rows = 64
        arguments.width = 16
        arguments.repeats = 2
    print(json.dumps(compare(arguments)))


if __name__ == "__main__":
    main()
