"""What a training process measures of itself: where the time goes, memory, throughput, utilisation.

The split of the time is exclusive: at every moment exactly one phase runs. On a GPU the moments are events in its
stream, read when a report is due and not before, so that measuring makes no step wait; a phase is then the time that
the device spent on it or idle before it, and ``data`` is what the device waited for.

``communication`` is what was waited for: gradients are reduced while the backward pass still computes others
(DistributedDataParallel), so it begins when the last bucket of them is handed over, and ends with the backward pass.
What FSDP gathers and scatters inside of the passes is part of them.
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
MAX_EVENTS = 4_096  # of a GPU's stream that are held until they are read


class Timer:
    """Time by phase; one phase follows the other."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._marks: list[tuple[str, Any]] = []  # a phase and when it began: seconds, or a CUDA event
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.start("other")

    def start(self, phase: str) -> None:
        """From now on time belongs to ``phase``, one of PHASES."""
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
        """Add up what the marks say, and keep the last one, whose phase goes on."""
        if self._device.type == "cuda":
            self._marks[-1][1].synchronize()
        for (phase, began), (_, ended) in zip(self._marks, self._marks[1:], strict=False):
            is_event = self._device.type == "cuda"
            self._seconds[phase] += began.elapsed_time(ended) / 1e3 if is_event else ended - began
        del self._marks[:-1]


def time_reduction(model: DistributedDataParallel, timer: Timer) -> None:
    """Have ``timer`` know when the backward pass has handed over its last gradients; the mean stays as it is."""

    def reduce(_: object, bucket):  # type: ignore[no-untyped-def] # torch compares annotations as objects, not as text
        if bucket.is_last():
            timer.start("communication")
        return allreduce_hook(model.process_group, bucket)

    model.register_comm_hook(None, reduce)


class Meter:
    """Throughput of the steps since the last report: validation, checkpoints and logging are not in it."""

    def __init__(self, flop_per_token: int, peak: Peak) -> None:
        """``peak`` is that of all processes together."""
        self.peak = peak
        self._flop_per_token = flop_per_token
        self._tokens = 0
        self._seconds = 0.0

    def add(self, seconds: float, tokens: int) -> None:
        """A step of so many tokens took so long."""
        self._tokens = self._tokens + tokens
        self._seconds = self._seconds + seconds

    def read(self) -> dict[str, float]:
        """``tokens_per_s`` and ``mfu`` (a share of the peak) since the last call."""
        rate = self._tokens / max(self._seconds, 1e-9)
        self._tokens = 0
        self._seconds = 0.0
        return {"tokens_per_s": rate, "mfu": self.mfu(rate)}

    def mfu(self, tokens_per_s: float) -> float:
        return tokens_per_s * self._flop_per_token / self.peak.flop_per_s


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process held so far: of a CUDA device what torch allocated, elsewhere resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)  # macOS counts bytes, Linux kilobytes
