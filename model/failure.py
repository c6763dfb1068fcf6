"""Steps that fail: what counts as a failure, and the report of one.

A failed step is noticed before the weights are updated with it. Training stops, and ``failure-<step>.json`` beside the
run's checkpoints says what happened and which documents the batch was made of; the checkpoints stay as they are. With
``max_steps_left_out`` the batch of a step that diverged is left out instead, up to that many times in the run: the step
counts as done, the weights stay, the samples do not come again in this epoch. Since all of it is a function of the
losses before, a run that was killed and resumed leaves the same steps out. Running out of memory always stops: every
batch has the same shape, the next one would fail alike.

What is a spike: a loss above the mean of the last ``SPIKE_WINDOW`` by more than ``SPIKE_DEVIATIONS`` of their standard
deviations and by more than ``SPIKE_FLOOR`` nats, once there are so many. With batches of half a million tokens losses
differ by a few hundredths and the floor decides: a nat is a perplexity 2.7 times higher. With batches of a few windows
they differ by tenths, a page of numbers is above the floor, and the deviations decide. Both are wide on purpose, as the
alarm stops the run: spikes that recover by themselves are common (Chowdhery et al., 2022, section 5.1, left batches out
by hand for those that did not).
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
SPIKE_FLOOR = 1.0  # nats a token
ADVICE: dict[Kind, str] = {
    "not_finite": "lower the learning rate or lengthen the warm-up with --set, under another --run, or go on without "
    "this batch with --set max_steps_left_out=N",
    "loss_spike": "go on without this batch with --set max_steps_left_out=N, or lower the learning rate under another "
    "--run",
    "out_of_memory": "lower micro_batch_size with --set, which changes nothing but rounding",
}
_OUT_OF_MEMORY = (
    "not enough memory",  # torch's CPU allocator, Windows and others
    "can't allocate memory",  # the same on Linux
    "out of memory",  # MPS; CUDA raises a type of its own
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its first use finds no memory for its work space
)


class FailedStepError(RuntimeError):
    """A step that cannot be done, or must not: the weights are not updated with it, and nothing is saved."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def require_finite(loss: float, grad_norm: float) -> None:
    """Raises FailedStepError unless both are finite."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FailedStepError("not_finite", f"loss {loss}, gradient norm {grad_norm}")


def refuse_divergence(losses: Sequence[float], loss: float, grad_norm: float) -> None:
    """Raises FailedStepError if the step with this loss must not update the weights; ``losses`` are those before it."""
    require_finite(loss, grad_norm)
    window = losses[-SPIKE_WINDOW:]
    if len(window) < SPIKE_WINDOW:
        return
    mean = math.fsum(window) / len(window)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in window) / len(window))
    if loss - mean > max(SPIKE_FLOOR, SPIKE_DEVIATIONS * deviation):
        raise FailedStepError(
            "loss_spike",
            f"loss {loss:.4g} after a mean of {mean:.4g} over {len(window)} steps with deviation {deviation:.2g}",
        )


def one_line(error: Exception) -> str:
    """The first line of what an exception says: torch's run over several."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def kind_of(error: Exception) -> Kind | None:
    """What kind of failed step an exception is, if it is one."""
    if isinstance(error, FailedStepError):
        return error.kind
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if is_memory or (isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)):
        return "out_of_memory"
    return None


def report(
    lake: Lake, snapshots: Sequence[str], state: State, sampler: Sampler, kind: Kind, what: str, *, is_left_out: bool
) -> str:
    """Publish the report of the step after ``state``, and return where it is."""
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
    """The windows of these samples and the documents they touch, as far as the lake knows them, as JSON."""
    n = sampler.n_tokens
    spans: dict[int, list[tuple[int, int]]] = {}  # of a sample: a window over the ring's end is two ranges
    for sample, start in zip(samples.tolist(), sampler.starts(samples).tolist(), strict=True):
        end = start + sampler.context + 1  # the last target is a token of the window
        spans[sample] = [(start, end)] if end <= n else [(start, n), (0, end - n)]
    try:
        found = find_documents(lake, snapshots, [span for ranges in spans.values() for span in ranges])
    except (InputError, OSError) as error:  # the report says what failed, not only what its documents were
        return {"windows": [], "documents": [], "documents_missing": str(error)}
    windows = []
    for sample, ranges in spans.items():
        ids = [d.doc_id for a, b in ranges for d in found if d.start < b and a < d.start + d.n_tokens]
        windows.append({"sample": sample, "tokens": ranges, "documents": ids})
    return {"windows": windows, "documents": [dataclasses.asdict(document) for document in found]}


def _publish(lake: Lake, run: str, step: int, report: dict[str, Any]) -> str:
    """Write ``failure-<step>.json`` and return where it is. An earlier report of the step with other words is kept."""
    report = orjson.loads(orjson.dumps(report))  # as it will be read
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
