"""GPT-2, as in the paper.

"Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), section 2.3, is a short list of changes to
GPT-1 ("Improving Language Understanding by Generative Pre-Training", 2018, section 4.1), and this file follows both:

    GPT-1: a decoder-only transformer with masked self-attention, learned position embeddings, GELU, a feed-forward
           layer four times as wide as the model, weights drawn from N(0, 0.02), the head tied to the token embedding
    GPT-2: layer normalisation moved to the input of each sub-block, one more after the last block; weights of residual
           layers scaled by 1/sqrt(N) at initialisation, N being the number of residual layers; 50,257 tokens; 1,024
           positions
    code:  what the papers leave open is taken from openai/gpt-2 (src/model.py): the tanh form of GELU, epsilon 1e-5,
           positions drawn from N(0, 0.01), biases everywhere but in the head

This is the whole model: no wrapper, no registry. Weights, logits and gradients equal those of transformers'
GPT2LMHeadModel up to transposition (model/hf.py; tests/model/test_gpt2.py, test_reference.py).

Cost: training takes about 6 x parameters FLOP per token. The largest activations are the logits, T x 50,257 numbers per
sequence, of which the loss keeps one copy (model/loss.py).

Letters in names: B sequences, T positions, S positions attended to (cached ones included), C width, N heads, H width of
a head, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data.errors import InputError
from model.attention import Packing, attend, attend_packed
from model.config import ModelConfig
from model.gelu import gelu
from model.loss import head_loss
from model.tied import Tie, can_tie, lookup


@dataclass
class Cache:
    """Keys and values of earlier positions, one pair per layer; starts empty and grows with each call."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mask: Tensor | None = field(default=None, init=False)  # of the current call: ``[T, S]`` or ``[B, 1, T, S]``
    _lengths: Tensor | None = field(default=None, init=False)
    _padded: int = field(default=0, init=False)

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[-2] if self.layers else 0

    def pad(self, lengths_B: Tensor) -> None:
        """Call it after a batch was read whose rows are padded on the right: row b has ``lengths_B[b]`` positions.

        Later inputs do not attend to the padding, and their positions follow their own row's.
        """
        self._lengths = lengths_B
        self._padded = self.length

    def begin(self, T: int, device: torch.device) -> Tensor:
        """The positions of the next T inputs, ``[T]`` or ``[B, T]``; sets the mask of what they attend to."""
        past = self.length
        S = past + T
        self.mask = None
        if past and T > 1:  # the new positions are the last T of S; is_causal would treat them as the first
            self.mask = torch.ones(T, S, dtype=torch.bool, device=device).tril(past)
        positions_T = torch.arange(past, S, device=device)
        if self._lengths is None:
            return positions_T
        at_S = torch.arange(S, device=device)
        is_text_BS = (at_S < self._lengths[:, None]) | (at_S >= self._padded)
        is_text_B11S = is_text_BS[:, None, None]
        self.mask = is_text_B11S if self.mask is None else is_text_B11S & self.mask
        return positions_T - (self._padded - self._lengths)[:, None]

    def extend(self, layer: int, k_BNTH: Tensor, v_BNTH: Tensor) -> tuple[Tensor, Tensor]:
        """Append the new positions of a layer; returns keys and values of all positions, each ``[B, N, S, H]``."""
        if layer in self.layers:
            k_old, v_old = self.layers[layer]
            k_BNTH = torch.cat([k_old, k_BNTH], dim=2)
            v_BNTH = torch.cat([v_old, v_BNTH], dim=2)
        self.layers[layer] = k_BNTH, v_BNTH
        return k_BNTH, v_BNTH


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x_BTC: Tensor, cache: Cache | None, packing: Packing | None = None) -> Tensor:
        B, T, C = x_BTC.shape
        qkv_BT3NH = self.qkv(x_BTC).view(B, T, 3, self.heads, C // self.heads)
        S = T
        if cache is not None:
            q_BNTH, k_BNTH, v_BNTH = qkv_BT3NH.permute(2, 0, 3, 1, 4)
            k_BNSH, v_BNSH = cache.extend(self.layer, k_BNTH, v_BNTH)
            S = k_BNSH.shape[2]
        if packing is not None:
            y_BNTH = attend_packed(qkv_BT3NH, packing)
        elif S == T:
            y_BNTH = attend(qkv_BT3NH, self.dropout if self.training else 0.0)
        else:
            assert cache is not None
            y_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, attn_mask=cache.mask)
        return self.proj(y_BNTH.transpose(1, 2).reshape(B, T, C))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two linear layers with GELU between; the inner width is four times the model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.proj(gelu(self.up(x_BTC)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each a residual layer that normalises its input."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, eps=1e-5)
        self.attention = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.width, eps=1e-5)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, cache: Cache | None, packing: Packing | None = None) -> Tensor:
        x_BTC = x_BTC + self.dropout(self.attention(self.ln_1(x_BTC), cache, packing))
        return x_BTC + self.dropout(self.feed_forward(self.ln_2(x_BTC)))  # type: ignore[no-any-return]


class GPT2(nn.Module):
    """Token ids to the logits of the next token. New weights are drawn from torch's default generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)  # also the head
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.ln = nn.LayerNorm(config.width, eps=1e-5)
        self.recompute = False  # activation checkpointing of blocks (Chen et al., 2016)
        self.has_loss_kernel = False
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        residual_layers = 2 * self.config.layers
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
            elif name == "positions.weight":
                weight.normal_(0.0, self.config.position_std)
            elif name.endswith("proj.weight"):
                weight.normal_(0.0, 0.02 / math.sqrt(residual_layers))
            else:
                weight.normal_(0.0, 0.02)

    def hidden(
        self,
        ids_BT: Tensor,
        cache: Cache | None = None,
        tie: Tie | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """The residual stream after the last normalisation, ``[B, T, C]``: the head's input.

        With a ``packing`` the ids are one row, ``[1, M]``; it is for scoring, without cache and dropout.
        """
        if packing is not None:
            x_1MC = self.tokens(ids_BT) + self.positions(packing.positions)
            for block in self.blocks:
                x_1MC = block(x_1MC, None, packing)
            return self.ln(x_1MC)  # type: ignore[no-any-return]
        past = cache.length if cache is not None else 0
        T = ids_BT.shape[1]
        if past + T > self.config.context:
            raise InputError(f"{past + T} positions do not fit into the model's context of {self.config.context}")
        positions = torch.arange(T, device=ids_BT.device) if cache is None else cache.begin(T, ids_BT.device)
        tokens_BTC = self.tokens(ids_BT) if tie is None else lookup(ids_BT, self.tokens.weight, tie)
        x_BTC = self.dropout(tokens_BTC + self.positions(positions))
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x_BTC = checkpoint(block, x_BTC, cache, use_reentrant=False)
            else:
                x_BTC = block(x_BTC, cache)
        return self.ln(x_BTC)  # type: ignore[no-any-return]

    def forward(self, ids_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits of the token after each position, ``[B, T, V]``.

        With a ``cache`` the ids continue the cached positions and are appended to it. Raises InputError if the
        positions exceed the context.
        """
        return self.logits(self.hidden(ids_BT, cache))

    def logits(self, x: Tensor) -> Tensor:
        """The head on the residual stream ``[..., C]``: ``[..., V]``."""
        return F.linear(x, self.tokens.weight)

    def loss(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats per token, a scalar; ``targets_BT[b, t]`` is the token after ``ids_BT[b, t]``."""
        tie = Tie() if can_tie(self.tokens.weight) and not self.has_loss_kernel else None
        hidden_RC = self.hidden(ids_BT, tie=tie).flatten(0, 1)
        targets_R = targets_BT.flatten()
        return head_loss(hidden_RC, self.tokens.weight, targets_R, tie, has_kernel=self.has_loss_kernel)


def count_parameters(config: ModelConfig) -> int:
    """The number of parameters; the head is the token embedding and counts once. Allocates no memory."""
    with torch.device("meta"):
        model = GPT2(dataclasses.replace(config, layers=1))
    of_block = sum(weight.numel() for weight in model.blocks.parameters())
    return sum(weight.numel() for weight in model.parameters()) + (config.layers - 1) * of_block
