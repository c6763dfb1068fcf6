"""Failed steps: what counts as a failure, and how it is reported.

A failure is noticed before it changes the weights. Training stops, the checkpoints stay as they are, and
``failure-<step>.json`` beside them says what happened and which documents were in the batch. With
``max_steps_left_out``, up to that many batches per run that diverged are left out instead: the step counts as done, the
weights stay, and its samples do not return in this epoch. This depends on earlier losses only, so a run that was killed
and resumed leaves the same steps out. On a GPU a step begins before the loss of the one before is read, so there the
losses end one step earlier. Running out of memory always stops training: all batches have the same shape, so
the next one would fail too.

A spike is a loss that exceeds the mean of the last ``SPIKE_WINDOW`` losses by more than ``SPIKE_DEVIATIONS`` standard
deviations and by more than ``SPIKE_FLOOR`` nats. With batches of half a million tokens, losses differ by a few
hundredths and the floor decides: one nat is a perplexity 2.7 times higher. With batches of a few windows, losses differ
by tenths, a page of numbers exceeds the floor, and the deviations decide. Both thresholds are wide on purpose: a spike
stops the run, and many spikes recover by themselves. (Chowdhery et al., 2022, section 5.1, skipped batches by hand
after spikes that did not recover.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import orjson
import torch

from data.errors import InputError
from data.lake.store import Lake
from model.checkpoint import LOSS_WINDOW, State
from model.config import TrainConfig
from model.loader import Indices, Sampler
from model.optim import learning_rate
from model.provenance import find_documents

Kind = Literal["not_finite", "loss_spike", "out_of_memory"]
SPIKE_WINDOW = 100  # losses
SPIKE_DEVIATIONS = 10.0
SPIKE_FLOOR = 1.0  # nats per token
ADVICE: dict[Kind, str] = {
    "not_finite": "lower the learning rate or lengthen the warm-up with --set, under another --run, or go on without "
    "this batch with --set max_steps_left_out=N",
    "loss_spike": "go on without this batch with --set max_steps_left_out=N, or lower the learning rate under another "
    "--run",
    "out_of_memory": "lower micro_batch_size with --set; without dropout this changes rounding only",
}
_OUT_OF_MEMORY = (
    "not enough memory",  # torch's CPU allocator, Windows and others
    "can't allocate memory",  # the same on Linux
    "out of memory",  # MPS; CUDA raises torch.OutOfMemoryError
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # at the first use of cuBLAS, if there is no memory for its workspace
)


class FailedStepError(RuntimeError):
    """A step that failed or diverged: it did not update the weights, and nothing was saved."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def loss_limit(losses: Sequence[float]) -> float:
    """The loss above which a step after these losses is a spike; infinite after fewer than ``SPIKE_WINDOW``."""
    window = losses[-SPIKE_WINDOW:]
    if len(window) < SPIKE_WINDOW:
        return math.inf
    mean, deviation = _spread(window)
    return mean + max(SPIKE_FLOOR, SPIKE_DEVIATIONS * deviation)


def why_refused(losses: Sequence[float], loss: float, grad_norm: float) -> tuple[Kind, str]:
    """The kind of failure of a step that was refused after ``losses``, and what to say about it."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return "not_finite", f"loss {loss}, gradient norm {grad_norm}"
    window = losses[-SPIKE_WINDOW:]
    mean, deviation = _spread(window)
    before = f"a mean of {mean:.4g} over {len(window)} steps with deviation {deviation:.2g}"
    return "loss_spike", f"loss {loss:.4g} after {before}"


def _spread(losses: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = math.fsum(losses) / len(losses)
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in losses) / len(losses))


def one_line(error: Exception) -> str:
    """The first line of an exception's message; torch's have several."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def kind_of(error: Exception) -> Kind | None:
    """The kind of failed step that an exception stands for; None for a defect."""
    if isinstance(error, FailedStepError):
        return error.kind
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if is_memory or (isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)):
        return "out_of_memory"
    return None


def report(
    lake: Lake, snapshots: Sequence[str], state: State, sampler: Sampler, kind: Kind, what: str, *, is_left_out: bool
) -> str:
    """Publish the report of the step after ``state``; returns its path."""
    config = TrainConfig.from_json(state.train, "state")
    first = state.samples_seen
    last = state.samples_seen + config.batch_at(state.step) - 1
    contents = {
        "run": state.run,
        "step": state.step + 1,
        "kind": kind,
        "what": what,
        "outcome": "the batch was left out" if is_left_out else "training stopped",
        "learning_rate": learning_rate(state.step, config),
        "losses_before": state.recent_losses[-LOSS_WINDOW:],
        "samples": [first, last],
        **_documents(lake, snapshots, sampler, np.arange(first, last + 1, dtype=np.int64)),
    }
    return _publish(lake, state.run, state.step + 1, contents)


def _documents(lake: Lake, snapshots: Sequence[str], sampler: Sampler, samples: Indices) -> dict[str, Any]:
    """JSON of the windows of these samples and of the documents they touch, if the lake has them."""
    n = sampler.n_tokens
    spans: dict[int, list[tuple[int, int]]] = {}  # by sample; a window across the ring's end has two
    for sample, start in zip(samples.tolist(), sampler.starts(samples).tolist(), strict=True):
        end = start + sampler.context + 1  # the last target is a token of the window
        spans[sample] = [(start, end)] if end <= n else [(start, n), (0, end - n)]
    try:
        found = find_documents(lake, snapshots, [span for ranges in spans.values() for span in ranges])
    except (InputError, OSError) as error:  # the report is of use without its documents
        return {"windows": [], "documents": [], "documents_missing": str(error)}
    windows = []
    for sample, ranges in spans.items():
        ids = [d.doc_id for a, b in ranges for d in found if d.start < b and a < d.start + d.n_tokens]
        windows.append({"sample": sample, "tokens": ranges, "documents": ids})
    return {"windows": windows, "documents": [dataclasses.asdict(document) for document in found]}


def _publish(lake: Lake, run: str, step: int, report: dict[str, Any]) -> str:
    """Publish ``failure-<step>.json``; returns its path. A different earlier report of this step is kept."""
    report = orjson.loads(orjson.dumps(report))  # as read_json returns it, to compare
    number = 1
    while True:
        name = f"failure-{step:08d}.json" if number == 1 else f"failure-{step:08d}-{number}.json"
        if not lake.exists("checkpoints", run, name):
            lake.publish_json(report, "checkpoints", run, name)
            break
        if lake.read_json("checkpoints", run, name) == report:
            break
        number += 1
    return lake.path("checkpoints", run, name)
