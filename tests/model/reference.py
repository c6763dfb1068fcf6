"""The same GPT-2 in two implementations: this project's and transformers'."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from model.config import ModelConfig
from model.gpt2 import GPT2
from model.hf import to_hf


def pair(config: ModelConfig, dtype: torch.dtype) -> tuple[GPT2, GPT2LMHeadModel]:
    """Our model and transformers', with the same random weights, none of them at its initial constant."""
    torch.manual_seed(0)
    ours = GPT2(config).to(dtype)
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    shape = {"n_embd": config.width, "n_layer": config.layers, "n_head": config.heads, "n_positions": config.context}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    with torch.device("meta"):
        reference = GPT2LMHeadModel(GPT2Config(vocab_size=config.vocab_size, **shape, **dropouts))
    weights = {name: weight.clone() for name, weight in to_hf(ours.state_dict(), config).items()}
    missing, unexpected = reference.load_state_dict(weights, strict=False, assign=True)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    reference.tie_weights()
    return ours, reference
