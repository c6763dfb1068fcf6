"""Text from a model: sampling with temperature, top-k (Fan et al., 2018) and top-p (Holtzman et al., 2020).

Keys and values of earlier positions are cached, so a new token costs one position. Positions are absolute, so when the
context is full, its older half is dropped and the newer half is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from data.errors import InputError
from data.settings import checked
from model.config import NonNegativeFinite
from model.gpt2 import GPT2, Cache


@checked
@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. ``temperature=0`` takes the likeliest token."""

    temperature: NonNegativeFinite = 1.0
    top_k: NonNegativeInt = 0  # keep the k likeliest tokens; 0: all
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # keep the fewest likeliest tokens whose probabilities sum to p
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0


@torch.inference_mode()
def generate(
    model: GPT2, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, stop_token: int | None = None
) -> Iterator[int]:
    """Yield new tokens one by one, until ``max_new_tokens`` or ``stop_token``, which is not yielded.

    Only the last ``context`` tokens of the prompt count. The same seed gives the same tokens on the same kind of
    device. Raises InputError if the prompt is empty or has ids outside of the vocabulary.
    """
    if not prompt:
        raise InputError("the prompt is empty; begin with the end-of-text token to write without a prompt")
    outside = [token for token in prompt if not 0 <= token < model.config.vocab_size]
    if outside:
        raise InputError(
            f"token {outside[0]} of the prompt is not in the vocabulary of {model.config.vocab_size} tokens"
        )
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    context = model.config.context
    tokens = list(prompt)[-context:]
    cache = Cache()
    unread = tokens
    for _ in range(max_new_tokens):
        if cache.length + len(unread) > context:
            tokens = tokens[-max(1, context // 2) :]
            unread = tokens
            cache = Cache()
        logits_V = model(torch.tensor([unread], device=device), cache)[0, -1]
        token = draw(logits_V, sampling, generator)
        if token == stop_token:
            return
        yield token
        tokens = [*tokens, token]
        unread = [token]


def draw(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw a token from the logits of a position."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(probabilities(logits_V, sampling), 1, generator=generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """The weight with which each token is drawn, ``[V]``: temperature, then top-k, then top-p of what top-k keeps.

    Dropped tokens have weight 0. The weights of the others are proportional to their probabilities, but need not sum
    to 1. The temperature must not be 0.
    """
    logits_V = logits_V.float()
    smallest = torch.finfo(logits_V.dtype).tiny  # below this, equal logits would give 0 / 0
    logits_V = (logits_V - logits_V.max()) / max(sampling.temperature, smallest)
    if 0 < sampling.top_k < len(logits_V):
        threshold = logits_V.topk(sampling.top_k).values[-1]  # tokens as likely as the k-th are kept too
        logits_V = logits_V.masked_fill(logits_V < threshold, float("-inf"))
    p_V = logits_V.softmax(0)
    if sampling.top_p < 1:
        sorted_V, order_V = p_V.sort(descending=True, stable=True)
        is_beyond_V = sorted_V.cumsum(0) - sorted_V >= sampling.top_p  # the tokens before it suffice
        p_V = p_V.index_fill(0, order_V[is_beyond_V], 0.0)
    return p_V
