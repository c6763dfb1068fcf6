"""Score requests with lm-evaluation-harness's HFLM, as ``lm_eval --model hf`` does.

    python benchmarks/eval_peers/hflm.py '{"model": DIR, "requests": FILE, "loads": [..], "batch_size": 4}'

HFLM gets the tokens that our engine gets, through the method that its tasks end in, so tokenizing is not measured.
Prints one JSON line: for each load its seconds, CPU seconds and log-likelihoods; and peak memory.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM


def measure(size: dict[str, Any]) -> dict[str, Any]:
    loads = json.loads(Path(size["requests"]).read_bytes())
    model = HFLM(pretrained=size["model"], device="cpu", dtype="float32", batch_size=size["batch_size"])
    found: dict[str, Any] = {}
    warm = [(("", ""), context[-8:], continuation[:4]) for context, continuation in loads["lambada"][:2]]
    model._loglikelihood_tokens(warm, disable_tqdm=True)
    for load in size["loads"]:
        asked = [((f"context {n}", f"continuation {n}"), *request) for n, request in enumerate(loads[load])]
        began, cpu_began = time.perf_counter(), time.process_time()
        answers = model._loglikelihood_tokens(asked, disable_tqdm=True)
        found[load] = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu_began,
            "log_likelihoods": [float(answer[0]) for answer in answers],
        }
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"loads": found, "peak_rss_mb": round(int(peak.split()[1]) / 1024, 1), "threads": torch.get_num_threads()}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    print(json.dumps(measure(json.loads(sys.argv[1]))))
