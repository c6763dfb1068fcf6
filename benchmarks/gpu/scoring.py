"""Last words of passages, as in LAMBADA: items/s with our scoring and with transformers, and whether scores agree.

transformers' model gets what scripts commonly do: requests sorted by length, padded on the right, in batches of as many
positions as ours, logits of all positions, ``log_softmax``, ``gather``. Both compute in fp32.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import exactness
from benchmarks.gpu.compare import furthest
from benchmarks.gpu.corpus import make as make_corpus
from benchmarks.gpu.job import Job
from model.gpt2 import GPT2
from model.scoring import Request, capacity_for, score

PEER_TOKENS = 16_384  # positions per batch of the peer; its logits take 50,257 fp32 numbers each, twice
TURNS = 3
SCORE_LIMIT = 5e-3  # nats per item


def scoring(job: Job) -> None:
    torch.manual_seed(0)
    config = job.model("124M")
    model = GPT2(config)
    peer: Any = exactness.transformers_model(config, model).to(job.device).eval()
    model = model.to(job.device).eval()
    items = _items(config.vocab_size, job.pick(2_000, 12), config.context)
    warnings: list[str] = []
    capacity = capacity_for(model, warn=warnings.append)
    score(model, items[: len(items) // 4], capacity=capacity)
    _peer_scores(peer, items[: len(items) // 4], job)
    rates: dict[str, list[float]] = {"ours": [], "transformers": []}
    for turn in range(job.pick(TURNS, 1)):
        if turn and not job.has(3, f"turn {turn + 1}"):
            break
        own, own_s = _timed(job, lambda: [one.log_likelihood for one in score(model, items, capacity=capacity)])
        theirs, their_s = _timed(job, lambda: _peer_scores(peer, items, job))
        rates["ours"].append(len(items) / own_s)
        rates["transformers"].append(len(items) / their_s)
        ratio = sorted(a / b for a, b in zip(rates["ours"], rates["transformers"], strict=True))[
            len(rates["ours"]) // 2
        ]
        job.put(
            items_per_s={name: [round(rate, 1) for rate in of] for name, of in rates.items()}, ratio=round(ratio, 3)
        )
        job.put(batch_tokens=capacity.tokens, warnings=warnings)
        job.check("scores", furthest(own, theirs), SCORE_LIMIT)


def _timed(job: Job, run: Any) -> tuple[list[float], float]:
    job.synchronize()
    began = time.perf_counter()
    found = run()
    job.synchronize()
    return found, time.perf_counter() - began


def _items(vocab_size: int, count: int, context: int) -> list[Request]:
    """Passages of 60 to 110 tokens, as LAMBADA's, and one to three tokens to guess."""
    random = np.random.default_rng(0)
    tokens = make_corpus(100_000, 2_000, vocab_size).train
    items = []
    for _ in range(count):
        n, n_last = int(random.integers(60, 110)), int(random.integers(1, 4))
        n = min(n, context - n_last)
        start = int(random.integers(0, len(tokens) - n - n_last))
        words = tokens[start : start + n + n_last].tolist()
        items.append(Request(words[:n], words[n:]))
    return items


@torch.inference_mode()
def _peer_scores(peer: Any, items: Sequence[Request], job: Job) -> list[float]:
    order = sorted(range(len(items)), key=lambda i: -len(items[i].context) - len(items[i].continuation))
    found = [0.0] * len(items)
    while order:
        longest = len(items[order[0]].context) + len(items[order[0]].continuation)
        batch, order = order[: max(1, PEER_TOKENS // longest)], order[max(1, PEER_TOKENS // longest) :]
        rows = [[*items[i].context, *items[i].continuation] for i in batch]
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, words in zip(ids, rows, strict=True):
            row[: len(words)] = torch.tensor(words)
        ids = ids.to(job.device)
        log_probs = torch.log_softmax(peer(ids[:, :-1], use_cache=False).logits.float(), dim=-1)
        picked = log_probs.gather(2, ids[:, 1:, None])[..., 0].cpu()
        for i, row, words in zip(batch, picked, rows, strict=True):
            first = len(items[i].context) - 1
            found[i] = float(row[first : len(words) - 1].double().sum())
    return found
