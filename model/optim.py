"""The optimizer and its schedule.

AdamW (Loshchilov and Hutter, 2019) with decay on matrices and embeddings only, as GPT-1 ("all non bias or gain
weights"), and a learning rate that rises linearly and falls as a cosine, as GPT-2's successors describe it
(model/config.py names the source of each number).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.config import TrainConfig

ADAM_EPSILON = 1e-8  # GPT-3 paper, appendix B; also torch's default


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the parameters of ``model``; fused, which is several times faster than one operation a tensor."""
    decayed = [weight for weight in model.parameters() if weight.ndim >= 2]
    free = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=ADAM_EPSILON, fused=True)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update ``step``, counted from 0: linear to the peak, then a cosine to ``final_lr_share`` of it."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_lr_share + (1 - config.final_lr_share) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name, as ``<parameter>/<quantity>``; empty before the first step."""
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"{names[weight]}/{key}": value for weight, values in optimizer.state.items() for key, value in values.items()
    }


def load_state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of ``state_tensors``. The tensors must be on the devices of their parameters."""
    weights = dict(model.named_parameters())
    optimizer.state.clear()
    for name, tensor in tensors.items():
        weight, _, key = name.partition("/")
        optimizer.state[weights[weight]][key] = tensor
