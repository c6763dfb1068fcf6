"""The fp32 weights that training updates, by name, in every precision.

    float32, tf32, autocast    the model's own parameters
    bfloat16                   fp32 masters; the model's parameters are bfloat16 copies, so its products and activations
                               are bfloat16 (mixed precision as in Micikevicius et al., 2018; the range of bfloat16
                               needs no loss scaling)

The optimizer's state and the checkpoints belong to these weights. Gradients of masters are summed in fp32, over
micro-batches and over processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.sharding import split_like


class Weights:
    """The model's own parameters; torch sums their gradients."""

    def __init__(self, model: nn.Module) -> None:
        self.named: dict[str, nn.Parameter] = dict(model.named_parameters())

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self.named.values())

    def take_gradients(self) -> None:
        """Called after each backward pass."""

    def sum_gradients(self, processes: int) -> None:
        """Called after the last backward pass of a step: average the gradients over the processes."""

    def publish(self) -> None:
        """Called after an update, and after the weights were set."""

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the weights to unsharded tensors, the same in every process."""
        for name, weight in self.named.items():
            weight.copy_(split_like(tensors[name], weight))
        self.publish()


class Masters(Weights):
    """fp32 masters of a model, which is converted to bfloat16."""

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
