"""What a training process measures: time by phase, memory, throughput and utilisation.

Exactly one phase runs at any time. On a GPU a phase begins with an event in the device's stream. Events are read only
when a report is due, so measuring makes no step wait. On a GPU, a phase's time is what the device spent on it, with
the idle time before it, and ``data`` is the time that the device waited for data.

``communication`` is the time spent waiting for gradients. DistributedDataParallel reduces gradients while the backward
pass computes others, so the phase begins when the last bucket is handed over and ends with the backward pass. What FSDP
gathers and scatters within the forward and backward passes counts as part of them.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from model.flops import Peak

PHASES = ("data", "forward", "backward", "communication", "optimizer", "validation", "checkpoint", "other")
MAX_EVENTS = 4_096  # marks held before they are read


class Timer:
    """Adds up time by phase."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._marks: list[tuple[str, Any]] = []  # phase and its beginning: seconds, or a CUDA event
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.start("other")

    def start(self, phase: str) -> None:
        """End the current phase and begin ``phase``, one of PHASES."""
        if len(self._marks) >= MAX_EVENTS:
            self._read()
        self._marks.append((phase, self._now()))

    def shares(self) -> dict[str, float]:
        """Each phase's share of the time since the last call; they sum to 1."""
        self.start(self._marks[-1][0])
        self._read()
        total = sum(self._seconds.values()) or 1.0
        shares = {phase: seconds / total for phase, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PHASES, 0.0)
        return shares

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        """Add up the marks; the last one stays, as its phase goes on."""
        if self._device.type == "cuda":
            self._marks[-1][1].synchronize()
        for (phase, began), (_, ended) in zip(self._marks, self._marks[1:], strict=False):
            is_event = self._device.type == "cuda"
            self._seconds[phase] += began.elapsed_time(ended) / 1e3 if is_event else ended - began
        del self._marks[:-1]


def time_reduction(model: DistributedDataParallel, timer: Timer) -> None:
    """Start ``communication`` when the backward pass hands over its last gradients; the reduction is unchanged."""

    def reduce(_: object, bucket):  # type: ignore[no-untyped-def] # torch compares the annotations, which must not be strings
        if bucket.is_last():
            timer.start("communication")
        return allreduce_hook(model.process_group, bucket)

    model.register_comm_hook(None, reduce)


class Meter:
    """Throughput of the steps since the last report, without validation, checkpoints and logging."""

    def __init__(self, flop_per_token: int, peak: Peak) -> None:
        """``peak`` is the sum over all processes."""
        self.peak = peak
        self._flop_per_token = flop_per_token
        self._tokens = 0
        self._seconds = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        """Count a step."""
        self._tokens = self._tokens + tokens
        self._seconds = self._seconds + seconds

    def read(self) -> dict[str, float]:
        """``tokens_per_s`` and ``mfu``, the utilisation in 0..1, since the last call."""
        rate = self._tokens / max(self._seconds, 1e-9)
        self._tokens = 0
        self._seconds = 0.0
        return {"tokens_per_s": rate, "mfu": self.mfu(rate)}

    def mfu(self, tokens_per_s: float) -> float:
        return tokens_per_s * self._flop_per_token / self.peak.flop_per_s


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory of this process: on a CUDA device what torch allocated, elsewhere resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes, Linux kilobytes
