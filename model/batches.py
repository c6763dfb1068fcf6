"""The micro-batches of a process, read by a thread while the device computes the ones before.

On a GPU they wait in pinned memory, from where the device copies them without stopping the program.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import TrainConfig
from model.loader import Indices, Sampler, Tokens, rank_samples
from model.world import World

AHEAD = 1  # micro-batches that are read before they are asked for


@dataclass(frozen=True)
class MicroBatch:
    """Sequences that a process holds at once; both tensors are ``[len(samples), context]``, on the CPU."""

    samples: Indices
    ids: Tensor
    targets: Tensor


class Batches:
    """The micro-batches of consecutive steps; asking for another step than the next one starts there."""

    def __init__(self, config: TrainConfig, sampler: Sampler, train: Tokens, peers: World) -> None:
        """``config.micro_batch_size`` must be a number."""
        self._config = config
        self._sampler = sampler
        self._train = train
        self._peers = peers
        self._thread = ThreadPoolExecutor(1, "batches", initializer=_use, initargs=(peers.device,))
        self._ahead: deque[Future[MicroBatch]] = deque()
        self._wanted: Iterator[Indices] = iter(())
        self._next_step: int | None = None

    def of_step(self, step: int) -> Iterator[MicroBatch]:
        """This process's micro-batches of a step, which counts from 0; every process has equally many."""
        if step != self._next_step:
            self.drop()
            self._wanted = self._from(step)
        self._next_step = step + 1
        for _ in self.samples(step):
            while len(self._ahead) <= AHEAD:
                self._ahead.append(self._thread.submit(self._read, next(self._wanted)))
            yield self._ahead.popleft().result()

    def _from(self, step: int) -> Iterator[Indices]:
        while True:
            yield from self.samples(step)
            step += 1

    def drop(self) -> None:
        """Free what was read ahead."""
        self._ahead.clear()
        self._next_step = None

    def samples(self, step: int) -> list[Indices]:
        """The sample numbers of these micro-batches."""
        config = self._config
        assert isinstance(config.micro_batch_size, int)
        return list(
            rank_samples(
                config.samples_before(step),
                config.batch_at(step),
                config.micro_batch_size,
                self._peers.rank,
                self._peers.size,
            )
        )

    def _read(self, samples: Indices) -> MicroBatch:
        ids, targets = (torch.from_numpy(one.copy()) for one in self._sampler.batch(self._train, samples))
        if self._peers.device.type == "cuda":
            ids, targets = ids.pin_memory(), targets.pin_memory()
        return MicroBatch(samples, ids, targets)


def _use(device: torch.device) -> None:
    """A new thread would pin memory through the first GPU, and so take memory of it in every process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
