"""Weights to start from: a directory that transformers loads, OpenAI's released models among them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from data.errors import InputError
from model.config import ModelConfig
from model.hf import load_hf
from model.weights import Weights

SHAPE = ("layers", "heads", "width", "context", "vocab_size", "tokenizer")


def load_initial(folder: str, config: ModelConfig) -> tuple[dict[str, Tensor], str]:
    """The weights, fp32 on the CPU, and their sha256 by name and value, however they are split into files.

    Raises InputError if the directory holds no GPT-2 in safetensors, or one of another shape than ``config``.
    """
    where = f"--init-from {folder}"
    try:
        model = load_hf(Path(folder))
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'--hf {folder}: ')}") from error
    pairs = ((name, getattr(model.config, name), getattr(config, name)) for name in SHAPE)
    differing = [f"{name} {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours]
    if differing:
        raise InputError(f"{where}: it has {', '.join(differing)}; choose the --preset of its size, or --set them")
    weights = model.state_dict()
    hasher = hashlib.sha256()
    for name in sorted(weights):
        hasher.update(f"{name} {tuple(weights[name].shape)}\n".encode())
        hasher.update(weights[name].numpy().astype("<f4", copy=False).data)
    return weights, hasher.hexdigest()


@torch.no_grad()
def set_weights(weights: Weights, tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors over what training updates, by name, sharded or not. Called by all processes."""
    for name, weight in weights.named.items():
        tensor = tensors[name].to(weight.device)
        if isinstance(weight, DTensor):
            weight.copy_(distribute_tensor(tensor, weight.device_mesh, weight.placements))
        else:
            weight.copy_(tensor)
    weights.publish()
