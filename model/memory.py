"""The memory of a training process, estimated from shapes, to choose a micro-batch before paying for a GPU.

States, in bytes per parameter (as ZeRO counts: Rajbhandari et al., 2020, section 3.1):

                 float32   autocast   bfloat16
    weights         4         4          6      fp32 ones; bfloat16 computes with copies of them
    casts           -         2          -      bf16 copies that autocast keeps during a micro-batch
    gradients       4         4          6      fp32 sums; bfloat16 also has the gradients of its copies
    buckets         4         4          -      DistributedDataParallel, with several processes
    optimizer       8         8          8      AdamW's two moments; Muon keeps one per matrix, 4 bytes less

fsdp splits weights, gradients and optimizer state among the processes. It gathers the embeddings, the current block
and the next one, and holds the whole gradients of one unit until they are scattered. If a step has several
micro-batches per process, it holds the gradients of all units in fp32, which are scattered with the last micro-batch.

Activations, in numbers per token that a block keeps for its backward pass, with C the width. Counted as in "Reducing
Activation Recomputation in Large Transformer Models" (Korthikanti et al., 2022, section 4.1), for this model, without
dropout, and with an attention that keeps no square of positions:

    2 C   inputs of the two normalisations: the residual stream, which autocast leaves in fp32
    2 C   inputs of qkv and of up: the normalised stream
    4 C   queries, keys, values, and the output of attention
    8 C   inputs of GELU and of the second layer, 4 C each

These are 64 C bytes in float32, 36 C with autocast and 32 C in bfloat16 (the paper has 34 C, with dropout masks).
tests/model/test_telemetry.py compares this with what autograd keeps. ``recompute`` (activation checkpointing) keeps the
residual stream of each block, and the activations of one block at a time. Compiled blocks keep one fp32 stream and
compute the other again: 34 C with autocast.

Logits: V numbers per token, once, since model/loss.py overwrites them with their gradient. In a small model they exceed
everything else. On a GPU the loss also holds the padded head and its gradient (2 V C numbers) and, unless it is
compiled, the softmax of some rows in fp32; the estimate counts them with the logits.

Not counted: memory lost to fragmentation, the context of a GPU's driver (about 0.5 GB), the workspace of kernels, and
on a CPU in bf16 the softmax that our attention keeps (model/attention.py).
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from model.config import ModelConfig, TrainConfig
from model.loss import GPU_ROWS

MOST_LOGITS = 2**31  # of a micro-batch; some kernels may count in 32 bits
MARGIN = (
    0.12  # of the memory: what the estimate does not count. On an H200 it was 4 % off for 124M (docs/benchmarks.md)
)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def estimate(
    model: ModelConfig,
    parameters: int,
    micro_batch_size: int,
    precision: str,
    *,
    processes: int,
    is_sharded: bool,
    is_recomputed: bool,
    is_compiled: bool = False,
    is_muon: bool = False,
    is_accumulated: bool = False,
) -> MemoryEstimate:
    """The peak of a training step in one of ``processes``; ``precision`` is float32, tf32, autocast or bfloat16.

    ``is_accumulated``: a step has several micro-batches per process.
    """
    width = model.width
    tokens = micro_batch_size * model.context
    narrow = 4 if precision in ("float32", "tf32") else 2
    stream = 2 if precision == "bfloat16" else 4
    block = (stream + 15 * narrow if is_compiled else 2 * stream + 14 * narrow) * width
    blocks = model.layers * stream * width + block if is_recomputed else model.layers * block
    weights = (4 if precision in ("float32", "tf32") else 6) * parameters
    gradients = (6 if precision == "bfloat16" else 4) * parameters
    optimizer = optimizer_bytes(model, parameters, is_muon)
    if is_sharded:
        unit = 12 * width**2
        embeddings = (model.vocab_size + model.context) * width
        weights = 4 * parameters // processes + narrow * (2 * unit + embeddings)
        gradients = 4 * parameters // processes + (4 * parameters if is_accumulated else narrow * max(unit, embeddings))
        optimizer //= processes
    elif processes > 1 and precision != "bfloat16":
        gradients += 4 * parameters
    softmax_rows = 0 if is_compiled else min(tokens, GPU_ROWS)
    return MemoryEstimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=tokens * (blocks + (stream + narrow) * width),  # input and output of the last normalisation
        logits=model.vocab_size * (tokens * narrow + softmax_rows * 4 + 2 * width * narrow),
    )


def estimate_for(
    model: ModelConfig, config: TrainConfig, parameters: int, micro_batch_size: int, processes: int
) -> MemoryEstimate:
    """The estimate for settings in which ``precision`` and ``compile`` are not "auto"."""
    return estimate(
        model,
        parameters,
        micro_batch_size,
        config.precision,
        processes=processes,
        is_sharded=config.parallel == "fsdp" and processes > 1,
        is_recomputed=config.recompute,
        is_compiled=bool(config.compile),
        is_muon=config.optimizer == "muon",
        is_accumulated=config.batch_size // processes > micro_batch_size,
    )


def largest_micro_batch(
    model: ModelConfig, config: TrainConfig, parameters: int, processes: int, memory: int, most: int | None = None
) -> int:
    """The most sequences whose step the estimate fits into ``memory`` bytes but for ``MARGIN``; at least 1.

    The number divides a process's share of the batch, if there is a divisor of at least half the size: then all
    micro-batches have one shape, which a compiler sees only once. ``most`` bounds it, and so does ``MOST_LOGITS``.
    """
    share = config.batch_size // processes
    usable = (1 - MARGIN) * memory

    def fits(size: int) -> bool:
        return estimate_for(model, config, parameters, size, processes).total <= usable

    limit = max(1, min(share, most or share, MOST_LOGITS // (model.context * model.vocab_size)))
    largest = bisect.bisect_left(range(1, limit + 1), True, key=lambda size: not fits(size))
    return next((size for size in range(largest, largest // 2, -1) if share % size == 0), max(1, largest))


def optimizer_bytes(model: ModelConfig, parameters: int, is_muon: bool) -> int:
    """The bytes of the optimizer's state, which is fp32."""
    matrices = model.layers * 12 * model.width**2  # of the blocks
    return 8 * parameters - (4 * matrices if is_muon else 0)
