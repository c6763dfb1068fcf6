"""A model in training: the step and the validation, in one process or several.

Everything random is a function of the seed and the number of samples seen: the order of samples (model/loader.py), and
the dropout masks, whose generator is seeded for each micro-batch with the number of its first sample.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.config import ModelConfig, TrainConfig
from model.failure import require_finite
from model.gpt2 import GPT2
from model.loader import Corpus, Indices, Sampler, derive_seed, rank_samples, val_windows
from model.optim import learning_rate, make_optimizers, set_learning_rate
from model.sharding import set_gradient_sync, shard, whole
from model.telemetry import Timer, time_reduction
from model.weights import Masters, Weights
from model.world import World

CPU_VAL_TOKENS = 1_024  # in one forward pass of the validation
GPU_VAL_TOKENS = 16_384


class _Head(nn.Module):
    """The loss as a module's ``forward``, which DistributedDataParallel hooks into."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.model.loss(ids_BT, targets_BT)


class Trainer:
    """The weights and optimizers of a model, and the number of steps done, which decides the next samples."""

    def __init__(self, model: ModelConfig, config: TrainConfig, corpus: Corpus, peers: World) -> None:
        self.config = config
        self.corpus = corpus
        self.world = peers
        self.sampler = Sampler(corpus.digest, config.seed, len(corpus.train), model.context)
        self.step = 0
        self.timer = Timer(peers.device)
        config.require_divisible(peers.size)
        # For the whole process. "high" is TF32: products of fp32 numbers read the first 10 bits of the mantissa.
        torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.model = GPT2(model).to(peers.device)
        self.model.recompute = config.recompute
        self.is_sharded = config.parallel == "fsdp" and peers.size > 1
        if self.is_sharded:
            shard(self.model, peers.device.type, peers.size, config.precision)
        self.weights = Masters(self.model) if config.precision == "bfloat16" else Weights(self.model)
        self.optimizers = make_optimizers(self.weights.named, config)
        if config.compile:
            for block in self.model.blocks:
                block.compile()
        head = _Head(self.model)
        has_ddp = peers.size > 1 and not self.is_sharded and config.precision != "bfloat16"
        self._ddp = nn.parallel.DistributedDataParallel(head) if has_ddp else None
        if self._ddp is not None:
            time_reduction(self._ddp, self.timer)
        self._loss: nn.Module = self._ddp or head

    def _samples(self) -> list[Indices]:
        """This process's samples of the next step by micro-batch; every process has equally many."""
        config = self.config
        seen = config.samples_before(self.step)
        batch_size = config.batch_at(self.step)
        return list(rank_samples(seen, batch_size, config.micro_batch_size, self.world.rank, self.world.size))

    def train_step(self, check: Callable[[float, float], None] = require_finite) -> tuple[float, float]:
        """One update; returns the batch's mean loss (nats per token) and the gradient's norm before clipping.

        ``check`` gets both before the update and raises FailedStepError to prevent it.
        """
        self.model.train()
        losses = []
        micro_batches = self._samples()
        share = self.config.batch_at(self.step) / self.world.size
        for index, samples in enumerate(micro_batches):
            torch.manual_seed(derive_seed(self.config.seed, f"dropout/{samples[0]}"))
            self.timer.start("data")
            batch = self.sampler.batch(self.corpus.train, samples)
            self.timer.start("forward")
            with self._gradient_sync(is_last=index == len(micro_batches) - 1):
                loss = self._forward(*batch) / (share / len(samples))  # an integer for equal micro-batches
                self.timer.start("backward")
                loss.backward()
            self.weights.take_gradients()
            losses.append(loss.detach())  # read after the last one, so as not to wait for a GPU in between
        self.timer.start("communication")
        self.weights.sum_gradients(self.world.size)
        mean = self.world.sum(sum(loss.item() for loss in losses))[0] / self.world.size
        self.timer.start("optimizer")
        norm = float(whole(nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)))
        check(mean, norm)
        set_learning_rate(self.optimizers, learning_rate(self.step, self.config))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.weights.publish()
        self.step += 1
        self.timer.start("other")
        return mean, norm

    def leave_out(self) -> None:
        """Count a step that ``train_step`` refused, without its update."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.timer.start("other")

    def _gradient_sync(self, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Sum gradients over the processes in the last micro-batch of a step only."""
        if self.is_sharded:
            set_gradient_sync(self.model, is_last=is_last)
        return contextlib.nullcontext() if self._ddp is None or is_last else self._ddp.no_sync()

    @torch.no_grad()
    def validate(self) -> tuple[float, int]:
        """Mean loss over the validation windows, in nats per token, and their number of tokens."""
        self.model.eval()
        context = self.sampler.context
        windows = val_windows(len(self.corpus.val), context, self.config.val_sequences)
        in_one = max(1, (CPU_VAL_TOKENS if self.world.device.type == "cpu" else GPU_VAL_TOKENS) // context)
        total = 0.0
        tokens = 0
        size = self.world.size
        for turn in _turns(list(_batches(windows, in_one)), size):  # with fsdp all processes take part in every pass
            start, length, count = turn[self.world.rank]
            rows = np.stack([self.corpus.val[s : s + length + 1] for s in start]).astype(np.int64)
            loss = float(self._forward(rows[:, :-1], rows[:, 1:], self.model.loss))
            total += loss * count * length
            tokens += count * length
        total, n_tokens = self.world.sum(total, tokens)
        return total / n_tokens, int(n_tokens)

    def _forward(self, ids: Any, targets: Any, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        device = self.world.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "autocast"):
            ids_BT, targets_BT = (_to(device, x) for x in (ids, targets))
            return (loss or self._loss)(ids_BT, targets_BT)  # type: ignore[no-any-return]


def _to(device: torch.device, numbers: Any) -> Tensor:
    """Copy to the device; a GPU reads pinned memory while the CPU goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


Batch = tuple[list[int], int, int]
"""Starts, length and number of some windows; the number is 0 for a batch that another process counts."""


def _turns(batches: list[Batch], processes: int) -> Iterator[list[Batch]]:
    """Deal the batches to the processes; in the last turn, processes without one get a batch that does not count."""
    for first in range(0, len(batches), processes):
        turn = batches[first : first + processes]
        start, length, _ = turn[0]
        yield turn + [(start, length, 0)] * (processes - len(turn))


def _batches(windows: list[tuple[int, int]], in_one: int) -> Iterator[Batch]:
    """Batches of up to ``in_one`` windows of the same length."""
    while windows:
        length = windows[0][1]
        batch = [start for start, other in windows[:in_one] if other == length]
        yield batch, length, len(batch)
        windows = windows[len(batch) :]
