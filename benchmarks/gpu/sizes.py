"""1558M, 774M and 355M, ours only: speed and memory with as large a micro-batch as fits."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.gpu.child import one_line
from benchmarks.gpu.corpus import make as make_corpus
from benchmarks.gpu.job import Job
from benchmarks.gpu.ours import fitting, free

PRESETS = ("1558M", "774M", "355M")  # in order of worth
TURN_S = 4.0
LEAST_S = 25.0  # building, compiling and a turn
BATCH = 128  # sequences per step: several micro-batches of every size


def sizes(job: Job) -> None:
    found: dict[str, Any] = {}
    for preset in job.pick(PRESETS, PRESETS[:1]):
        if job.has(job.pick(LEAST_S, 0), preset):
            found[preset] = _size(job, preset)
            job.put(sizes=found)
            free(job)


def _size(job: Job, preset: str) -> dict[str, Any]:
    """The rate and facts of a size. One that does not fit says so, and the next one is still tried."""
    model = job.model(preset)
    corpus = make_corpus(job.pick(2_000_000, 8_000), 2_000, model.vocab_size)
    try:
        measured = fitting(job, model, corpus, batch_size=job.pick(BATCH, 4))
        return {"tokens_per_s": round(measured.turn(job.pick(TURN_S, 0.0)), 1), **measured.facts()}
    except torch.OutOfMemoryError as error:
        return {"error": one_line(error)}
