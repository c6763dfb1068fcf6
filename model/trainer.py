"""A model in training: the step and the validation, in one process or several.

Everything random is a function of the seed and the number of samples seen: the order of samples (model/loader.py), and
the dropout masks, whose generator is seeded for each micro-batch with the number of its first sample.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.batches import Batches
from model.capacity import Capacity, Need, choose, silent
from model.compiling import compile_model
from model.config import ModelConfig, TrainConfig
from model.gpt2 import GPT2
from model.loader import Corpus, Sampler, derive_seed, val_windows
from model.optim import learning_rate, make_optimizers, set_learning_rate
from model.sharding import set_gradient_sync, shard, whole
from model.telemetry import Timer, time_reduction
from model.weights import Masters, Weights
from model.world import World

CPU_VAL_TOKENS = 1_024  # in one forward pass of the validation
MPS_VAL_TOKENS = 16_384


class _Head(nn.Module):
    """The loss as a module's ``forward``, which DistributedDataParallel hooks into."""

    def __init__(self, model: GPT2) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        return self.model.loss(ids_BT, targets_BT)


@dataclass(frozen=True)
class StepResult:
    """What came of a step. A refused one changed neither the weights nor the optimizers."""

    loss: float  # the batch's mean, nats per token
    grad_norm: float  # before clipping
    is_refused: bool  # not finite, or above the step's limit
    stop_requests: int  # processes that want to stop


class Pending:
    """The numbers of a step that the device may still be computing."""

    def __init__(self, numbers: Tensor) -> None:
        """``numbers`` are the fields of StepResult, in fp64 where the device has it."""
        self._done = torch.cuda.Event() if numbers.is_cuda else None
        self._numbers = torch.empty_like(numbers, device="cpu", pin_memory=numbers.is_cuda)
        self._numbers.copy_(numbers, non_blocking=numbers.is_cuda)
        if self._done is not None:
            self._done.record()

    def read(self) -> StepResult:
        """Waits for the device."""
        if self._done is not None:
            self._done.synchronize()
        loss, norm, is_refused, stop_requests = self._numbers.tolist()
        return StepResult(loss, norm, bool(is_refused), int(stop_requests))


class Trainer:
    """The weights and optimizers of a model, and the number of steps done, which decides the next samples.

    ``lag`` is how many steps may be begun before the result of the first one is read, so that a GPU has work while this
    program waits for numbers. A step's check and its update then both run on the device.
    """

    def __init__(self, model: ModelConfig, config: TrainConfig, corpus: Corpus, peers: World) -> None:
        """Nothing in ``config`` may be "auto" but ``val_batch_tokens`` (model/machine.py)."""
        assert config.precision != "auto"
        assert config.compile != "auto"
        self.config = config
        self.corpus = corpus
        self.world = peers
        self.sampler = Sampler(corpus.digest, config.seed, len(corpus.train), model.context)
        self.batches = Batches(config, self.sampler, corpus.train, peers)
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
        # Muon and AdamW on shards cannot skip an update by themselves, so the program decides.
        self._is_checked_by_optimizer = (
            not self.is_sharded
            and peers.device.type in ("cpu", "cuda")
            and all(isinstance(optimizer, torch.optim.AdamW) for optimizer in self.optimizers)
        )
        self.lag = 1 if self._is_checked_by_optimizer and peers.device.type == "cuda" else 0
        if config.compile:
            compile_model(self.model)
        head = _Head(self.model)
        has_ddp = peers.size > 1 and not self.is_sharded and config.precision != "bfloat16"
        self._ddp = nn.parallel.DistributedDataParallel(head) if has_ddp else None
        if self._ddp is not None:
            time_reduction(self._ddp, self.timer)
        self._loss: nn.Module = self._ddp or head

    def train_step(self, loss_limit: float = math.inf, should_stop: Callable[[], bool] = lambda: False) -> Pending:
        """Begin an update with the next samples.

        It is refused if the loss exceeds ``loss_limit``, or if the loss or the gradient is not finite; the step then
        counts as done without it. ``should_stop`` is called once, after the backward passes.
        """
        self.model.train()
        device = self.world.device
        wide = torch.float32 if device.type == "mps" else torch.float64
        loss_sum = torch.zeros((), dtype=wide, device=device)
        share = self.config.batch_at(self.step) / self.world.size
        seen = 0
        self.timer.start("data")
        for micro_batch in self.batches.of_step(self.step):
            samples = micro_batch.samples
            seen += len(samples)
            torch.manual_seed(derive_seed(self.config.seed, f"dropout/{samples[0]}"))
            self.timer.start("forward")
            with self._gradient_sync(is_last=seen == share):
                loss = self._forward(micro_batch.ids, micro_batch.targets)
                loss = loss / (share / len(samples))  # an integer for equal micro-batches
                self.timer.start("backward")
                loss.backward()
            self.weights.take_gradients()
            loss_sum += loss.detach()
            self.timer.start("data")
        self.timer.start("communication")
        self.weights.sum_gradients(self.world.size)
        loss_sum, stop_requests = self.world.add_up(
            torch.stack([loss_sum / self.world.size, loss_sum.new_full((), float(should_stop()))])
        )
        self.timer.start("optimizer")
        norm = whole(nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm))
        is_fine = torch.isfinite(loss_sum) & torch.isfinite(norm) & (loss_sum <= loss_limit)
        self._update(~is_fine)
        self.step += 1
        self.timer.start("other")
        return Pending(torch.stack([loss_sum, norm.to(wide), (~is_fine).to(wide), stop_requests]))

    @torch.no_grad()
    def _update(self, is_refused: Tensor) -> None:
        """Update the weights unless the step is refused; drops the gradients."""
        set_learning_rate(self.optimizers, learning_rate(self.step, self.config))
        if self._is_checked_by_optimizer:
            for optimizer in self.optimizers:
                optimizer.found_inf = is_refused.float()  # type: ignore[attr-defined] # as torch's GradScaler does
                optimizer.step()
        elif not is_refused.item():
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.weights.publish()

    def _gradient_sync(self, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Sum gradients over the processes in the last micro-batch of a step only."""
        if self.is_sharded:
            set_gradient_sync(self.model, is_last=is_last)
        return contextlib.nullcontext() if self._ddp is None or is_last else self._ddp.no_sync()

    @torch.no_grad()
    def validate(self, warn: Callable[[str], None] = silent) -> tuple[float, int]:
        """Mean loss over the validation windows, in nats per token, and their number of tokens.

        ``warn`` gets a message when memory ran out and the validation went on in smaller passes. Raises FailedStepError
        if a single window does not fit, and with fsdp, where a pass is the work of all processes.
        """
        self.model.eval()
        context = self.sampler.context
        windows = val_windows(len(self.corpus.val), context, self.config.val_sequences)
        capacity = self._capacity
        capacity.warn = warn
        losses = []
        for turn in _turns(list(_batches(windows, capacity.rows(context))), self.world.size):
            starts, length, is_own = turn[self.world.rank]
            while starts:
                part = starts[: capacity.rows(length)]
                loss = capacity.attempt(len(part), length, functools.partial(self._val_loss, part, length))
                if loss is not None:
                    losses.append((loss, len(part) if is_own else 0, length))
                    starts = starts[len(part) :]
        total = 0.0
        tokens = 0
        for loss, count, length in losses:  # read after the last one, so as not to wait for a GPU in between
            total += float(loss) * count * length
            tokens += count * length
        total, n_tokens = self.world.sum(total, tokens)
        own = capacity.tokens
        capacity.tokens = self.world.least(own)
        if capacity.tokens < own:
            warn(
                f"another process ran out of memory: the validation goes on with at most {capacity.tokens:,} positions"
            )
        return total / n_tokens, int(n_tokens)

    @functools.cached_property
    def _capacity(self) -> Capacity:
        """The same in all processes, which deal windows by it, until one of them runs out of memory."""
        device = self.world.device
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        need = Need.of(self.model.config, parameters, self.config.precision)
        return Capacity(
            self.world.least(choose(self.config.val_batch_tokens, device, need, CPU_VAL_TOKENS, MPS_VAL_TOKENS)),
            device,
            what="the validation",
            setting="--set val_batch_tokens=",
            advice="free memory on the device, or train on one with more",
            can_shrink=not self.is_sharded,
        )

    def _val_loss(self, starts: list[int], length: int) -> Tensor:
        rows = np.stack([self.corpus.val[start : start + length + 1] for start in starts]).astype(np.int64)
        rows_BT = torch.from_numpy(rows)
        return self._forward(rows_BT[:, :-1], rows_BT[:, 1:], self.model.loss)

    def _forward(
        self, ids_BT: Tensor, targets_BT: Tensor, loss: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> Tensor:
        device = self.world.device
        ids_BT = ids_BT.to(device, non_blocking=True)
        targets_BT = targets_BT.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "autocast"):
            return (loss or self._loss)(ids_BT, targets_BT)  # type: ignore[no-any-return]


Batch = tuple[list[int], int, bool]
"""Starts and length of some windows, and whether they count: another process counts those that fill up a turn."""


def _turns(batches: list[Batch], processes: int) -> Iterator[list[Batch]]:
    """Deal the batches to the processes; with fsdp all of them must take part in every pass."""
    for first in range(0, len(batches), processes):
        turn = batches[first : first + processes]
        starts, length, _ = turn[0]
        yield turn + [(starts, length, False)] * (processes - len(turn))


def _batches(windows: list[tuple[int, int]], in_one: int) -> Iterator[Batch]:
    """Batches of up to ``in_one`` windows of the same length."""
    while windows:
        length = windows[0][1]
        batch = [start for start, other in windows[:in_one] if other == length]
        yield batch, length, True
        windows = windows[len(batch) :]
