"""A stand-in for a checkout of nanoGPT. Its modules are named as our packages, so a peer must run in its folder."""

from __future__ import annotations

from pathlib import Path

_MODEL = """
import torch
from data.settings import BIAS, MULTIPLE


class GPTConfig:
    def __init__(self, **fields):
        self.__dict__ |= fields


class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        assert config.bias is BIAS and config.vocab_size % MULTIPLE == 0
        print("number of parameters: some")
        self.embedding = torch.nn.Embedding(config.vocab_size, config.n_embd)
        self.head = torch.nn.Linear(config.n_embd, config.vocab_size)

    def forward(self, ids, targets):
        logits = self.head(self.embedding(ids))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)
"""


def write(folder: Path, *, bias: bool, multiple: int = 1) -> None:
    """Write it; its model accepts this ``bias`` only, and vocabularies that ``multiple`` divides."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "settings.py").write_text(f"BIAS = {bias}\nMULTIPLE = {multiple}\n")
    (folder / "model.py").write_text(_MODEL)
