"""Log-probabilities under a model: of continuations given contexts, and of long texts through a sliding window.

Every score of this project is computed by ``score``. Requests that begin alike are packed into trees, so that what they
share is computed once (model/trees.py). Trees are sorted by length and run in batches: on a CPU one after the other in
a single row, elsewhere in rows padded on the right, because there one large attention is faster than many small ones.
Neither changes a score by more than rounding (tests compare with one request at a time). The head, 50,257 numbers per
position, is computed for the scored positions only, a limited number at a time, so memory does not grow with the
batch. A batch that runs out of memory is computed again in smaller ones (model/capacity.py).

On a GPU the host waits once per batch, for its results: what it sends is copied from pinned memory meanwhile.

Conventions:

- Log-probabilities are natural logarithms (nats), summed over a continuation unless stated otherwise.
- A context is never empty. The first token of a document is conditioned on end-of-text, as in training.
- A request that is too long for the model loses tokens at the left of its context, and they are counted. A
  continuation is never cut.
- A long text is scored in steps of ``stride`` tokens. The first window scores all its tokens, each later one its last
  ``stride`` tokens, with at least ``context - stride`` tokens before them. Every token is scored exactly once.
- Bits per byte = nats / ln 2 / bytes of the original text in UTF-8.

Letters in names: B trees, T positions of a tree, M positions of a batch, N scored positions, C width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.bpe import END_OF_TEXT
from data.errors import InputError
from model import trees
from model.attention import Packing, Segment
from model.capacity import Capacity, Need, Tokens, choose, silent
from model.causal import Causal
from model.config import ModelConfig
from model.gpt2 import GPT2
from model.trees import Ids, Tree

CPU_BATCH_TOKENS = 2_048  # positions in one forward pass
MPS_BATCH_TOKENS = 32_768
CPU_HEAD_ROWS = 128  # positions whose logits are held at once: 26 MB in fp32
GPU_HEAD_ROWS = 4_096  # 0.8 GB
BLOCK_TOKENS = 2**24  # read at once: 128 MB


@dataclass(frozen=True)
class Request:
    """Asks for the probability of ``continuation`` after ``context``; both are token ids and not empty."""

    context: Sequence[int] | Ids
    continuation: Sequence[int] | Ids


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


def capacity_for(model: GPT2 | Causal, tokens: Tokens = "auto", warn: Callable[[str], None] = silent) -> Capacity:
    """Batches of so many positions; ``warn`` gets a message when they turn out to be too large."""
    weight = model.tokens.weight
    parameters = sum(parameter.numel() for parameter in model.parameters())
    precision = "bfloat16" if weight.dtype == torch.bfloat16 else "float32"
    need = Need.of(model.config, parameters, precision, GPU_HEAD_ROWS)
    return Capacity(
        choose(tokens, weight.device, need, CPU_BATCH_TOKENS, MPS_BATCH_TOKENS),
        weight.device,
        what="scoring",
        setting="--batch-tokens ",
        advice="score it with --device cpu, or on a device with more memory",
        warn=warn,
    )


def score(
    model: GPT2 | Causal,
    requests: Sequence[Request],
    exclude_first: Sequence[int] = (),
    on_done: Callable[[int], None] | None = None,
    capacity: Capacity | None = None,
) -> list[Score]:
    """Score requests; the answers are in the order of the requests.

    ``is_first_likeliest_allowed`` ignores the tokens ``exclude_first``. ``on_done`` is called after each batch with the
    number of requests done. ``capacity`` limits a batch and changes scores by rounding only; by default it is
    ``capacity_for(model)``. Raises InputError if a continuation is longer than the model's context or a token is not in
    its vocabulary, ValueError if a context or a continuation is empty, FailedStepError if a single request does not fit
    into memory.
    """
    excluded = torch.tensor(list(exclude_first), dtype=torch.long, device=model.tokens.weight.device)
    capacity = capacity or capacity_for(model)
    scores: dict[int, Score] = {}
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for rows in _blocks(requests, model.config):
            _score_block(model, rows, excluded, capacity, scores, on_done)
    model.train(was_training)
    return [scores[index] for index in range(len(requests))]


def rolling(tokens: Sequence[int], context: int, stride: int, before: int = END_OF_TEXT) -> list[Request]:
    """Requests that together score each of ``tokens`` once, through a window of ``context`` inputs; see the module.

    ``before`` is the token before the first one. ``stride`` must be in 1..context.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"stride must be in 1..{context}, got {stride}")
    whole = np.concatenate([[before], np.asarray(tokens, dtype=np.int64)])  # windows are views of it
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

    ids: Ids
    targets: Ids
    n_dropped: int

    @classmethod
    def of(cls, index: int, request: Request, config: ModelConfig) -> _Row:
        context = config.context
        n = len(request.continuation)
        if n == 0 or not len(request.context):
            raise ValueError(f"request {index}: its context has {len(request.context)} tokens, its continuation {n}")
        if n > context:
            raise InputError(f"a continuation of {n} tokens does not fit into the model's context of {context}")
        targets = np.asarray(request.continuation, dtype=np.int64)
        ids = np.concatenate([np.asarray(request.context, dtype=np.int64), targets[:-1]])
        least, most = min(ids.min(), targets[-1]), max(ids.max(), targets[-1])
        if least < 0 or most >= config.vocab_size:
            bad = least if least < 0 else most
            raise InputError(f"request {index}: token {bad} is not in the vocabulary of {config.vocab_size} tokens")
        return cls(ids[-context:], targets, max(0, len(ids) - context))


def _blocks(requests: Sequence[Request], config: ModelConfig) -> Iterator[dict[int, _Row]]:
    """The rows by index, in blocks, so that the copies of overlapping windows take a bounded amount of memory."""
    rows: dict[int, _Row] = {}
    n_tokens = 0
    for index, request in enumerate(requests):
        rows[index] = _Row.of(index, request, config)
        n_tokens += len(rows[index].ids)
        if n_tokens >= BLOCK_TOKENS:
            yield rows
            rows = {}
            n_tokens = 0
    if rows:
        yield rows


def _score_block(
    model: GPT2 | Causal,
    rows: dict[int, _Row],
    excluded: Tensor,
    capacity: Capacity,
    scores: dict[int, Score],
    on_done: Callable[[int], None] | None,
) -> None:
    """Add the scores of the rows to ``scores``."""
    width = model.config.width if isinstance(model, GPT2) or model.shares else 0  # 0: no branches
    waiting = trees.plan(((index, row.ids) for index, row in rows.items()), capacity.tokens, width)
    while waiting:
        longest = waiting[0].length
        batch = waiting[: capacity.rows(longest)]
        compute = functools.partial(_score_batch, model, batch, rows, excluded)
        can_divide = len(batch[0].paths) > 1
        found = capacity.attempt(len(batch), longest, compute, can_divide=can_divide)
        if found is None:
            left = [(index, rows[index].ids) for tree in waiting for index in tree.paths]
            waiting = trees.plan(left, capacity.tokens, width)
            continue
        waiting = waiting[len(batch) :]
        scores.update(found)
        if on_done:
            on_done(len(scores))


def _score_batch(
    model: GPT2 | Causal, batch: list[Tree], rows: Mapping[int, _Row], excluded: Tensor
) -> dict[int, Score]:
    """The scores of the batch's requests, by index."""
    x_NC, targets_N = _hidden(model, batch, rows)
    head_rows = CPU_HEAD_ROWS if excluded.device.type == "cpu" else GPU_HEAD_ROWS
    chunks = zip(x_NC.split(head_rows), targets_N.split(head_rows), strict=True)
    parts = [_head(model, x_nC, targets_n, excluded) for x_nC, targets_n in chunks]
    log_probs, likeliest, allowed = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    scores = {}
    at = 0
    for index in (index for tree in batch for index in tree.paths):
        end = at + len(rows[index].targets)
        scores[index] = Score(
            log_probs[at:end].astype(np.float64), likeliest[at:end], bool(allowed[at]), rows[index].n_dropped
        )
        at = end
    return scores


def _hidden(model: GPT2 | Causal, batch: list[Tree], rows: Mapping[int, _Row]) -> tuple[Tensor, Tensor]:
    """The residual stream at the scored positions ``[N, C]``, and their targets ``[N]``."""
    weight = model.tokens.weight
    is_padded = _is_padded(model)
    longest = batch[0].length
    lengths = [longest if is_padded else tree.length for tree in batch]
    starts = np.cumsum([0, *lengths])
    ids_M = np.zeros(starts[-1], dtype=np.int64)
    positions_M = np.zeros(starts[-1], dtype=np.int64)
    at: list[Ids] = []
    targets: list[Ids] = []
    for start, tree in zip(starts, batch, strict=False):
        ids_M[start : start + tree.length] = tree.ids
        positions_M[start : start + tree.length] = tree.depths
        for index, path in tree.paths.items():
            targets.append(rows[index].targets)
            at.append(start + path[-len(targets[-1]) :])
    groups = [batch] if is_padded else [[tree] for tree in batch]
    segments = []
    for start, group in zip(starts, groups, strict=False):
        length = group[0].length
        is_causal = all(tree.is_chain for tree in group)
        mask = None if is_causal else trees.additive([tree.mask(length) for tree in group], weight)
        segments.append(Segment(int(start), len(group), length, mask))
    packing = Packing(_copy(positions_M, weight.device), tuple(segments))
    x_1MC = model.hidden(_copy(ids_M, weight.device)[None], packing=packing)
    at_N = _copy(np.concatenate(at), weight.device)
    return x_1MC[0, at_N], _copy(np.concatenate(targets), weight.device)


def _is_padded(model: GPT2 | Causal) -> bool:
    """Whether a batch is one attention over padded rows; otherwise there is one for each tree, without padding."""
    return isinstance(model, Causal) or model.tokens.weight.device.type != "cpu"


def _copy(numbers: npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy to the device; a GPU reads pinned memory while the CPU goes on."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _head(model: GPT2 | Causal, x_NC: Tensor, targets_N: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each target: its log-probability, and whether it is the likeliest of all tokens and of the allowed ones.

    Works in place: on a CPU, with ``_sparing``, three times as fast as log_softmax and argmax.
    """
    find = _sparing if x_NC.device.type == "cpu" else _in_one_pass
    logits_NV = model.logits(x_NC).float()
    target_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    max_N, likeliest_N = find(logits_NV, target_N, targets_N)
    allowed_N = likeliest_N
    if len(excluded):
        _, allowed_N = find(logits_NV.index_fill(1, excluded, float("-inf")), target_N, targets_N)
    sums_N = logits_NV.sub_(max_N[:, None]).exp_().sum(1)
    return target_N - max_N - sums_N.log(), likeliest_N, allowed_N


def _sparing(logits_NV: Tensor, target_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum, and whether the target is the first token that has it, as greedy decoding would choose.

    Computes the argmax only where the target may be it. For 128 rows of which 16 are, one thread takes 8 ms, and
    ``_in_one_pass`` 16 ms; but on a GPU the host would have to wait for the number of these rows.
    """
    max_N = logits_NV.amax(1)
    found_N = target_N == max_N
    rows = found_N.nonzero()[:, 0]
    found_N[rows] = logits_NV[rows].argmax(1) == targets_N[rows]
    return max_N, found_N


def _in_one_pass(logits_NV: Tensor, target_N: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """The same as ``_sparing``: the index that ``torch.max`` returns is that of the first maximum."""
    max_N, first_N = logits_NV.max(1)
    return max_N, (first_N == targets_N) & (target_N == max_N)
