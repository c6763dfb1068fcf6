"""Our Trainer, driven as the training loop drives it."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._dynamo.utils import counters

from benchmarks.gpu.job import Job
from model import world
from model.config import ModelConfig, TrainConfig
from model.flops import flop_per_token
from model.gpt2 import count_parameters
from model.loader import Corpus
from model.machine import settle
from model.memory import estimate_for
from model.optim import state_tensors
from model.trainer import Pending, Trainer
from model.world import World

T = TypeVar("T")
LARGE = 1_024


def settled(
    job: Job, model: ModelConfig, device: str = "", **settings: Any
) -> tuple[TrainConfig, World, tuple[str, ...]]:
    """The settings with nothing left at "auto", the device, and what a run would say about them."""
    peers = world.join(device or job.device_name)
    config = TrainConfig(**{"warmup_steps": 10, "steps": 1_000, **settings})
    config, notes = settle(model, config, peers)
    return config, peers, notes


def make(job: Job, model: ModelConfig, corpus: Corpus, device: str = "", **settings: Any) -> Trainer:
    """A trainer with everything else as it comes. The weights of a large model are drawn on the device: on a CPU that
    takes a quarter of a minute.
    """
    config, peers, _ = settled(job, model, device, **settings)
    with peers.device if model.width >= LARGE and job.is_cuda else contextlib.nullcontext():
        return Trainer(model, config, corpus, peers)


def run(trainer: Trainer, count: int) -> list[float]:
    """The losses of so many steps; as in the loop, a step may be queued before the one before it is read."""
    pending: deque[Pending] = deque()
    losses = []
    for _ in range(count):
        pending.append(trainer.train_step())
        if len(pending) > trainer.lag:
            losses.append(pending.popleft().read().loss)
    losses += [one.read().loss for one in pending]
    return losses


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of the weights and of the optimizers' state."""
    held = {**trainer.weights.named, **state_tensors(trainer.weights.named, trainer.optimizers)}
    return {name: tensor.detach().clone() for name, tensor in held.items()}


def free(job: Job) -> None:
    """Give back the memory of trainers that are no longer used, and forget what was compiled: torch would compile
    other sizes for all sizes (dynamic shapes), which is slower than what a run gets.
    """
    torch.compiler.reset()
    gc.collect()
    if job.is_cuda:
        torch.cuda.empty_cache()


def halving(
    build: Callable[[int | None], T], chosen: Callable[[], int], free: Callable[[], None]
) -> tuple[T, list[int]]:
    """What ``build`` makes with as large a micro-batch as fits, and those that did not fit.

    ``build(None)`` takes the micro-batch that ``auto`` chooses, which is ``chosen()``.
    """
    too_large: list[int] = []
    size: int | None = None
    while True:
        try:
            return build(size), too_large
        except torch.OutOfMemoryError:
            tried = size or chosen()
            if tried == 1:
                raise
        free()  # not in the handler: the error holds the tensors
        too_large.append(tried)
        size = tried // 2


def fitting(job: Job, model: ModelConfig, corpus: Corpus, *, is_whole: bool = False, **settings: Any) -> Subject:
    """A subject that fits into the memory; its facts say which micro-batches did not."""

    def build(size: int | None) -> Subject:
        chosen = {} if size is None else {"micro_batch_size": size}
        return Subject(job, model, corpus, is_whole=is_whole, **{**settings, **chosen})

    made, made_too_large = halving(build, lambda: _chosen(job, model, **settings), lambda: free(job))
    made.too_large = made_too_large
    return made


def _chosen(job: Job, model: ModelConfig, **settings: Any) -> int:
    size = settled(job, model, **settings)[0].micro_batch_size
    assert isinstance(size, int)
    return size


class Subject:
    """A trainer that is measured in turns. The first steps, which compile, are timed apart."""

    def __init__(
        self, job: Job, model: ModelConfig, corpus: Corpus, *, is_whole: bool = False, **settings: Any
    ) -> None:
        """``is_whole``: compile everything below the head as one, instead of each block."""
        self.job = job
        self.losses: list[float] = []
        self.too_large: list[int] = []  # micro-batches that did not fit
        _, _, self.notes = settled(job, model, **settings)
        held = self._allocated()
        began = time.perf_counter()
        self.trainer = make(job, model, corpus, **settings)
        self.build_s = time.perf_counter() - began
        if is_whole:
            self.trainer.model.hidden = torch.compile(self.trainer.model.hidden)  # type: ignore[method-assign]
            self.trainer.model.has_loss_kernel = True
        self.tokens_per_step = self.trainer.config.batch_size * model.context
        self.first_s = self._timed(1)  # compiles
        self.step_s = self._timed(1)
        self.resident = self._allocated() - held
        self.peak_bytes = 0
        self.flop_per_token = flop_per_token(model, count_parameters(model))

    def turn(self, seconds: float) -> float:
        """Train for about so many seconds; returns tokens/s."""
        others = self._allocated() - self.resident
        if self.job.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        self._timed(1)  # allocates what the turn before gave back
        steps = max(1, round(seconds / self.step_s))
        self.step_s = self._timed(steps) / steps
        if self.job.is_cuda:
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated() - others)
            torch.cuda.empty_cache()  # for the other subjects
        return self.tokens_per_step / self.step_s

    def facts(self) -> dict[str, Any]:
        """The settings that ``auto`` chose, the memory, and the seconds of building, compiling and one step."""
        config = self.trainer.config
        return {
            "micro_batch_size": config.micro_batch_size,
            "did_not_fit": self.too_large,
            "notes": list(self.notes),
            "tokens_per_step": self.tokens_per_step,
            "compile": config.compile,
            "graphs": counters["stats"]["unique_graphs"],  # compiled by this process so far
            "precision": config.precision,
            "build_s": round(self.build_s, 2),
            "first_step_s": round(self.first_s, 2),
            "step_s": round(self.step_s, 4),
            "peak_bytes": self.peak_bytes,
            "predicted_bytes": self.predicted_bytes(),
            "flop_per_token": self.flop_per_token,
            "first_loss": round(self.losses[0], 4),
            "last_loss": round(self.losses[-1], 4),
        }

    def predicted_bytes(self) -> int:
        """What the dry run would say."""
        config = self.trainer.config
        model = self.trainer.model.config
        assert isinstance(config.micro_batch_size, int)
        return estimate_for(model, config, count_parameters(model), config.micro_batch_size, 1).total

    def _timed(self, steps: int) -> float:
        self.job.synchronize()
        began = time.perf_counter()
        self.losses += run(self.trainer, steps)
        self.job.synchronize()
        return time.perf_counter() - began

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.job.is_cuda else 0
