"""The optimizers and the schedules of the learning rate.

    adamw    AdamW (Loshchilov and Hutter, 2019) with decay on matrices and embeddings only, as in GPT-1 ("all non bias
             or gain weights")
    muon     Muon (Jordan et al., 2024) for the matrices of the blocks, AdamW for the rest. Muon's updates are scaled to
             the size of AdamW's (Liu et al., "Muon is scalable for LLM training", 2025, section 2.2), so one learning
             rate serves both

    cosine   a linear rise, then half a cosine down to ``final_lr_share`` of the peak, as in GPT-3
    wsd      a linear rise, a constant rate, and a linear fall over the last ``decay_share`` of the steps (Hu et al.,
             MiniCPM, 2024; a share of 0.2 and a linear fall: Hägele et al., 2024)

model/config.py names the source of each number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from model.config import TrainConfig

ADAM_EPSILON = 1e-8  # GPT-3 paper, appendix B; also torch's default

Optimizers = list[torch.optim.Optimizer]


def make_optimizers(weights: Mapping[str, nn.Parameter], config: TrainConfig) -> Optimizers:
    """The optimizers of named weights; each weight belongs to exactly one.

    AdamW is fused, which is several times faster than separate operations per tensor.
    """
    by_muon = {name for name in weights if config.optimizer == "muon" and _is_matrix_of_block(name, weights[name])}
    rest = [weight for name, weight in weights.items() if name not in by_muon]
    groups = [
        {"params": [weight for weight in rest if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in rest if weight.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=ADAM_EPSILON, fused=True)
    if not by_muon:
        return [adamw]
    matrices = [weights[name] for name in weights if name in by_muon]
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def _is_matrix_of_block(name: str, weight: Tensor) -> bool:
    return name.startswith("blocks.") and weight.ndim == 2


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of a step; steps count from 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "wsd":
        decay_steps = max(1, round(config.decay_share * config.steps))
        left = min(1.0, (config.steps - 1 - step) / decay_steps)
        return config.learning_rate * (config.final_lr_share + (1 - config.final_lr_share) * left)
    done = (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.learning_rate * (config.final_lr_share + (1 - config.final_lr_share) * cosine)


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def state_tensors(weights: Mapping[str, nn.Parameter], optimizers: Optimizers) -> dict[str, Tensor]:
    """The optimizers' state under the names ``<parameter>/<quantity>``; empty before the first step."""
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    return {
        f"{names[weight]}/{key}": value
        for optimizer in optimizers
        for weight, values in optimizer.state.items()
        for key, value in values.items()
    }


def load_state_tensors(
    weights: Mapping[str, nn.Parameter], optimizers: Optimizers, tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of ``state_tensors``. The tensors must be on the devices of their parameters."""
    owners = {weight: opt for opt in optimizers for group in opt.param_groups for weight in group["params"]}
    for optimizer in optimizers:
        optimizer.state.clear()
    for name, tensor in tensors.items():
        parameter, _, key = name.partition("/")
        weight = weights[parameter]
        owners[weight].state[weight][key] = tensor
