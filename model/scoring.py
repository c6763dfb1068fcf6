"""Log-probabilities under a GPT-2: of continuations given contexts, and of long texts through a sliding window.

Every score of this project is computed by ``score``. Requests are sorted by length and run in batches, padded on the
right. Attention only looks left, so padding changes a score by rounding at most (tests compare with one request at a
time). The head, 50,257 numbers per position, is computed for the scored positions only, a limited number at a time, so
memory does not grow with the batch.

Conventions:

- Log-probabilities are natural logarithms (nats), summed over a continuation unless stated otherwise.
- A context is never empty. The first token of a document is conditioned on end-of-text, as in training.
- A request that is too long for the model loses tokens at the left of its context, and they are counted. A
  continuation is never cut.
- A long text is scored in steps of ``stride`` tokens. The first window scores all its tokens, each later one its last
  ``stride`` tokens, with at least ``context - stride`` tokens before them. Every token is scored exactly once.
- Bits per byte = nats / ln 2 / bytes of the original text in UTF-8.

Letters in names: B requests, T positions, N scored positions, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from data.bpe import END_OF_TEXT
from data.errors import InputError
from model.gpt2 import GPT2

CPU_BATCH_TOKENS = 2_048  # positions in one forward pass, with padding
GPU_BATCH_TOKENS = 32_768
CPU_HEAD_ROWS = 128  # positions whose logits are held at once: 26 MB in fp32
GPU_HEAD_ROWS = 4_096  # 0.8 GB


@dataclass(frozen=True)
class Request:
    """Asks for the probability of ``continuation`` after ``context``; both are token ids and not empty."""

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Score:
    """The answer. Arrays have one entry per token of the continuation, given the true tokens before it."""

    log_probs: npt.NDArray[np.float64]  # nats
    is_likeliest: npt.NDArray[np.bool_]  # the likeliest token; in a tie the smallest id
    is_first_likeliest_allowed: bool  # the same for the first token, among tokens that are not excluded
    n_dropped: int  # tokens of the context that did not fit

    @property
    def log_likelihood(self) -> float:
        """Log-probability of the whole continuation, nats."""
        return float(self.log_probs.sum())

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would write the continuation."""
        return bool(self.is_likeliest.all())


def score(
    model: GPT2,
    requests: Sequence[Request],
    exclude_first: Sequence[int] = (),
    on_done: Callable[[int], None] | None = None,
) -> list[Score]:
    """Score requests; the answers are in the order of the requests.

    ``is_first_likeliest_allowed`` ignores the tokens ``exclude_first``. ``on_done`` is called after each batch with the
    number of requests done. Raises InputError if a continuation is longer than the model's context, ValueError if a
    context or a continuation is empty.
    """
    rows = [_Row.of(index, request, model.config.context) for index, request in enumerate(requests)]
    rows.sort(key=lambda row: -len(row.ids))
    device = model.tokens.weight.device
    is_cpu = device.type == "cpu"
    head_rows = CPU_HEAD_ROWS if is_cpu else GPU_HEAD_ROWS
    excluded = torch.tensor(list(exclude_first), dtype=torch.long, device=device)
    scores: dict[int, Score] = {}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in _batches(rows, CPU_BATCH_TOKENS if is_cpu else GPU_BATCH_TOKENS):
            x_NC, targets_N = _hidden(model, batch, device)
            chunks = zip(x_NC.split(head_rows), targets_N.split(head_rows), strict=True)
            parts = [_head(model, x_nC, targets_n, excluded) for x_nC, targets_n in chunks]
            log_probs, likeliest, allowed = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
            at = 0
            for row in batch:
                end = at + len(row.targets)
                scores[row.index] = Score(
                    log_probs[at:end].astype(np.float64), likeliest[at:end], bool(allowed[at]), row.n_dropped
                )
                at = end
            if on_done:
                on_done(len(scores))
    model.train(was_training)
    return [scores[index] for index in range(len(requests))]


def rolling(tokens: Sequence[int], context: int, stride: int, before: int = END_OF_TEXT) -> list[Request]:
    """Requests that together score each of ``tokens`` once, through a window of ``context`` inputs; see the module.

    ``before`` is the token before the first one. ``stride`` must be in 1..context.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"stride must be in 1..{context}, got {stride}")
    whole = [before, *(int(token) for token in tokens)]
    requests = []
    start = 1
    end = min(len(whole), context + 1)
    while start < end:
        requests.append(Request(whole[max(0, end - 1 - context) : start], whole[start:end]))
        start = end
        end = min(len(whole), end + stride)
    return requests


@dataclass(frozen=True)
class _Row:
    """A request as the model reads it: the last ``len(targets)`` ids predict the targets."""

    index: int
    ids: list[int]
    targets: list[int]
    n_dropped: int

    @classmethod
    def of(cls, index: int, request: Request, context: int) -> _Row:
        n = len(request.continuation)
        if n == 0 or not len(request.context):
            raise ValueError(f"request {index}: its context has {len(request.context)} tokens, its continuation {n}")
        if n > context:
            raise InputError(f"a continuation of {n} tokens does not fit into the model's context of {context}")
        ids = [*request.context, *request.continuation][:-1]
        return cls(index, ids[-context:], list(request.continuation), max(0, len(ids) - context))


def _batches(rows: list[_Row], max_tokens: int) -> Iterator[list[_Row]]:
    """Batches of consecutive rows, longest first, with at most ``max_tokens`` positions, or one row."""
    start = 0
    while start < len(rows):
        count = max(1, max_tokens // len(rows[start].ids))
        yield rows[start : start + count]
        start += count


def _hidden(model: GPT2, batch: list[_Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """The residual stream at the scored positions ``[N, C]``, and their targets ``[N]``."""
    longest = max(len(row.ids) for row in batch)
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    for b, row in enumerate(batch):
        ids[b, : len(row.ids)] = row.ids
    x_BTC = model.hidden(torch.from_numpy(ids).to(device))
    b_N = np.concatenate([np.full(len(row.targets), b) for b, row in enumerate(batch)])
    t_N = np.concatenate([np.arange(len(row.ids) - len(row.targets), len(row.ids)) for row in batch])
    targets_N = torch.from_numpy(np.concatenate([row.targets for row in batch]).astype(np.int64))
    return x_BTC[torch.from_numpy(b_N), torch.from_numpy(t_N)], targets_N.to(device)


def _head(model: GPT2, x_NC: Tensor, targets_N: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each target: its log-probability, and whether it is the likeliest of all tokens and of the allowed ones.

    Works in place and computes the argmax only where the target may be it: on a CPU three times as fast as log_softmax
    and argmax.
    """
    logits_NV = F.linear(x_NC, model.tokens.weight).float()
    target_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    max_N = logits_NV.amax(1)
    likeliest_N = allowed_N = _is_likeliest(logits_NV, max_N, target_N, targets_N)
    if len(excluded):
        allowed_NV = logits_NV.index_fill(1, excluded, float("-inf"))
        allowed_N = _is_likeliest(allowed_NV, allowed_NV.amax(1), target_N, targets_N)
    sums_N = logits_NV.sub_(max_N[:, None]).exp_().sum(1)
    return target_N - max_N - sums_N.log(), likeliest_N, allowed_N


def _is_likeliest(logits_NV: Tensor, max_N: Tensor, target_N: Tensor, targets_N: Tensor) -> Tensor:
    found_N = target_N == max_N
    rows = found_N.nonzero()[:, 0]  # in a tie the first token counts, as in greedy decoding
    found_N[rows] = logits_NV[rows].argmax(1) == targets_N[rows]
    return found_N
