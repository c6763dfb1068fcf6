"""Continue many prompts in batches, with a KV cache: greedily, or with tokens drawn from the k likeliest.

- Prompts of a batch are padded on the right when they are read. What is written follows each row's own last position,
  and never attends to the padding (``Cache.pad``). Padding changes the numbers by rounding only.
- A draw depends on the item's seed and on nothing else: not on the other items, nor on the kind of device.
- Prompts that begin with the same tokens are computed together, and what all of a batch share is read once.
- A prompt keeps its last ``context - max_new_tokens`` tokens, so that all new tokens fit. Dropped tokens are counted.
- An item ends with the token that makes ``is_over`` true of its text, before an end-of-text token, or at
  ``max_new_tokens``. When half the rows of a batch have ended, they leave it.

Cost: the cache takes 2 x layers x width numbers per position (74 kB for 124M in fp32); memory is bounded by the number
of positions in a batch, which is halved when it does not fit (model/capacity.py).

Letters in names: B rows, T positions, C width, V vocabulary, K likeliest tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.bpe import END_OF_TEXT, decode
from data.errors import InputError
from model.capacity import Capacity, Need, Tokens, choose, silent
from model.gpt2 import GPT2, Cache

CPU_BYTES = 1 << 30  # of a batch and its cache on a CPU
BATCH_TOKENS = 8_192  # positions in a batch on a CPU, with the new ones; an assumption, not measured
MPS_BATCH_TOKENS = 16_384
MAX_ROWS = 256  # of a batch: bounds the logits of a step, 51 MB
SHARED = 64  # prompts that begin with as many equal tokens are computed together


@dataclass(frozen=True)
class Completion:
    """What was written after a prompt."""

    tokens: list[int]  # without end-of-text
    log_probs: list[float]  # nats of each token under the whole distribution; of end-of-text too if it was written
    end: Literal["over", "end_of_text", "length"]
    n_dropped: int  # tokens of the prompt that did not fit

    @property
    def text(self) -> str:
        return decode(self.tokens)


def capacity_for(model: GPT2, tokens: Tokens = "auto", warn: Callable[[str], None] = silent) -> Capacity:
    """Batches of so many positions, prompt and new tokens; ``warn`` gets a message when they turn out too large."""
    weight = model.tokens.weight
    precision = "bfloat16" if weight.dtype == torch.bfloat16 else "float32"
    need = Need.of(model.config, sum(one.numel() for one in model.parameters()), precision, MAX_ROWS)
    cached = 2 * model.config.layers * model.config.width * weight.element_size()
    need = dataclasses.replace(need, hidden=need.hidden + cached)
    on_cpu = min(max(1, CPU_BYTES // need.hidden), BATCH_TOKENS)
    return Capacity(
        choose(tokens, weight.device, need, on_cpu, MPS_BATCH_TOKENS),
        weight.device,
        what="writing",
        setting="--batch-tokens ",
        advice="score it with --device cpu, or on a device with more memory",
        warn=warn,
    )


def complete(
    model: GPT2,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    is_over: Callable[[str], bool] | None = None,
    *,
    top_k: int = 1,
    seeds: Sequence[int] | None = None,
    on_done: Callable[[int], None] | None = None,
    capacity: Capacity | None = None,
) -> list[Completion]:
    """Completions in the order of the prompts.

    Each token is drawn from the ``top_k`` likeliest ones in proportion to their probabilities; of equally likely ones
    the smaller ids count. ``top_k=1`` is greedy decoding. ``seeds`` has one seed per prompt (by default its index).
    ``is_over`` gets the text written so far. ``on_done`` is called after each batch with the number of prompts done.
    Raises InputError if a prompt is empty or has ids outside of the vocabulary, or if ``max_new_tokens`` leaves no room
    for a prompt; FailedStepError if a single prompt does not fit into memory.
    """
    room = model.config.context - max_new_tokens
    if max_new_tokens < 1 or room < 1:
        raise InputError(
            f"max_new_tokens {max_new_tokens}: must be at least 1 and less than the model's context of "
            f"{model.config.context} tokens"
        )
    if not 1 <= top_k <= model.config.vocab_size:
        raise InputError(f"top_k {top_k}: must be from 1 to {model.config.vocab_size}, the size of the vocabulary")
    rows = [_Row.of(index, prompt, room, model) for index, prompt in enumerate(prompts)]
    if seeds is not None:
        for row, seed in zip(rows, seeds, strict=True):
            row.seed = seed
    capacity = capacity or capacity_for(model)
    write = functools.partial(_write, model, max_new_tokens=max_new_tokens, is_over=is_over, top_k=top_k)
    found: dict[int, Completion] = {}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for group in _groups(rows):
            start = 0
            while start < len(group):
                length = len(group[start].ids) + max_new_tokens
                batch = group[start : start + min(capacity.rows(length), MAX_ROWS)]
                written = capacity.attempt(len(batch), length, functools.partial(write, batch))
                if written is None:
                    continue
                start += len(batch)
                found.update(written)
                if on_done:
                    on_done(len(found))
    model.train(was_training)
    return [found[index] for index in range(len(prompts))]


@dataclass
class _Row:
    """A prompt, cut to what fits, and what is written after it."""

    index: int
    ids: list[int]
    n_dropped: int
    seed: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    end: Literal["over", "end_of_text", "length"] | None = None

    @classmethod
    def of(cls, index: int, prompt: Sequence[int], room: int, model: GPT2) -> _Row:
        if not len(prompt):
            raise InputError(f"prompt {index} is empty; begin with the end-of-text token to write without a prompt")
        ids = [int(token) for token in prompt]
        if min(ids) < 0 or max(ids) >= model.config.vocab_size:
            size = model.config.vocab_size
            bad = next(token for token in ids if not 0 <= token < size)
            raise InputError(f"token {bad} of prompt {index} is not in the vocabulary of {size} tokens")
        return cls(index, ids[-room:], max(0, len(ids) - room), index)

    def add(self, token: int, log_prob: float, is_over: Callable[[str], bool] | None) -> None:
        self.log_probs.append(log_prob)
        if token == END_OF_TEXT:
            self.end = "end_of_text"
            return
        self.tokens.append(token)
        if is_over is not None and is_over(decode(self.tokens)):
            self.end = "over"


def _groups(rows: list[_Row]) -> list[list[_Row]]:
    """Rows that begin with the same tokens, and all others as the last group; the longest first in each."""
    by_start: dict[tuple[int, ...], list[_Row]] = {}
    for row in rows:
        by_start.setdefault(tuple(row.ids[:SHARED]), []).append(row)
    groups = [group for group in by_start.values() if len(group) > 1]
    groups.append([group[0] for group in by_start.values() if len(group) == 1])
    return [sorted(group, key=lambda row: -len(row.ids)) for group in groups]


class _Slots(Cache):
    """A cache with room for all positions from the start, so that a step copies only its own keys and values.

    A call with one row, before any other, fills all rows.
    """

    def __init__(self, rows: int, positions: int) -> None:
        super().__init__()
        self.rows = rows
        self.positions = positions
        self.filled: dict[int, int] = {}

    @property
    def length(self) -> int:
        return self.filled.get(0, 0)

    def extend(self, layer: int, k_BNTH: Tensor, v_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        B, N, T, H = k_BNTH.shape
        if layer not in self.layers:
            shape = (self.rows, N, self.positions, H)
            self.layers[layer] = k_BNTH.new_empty(shape), v_BNTH.new_empty(shape)
        start = self.filled.get(layer, 0)
        end = start + T
        k_BNSH, v_BNSH = self.layers[layer]
        k_BNSH[:, :, start:end] = k_BNTH
        v_BNSH[:, :, start:end] = v_BNTH
        self.filled[layer] = end
        return k_BNSH[:B, :, :end], v_BNSH[:B, :, :end]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        for layer, (k_BNSH, v_BNSH) in self.layers.items():
            self.layers[layer] = k_BNSH[rows], v_BNSH[rows]
        if self._lengths is not None:
            self._lengths = self._lengths[rows]


def _write(
    model: GPT2, batch: list[_Row], *, max_new_tokens: int, is_over: Callable[[str], bool] | None, top_k: int
) -> dict[int, Completion]:
    """The completions of a batch, by index."""
    rows = [dataclasses.replace(row, tokens=[], log_probs=[], end=None) for row in batch]  # a batch may be tried again
    generators = {row.index: np.random.default_rng(row.seed) for row in rows} if top_k > 1 else {}
    cache = _Slots(len(rows), len(rows[0].ids) + max_new_tokens)
    x_BC = _read(model, rows, cache)
    live = rows
    for step in range(1, max_new_tokens + 1):
        ids_BK, log_probs_BK = _likeliest(F.linear(x_BC, model.tokens.weight).float(), top_k)
        for row, ids_K, log_probs_K in zip(live, ids_BK, log_probs_BK, strict=True):
            if row.end is None:
                k = _draw(log_probs_K, generators[row.index]) if top_k > 1 else 0
                row.add(ids_K[k], log_probs_K[k], is_over)
        open_rows = [b for b, row in enumerate(live) if row.end is None]
        if step == max_new_tokens or not open_rows:
            break
        if len(open_rows) <= len(live) // 2:
            cache.keep(torch.tensor(open_rows, device=x_BC.device))
            live = [live[b] for b in open_rows]
        last = [[row.tokens[-1] if row.tokens else 0] for row in live]  # of a row that has ended, it does not matter
        x_BC = model.hidden(torch.tensor(last, device=x_BC.device), cache)[:, -1]
    return {row.index: Completion(row.tokens, row.log_probs, row.end or "length", row.n_dropped) for row in rows}


def _read(model: GPT2, rows: list[_Row], cache: Cache) -> Tensor:
    """Read the prompts into the cache; the residual stream at the last token of each, ``[B, C]``."""
    device = model.tokens.weight.device
    lengths = np.array([len(row.ids) for row in rows])
    shared = _shared([row.ids for row in rows])
    if shared:
        model.hidden(torch.tensor([rows[0].ids[:shared]], device=device), cache)
    ids_BT = np.zeros((len(rows), lengths.max() - shared), dtype=np.int64)
    for b, row in enumerate(rows):
        ids_BT[b, : len(row.ids) - shared] = row.ids[shared:]
    x_BTC = model.hidden(torch.from_numpy(ids_BT).to(device), cache)
    lengths_B = torch.from_numpy(lengths).to(device)
    if lengths.min() < lengths.max():
        cache.pad(lengths_B)
    return x_BTC[torch.arange(len(rows), device=device), lengths_B - shared - 1]


def _shared(prompts: Sequence[list[int]]) -> int:
    """How many tokens all of several prompts begin with; each keeps one of its own. 0 if fewer than ``SHARED``."""
    first, last = min(prompts), max(prompts)  # all others lie between them
    shortest = min(len(prompt) for prompt in prompts)
    n = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    n = min(n, shortest - 1)
    return n if n >= SHARED and len(prompts) > 1 else 0


def _likeliest(logits_BV: Tensor, k: int) -> tuple[list[list[int]], list[list[float]]]:
    """The k likeliest tokens, in order, and their log-probabilities; in a tie the smaller id comes first."""
    norms_B1 = logits_BV.logsumexp(1, keepdim=True)
    ids = []
    log_probs = []
    for _ in range(k):  # k is small; topk leaves the order of ties open
        id_B1 = logits_BV.argmax(1, keepdim=True)
        ids.append(id_B1)
        log_probs.append(logits_BV.gather(1, id_B1) - norms_B1)
        if len(ids) < k:
            logits_BV.scatter_(1, id_B1, float("-inf"))
    return torch.cat(ids, 1).tolist(), torch.cat(log_probs, 1).tolist()


def _draw(log_probs_K: Sequence[float], generator: np.random.Generator) -> int:
    """Which of the k tokens, in proportion to their probabilities."""
    p_K = np.exp(np.array(log_probs_K) - max(log_probs_K))
    return int(min(np.searchsorted(p_K.cumsum(), generator.random() * p_K.sum(), side="right"), len(p_K) - 1))
