"""What training updates: the fp32 weights, by name, whatever the model computes with.

    float32, autocast    the model's own parameters
    bfloat16             fp32 masters; the model has bfloat16 copies of them, and so have its products and activations
                         (mixed precision of Micikevicius et al., 2018, without loss scaling, which bfloat16's range
                         does not need)

The optimizer's state and the checkpoints are of these. Gradients of masters are summed in fp32, over micro-batches and
over processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.sharding import split_like


class Weights:
    """The model's own parameters, whose gradients torch sums."""

    def __init__(self, model: nn.Module) -> None:
        self.named: dict[str, nn.Parameter] = dict(model.named_parameters())

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self.named.values())

    def take_gradients(self) -> None:
        """After each backward pass."""

    def sum_gradients(self, processes: int) -> None:
        """After the last one of a step: the mean over the processes."""

    def publish(self) -> None:
        """After an update, and after weights were set."""

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the weights to whole tensors, the same in every process."""
        for name, weight in self.named.items():
            weight.copy_(split_like(tensors[name], weight))
        self.publish()


class Masters(Weights):
    """fp32 masters of a model, which becomes bfloat16."""

    def __init__(self, model: nn.Module) -> None:
        self.named = {name: nn.Parameter(weight.detach().float()) for name, weight in model.named_parameters()}
        model.bfloat16()
        self._copies: list[Tensor] = list(model.parameters())
        self._masters: list[Tensor] = list(self.named.values())
        self.publish()

    def take_gradients(self) -> None:
        for master, copy in zip(self._masters, self._copies, strict=True):
            assert copy.grad is not None
            if master.grad is None:
                master.grad = copy.grad.float()
            else:
                master.grad += copy.grad
            copy.grad = None

    def sum_gradients(self, processes: int) -> None:
        for master in self._masters if processes > 1 else ():
            assert master.grad is not None
            dist.all_reduce(master.grad)
            master.grad /= processes

    @torch.no_grad()
    def publish(self) -> None:
        torch._foreach_copy_(self._copies, self._masters)
