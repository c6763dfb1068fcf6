"""What a training process will hold in memory, estimated from shapes: to choose a micro-batch before a GPU is paid.

States, bytes a parameter (the accounting of ZeRO: Rajbhandari et al., 2020, section 3.1):

    weights      4    fp32
    gradients    4    fp32, accumulated over micro-batches; with several processes the buckets they are reduced in hold
                      4 more (DistributedDataParallel)
    optimizer    8    AdamW's two moments, fp32
    casts        2    bf16 copies of the weights, which autocast keeps through a micro-batch; none in fp32

Activations, numbers a token that a block keeps for its backward pass, C being the width. Counted as in "Reducing
Activation Recomputation in Large Transformer Models" (Korthikanti et al., 2022, section 4.1), for this model, without
dropout and with an attention that keeps no square of positions:

    2 C   inputs of the two normalisations: the residual stream, fp32 always
    2 C   inputs of qkv and of up: the normalised stream
    4 C   queries, keys, values, and what attention gives
    8 C   inputs of GELU and of the second layer, 4 C each

64 C bytes in fp32, 2 C x 4 + 14 C x 2 = 36 C with bf16 products (the paper has 34 C, with masks of dropout and the
residual stream in 16 bits). tests/model/test_telemetry.py compares this with what autograd keeps. Activation
checkpointing keeps the residual stream of each block (4 C bytes) and the activations of one block at a time.

Logits: V numbers a token, once, as their gradient is written over them (model/loss.py). 4 V bytes, with bf16 products
2 V; more than everything else of a small model.

With fsdp each process holds 1/N of the states, and the casts of one block and of the head at a time.

Not counted: what the allocator loses to fragments, the context of a GPU's driver (about 0.5 GB), kernels' work space.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.config import ModelConfig


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process."""

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
    *,
    is_bf16: bool,
    processes: int,
    is_recomputed: bool,
    is_sharded: bool = False,
) -> MemoryEstimate:
    """The peak of a training step in one of ``processes``; ``is_recomputed``: with activation checkpointing,
    ``is_sharded``: with fsdp.
    """
    tokens = micro_batch_size * model.context
    block = (36 if is_bf16 else 64) * model.width
    blocks = model.layers * 4 * model.width + block if is_recomputed else model.layers * block
    head = (4 + (2 if is_bf16 else 4)) * model.width  # the last normalisation's input and output
    gathered = 12 * model.width**2 + model.vocab_size * model.width if is_sharded else parameters
    shares = processes if is_sharded else 1
    return MemoryEstimate(
        weights=4 * parameters // shares + (2 if is_bf16 else 4 if is_sharded else 0) * gathered,
        gradients=4 * parameters // shares + (4 * gathered if processes > 1 else 0),
        optimizer=8 * parameters // shares,
        activations=tokens * (blocks + head),
        logits=tokens * (2 if is_bf16 else 4) * model.vocab_size,
    )
