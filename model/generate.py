"""Text from a model: sampling with temperature, top-k (Fan et al., 2018) and top-p (Holtzman et al., 2020).

Keys and values of earlier positions are cached, so a token costs one position instead of all. Positions are absolute,
so when the context is full its older half is dropped and the newer half is read again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import InputError
from model.gpt2 import GPT2, Cache


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. ``temperature=0`` takes the likeliest."""

    temperature: float = 1.0
    top_k: int = 0  # keep the k likeliest; 0: all
    top_p: float = 1.0  # keep the fewest likeliest whose probabilities sum to p
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"temperature={self.temperature}, top_k={self.top_k}, top_p={self.top_p}: the first two must be finite "
                "and not negative, the last in (0, 1]"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise InputError(f"seed={self.seed}: must be a whole number of 64 bits")


@torch.inference_mode()
def generate(
    model: GPT2, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, stop_token: int | None = None
) -> Iterator[int]:
    """Yield new tokens one by one, ending after ``max_new_tokens`` or with ``stop_token`` (which is not yielded).

    Only the last ``context`` tokens of the prompt are read. The same seed gives the same tokens on the same kind of
    device. Raises InputError if the prompt is empty (begin with the end-of-text token for text from nothing) or has
    ids outside of the vocabulary.
    """
    if not prompt:
        raise InputError("the prompt has no token; begin with the end-of-text token for text from nothing")
    outside = [token for token in prompt if not 0 <= token < model.config.vocab_size]
    if outside:
        raise InputError(f"token {outside[0]} of the prompt is not in the vocabulary of {model.config.vocab_size}")
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
    """One token from the logits of a position."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(probabilities(logits_V, sampling), 1, generator=generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """With which weight each token is drawn, ``[V]``: temperature, then top-k, then top-p of what that leaves.

    0 for those that are not kept; of the kept ones the ratios are right, not the sum. The temperature must not be 0.
    """
    logits_V = logits_V.float()
    smallest = torch.finfo(logits_V.dtype).tiny  # below, the difference of equal logits would be 0 / 0
    logits_V = (logits_V - logits_V.max()) / max(sampling.temperature, smallest)
    if 0 < sampling.top_k < len(logits_V):
        threshold = logits_V.topk(sampling.top_k).values[-1]  # as likely as the k-th: kept too
        logits_V = logits_V.masked_fill(logits_V < threshold, float("-inf"))
    p_V = logits_V.softmax(0)
    if sampling.top_p < 1:
        sorted_V, order_V = p_V.sort(descending=True, stable=True)
        is_beyond_V = sorted_V.cumsum(0) - sorted_V >= sampling.top_p  # what stands before it suffices
        p_V = p_V.index_fill(0, order_V[is_beyond_V], 0.0)
    return p_V
