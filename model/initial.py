"""Initial weights from a directory that transformers loads, such as OpenAI's released models."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from data.errors import InputError
from model.config import ModelConfig
from model.hf import load_hf

SHAPE = ("layers", "heads", "width", "context", "vocab_size", "tokenizer")


def load_initial(folder: str, config: ModelConfig) -> tuple[dict[str, Tensor], str]:
    """The weights, fp32 on the CPU, and a sha256 of their names and values, which does not depend on the files.

    Raises InputError unless the directory holds a GPT-2 in safetensors of the shape of ``config``.
    """
    where = f"--init-from {folder}"
    try:
        model = load_hf(Path(folder))
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'--hf {folder}: ')}") from error
    pairs = ((name, getattr(model.config, name), getattr(config, name)) for name in SHAPE)
    differing = [f"{name} {theirs}, not {ours}" for name, theirs, ours in pairs if theirs != ours]
    if differing:
        raise InputError(f"{where}: it has {', '.join(differing)}; choose the --preset of its size, or use --set")
    weights = model.state_dict()
    hasher = hashlib.sha256()
    for name in sorted(weights):
        hasher.update(f"{name} {tuple(weights[name].shape)}\n".encode())
        hasher.update(weights[name].numpy().astype("<f4", copy=False).data)
    return weights, hasher.hexdigest()
