"""Any causal model that transformers can load, behind the interface that scoring needs of a GPT-2.

A model is asked for its hidden states and for its head on some of them. Three things are tried on random tokens when it
is loaded, because nothing in its configuration says them:

- The head on the hidden states gives the model's own logits. Otherwise the model is refused.
- Padding on the right changes nothing. Otherwise the model is refused.
- A tree (model/trees.py) gives what its sequences give one by one. Otherwise requests are computed without sharing.
  The same holds for a model whose attention has a window, which the mask of a tree would replace.

The tokenizer is the one in the directory. No special tokens are added to a text; as in lm-evaluation-harness, whose
HFLM adds none by default. What comes before a text is the tokenizer's BOS token, or its EOS token if it has none.
Weights are read from safetensors only, no code of the directory is run, and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from data.errors import InputError
from model import trees
from model.attention import Packing, Segment
from model.config import ModelConfig
from model.tokenizer import Tokenizer

MOST_CONTEXT = 2_048
"""Tokens of context that are used: a model that reads 100,000 would need windows of as many. The paper's have 1,024."""
TOLERANCE = 1e-4  # of what was tried, relative to the largest number
TRIED = 24  # tokens
WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size", "local_attention")
"""Names in the configurations of models whose attention sees a window only, which a short trial does not show."""


class Causal(nn.Module):
    """A model of transformers as ``score`` uses it. ``config`` has what scoring reads of a model's shape."""

    def __init__(self, theirs: Any, tokenizer: Tokenizer, where: str) -> None:
        super().__init__()
        self.theirs = theirs
        self.tokenizer = tokenizer
        self.tokens: nn.Embedding = theirs.get_input_embeddings()
        self.head = theirs.get_output_embeddings()
        shape = theirs.config.get_text_config()
        self.cap = getattr(shape, "final_logit_softcapping", None)
        heads = getattr(shape, "num_attention_heads", None) or 1
        width = self.tokens.weight.shape[1]
        self.config = ModelConfig(
            layers=getattr(shape, "num_hidden_layers", None) or 1,
            heads=heads if width % heads == 0 else 1,
            width=width,
            context=min(MOST_CONTEXT, getattr(shape, "max_position_embeddings", None) or MOST_CONTEXT),
            vocab_size=self.tokens.weight.shape[0],
            tokenizer=tokenizer.name,
        )
        self.shares = False
        self._try(where, has_window=any(getattr(shape, name, None) is not None for name in WINDOWS))

    def hidden(self, ids_1M: Tensor, *, packing: Packing) -> Tensor:
        """The head's input, ``[1, M, C]``."""
        parts = []
        for segment in packing.segments:
            at = slice(segment.start, segment.start + segment.rows * segment.length)
            how: dict[str, Tensor] = {}
            if segment.mask is not None:
                positions_BT = packing.positions[at].view(segment.rows, segment.length)
                how = {"attention_mask": segment.mask, "position_ids": positions_BT}
            ids_BT = ids_1M[0, at].view(segment.rows, segment.length)
            found = self._base(input_ids=ids_BT, use_cache=False, **how)
            parts.append(found.last_hidden_state.flatten(0, 1))
        return torch.cat(parts)[None]

    @property
    def _base(self) -> Any:
        """The model without its head."""
        base = self.theirs.base_model
        return base if base is not self.theirs else self.theirs.get_decoder()

    def logits(self, x_NC: Tensor) -> Tensor:
        """``[N, V]``"""
        logits_NV: Tensor = self.head(x_NC)
        return logits_NV if self.cap is None else torch.tanh(logits_NV / self.cap) * self.cap

    @torch.inference_mode()
    def _try(self, where: str, *, has_window: bool) -> None:
        """Compare with the model's own logits; see the module. Raises InputError if this model is not supported."""
        self.eval()
        device = self.tokens.weight.device
        ids_T = np.random.default_rng(0).integers(0, self.config.vocab_size, min(TRIED, self.config.context))
        n = len(ids_T)
        row_1T = torch.from_numpy(ids_T).to(device)[None]
        expected_TV = self.theirs(input_ids=row_1T, use_cache=False).logits[0].float()
        padded_BT = torch.cat([row_1T[:, : n // 2], torch.zeros_like(row_1T[:, n // 2 :])], dim=1)
        ids_1M = torch.cat([row_1T, padded_BT]).flatten()[None]
        positions = torch.arange(n, device=device).repeat(2)
        try:
            x_MC = self.hidden(ids_1M, packing=Packing(positions, (Segment(0, 2, n, None),)))[0]
        except (AttributeError, TypeError) as error:
            raise InputError(f"{where}: its hidden states cannot be read ({_line(error)}); not supported") from error
        found_MV = self.logits(x_MC).float()
        if not _is_close(found_MV[:n], expected_TV):
            raise InputError(f"{where}: the head on the hidden states does not give this model's logits; not supported")
        if not _is_close(found_MV[n : n + n // 2], expected_TV[: n // 2]):
            raise InputError(f"{where}: padding on the right changes this model's logits, so it is not causal")
        if n < 4 or has_window:
            return
        other_T = np.concatenate([ids_T[: n // 2], ids_T[: n - n // 2][::-1]])
        tree = trees.plan(enumerate((ids_T, other_T)), most=2 * n, width=n * n)[0]
        mask = trees.additive([tree.mask(tree.length)], self.tokens.weight)
        packing = Packing(torch.from_numpy(tree.depths).to(device), (Segment(0, 1, tree.length, mask),))
        try:
            x_MC = self.hidden(torch.from_numpy(tree.ids).to(device)[None], packing=packing)[0]
        except Exception:  # whatever a model does with arguments that it does not know
            return
        other_TV = self.theirs(input_ids=torch.from_numpy(other_T).to(device)[None], use_cache=False).logits[0].float()
        self.shares = all(
            _is_close(self.logits(x_MC[torch.from_numpy(tree.paths[index]).to(device)]).float(), alone_TV)
            for index, alone_TV in enumerate((expected_TV, other_TV))
        )


def load(folder: Path, *, device: str = "cpu") -> Causal:
    """The model of a directory, in fp32 and in evaluation mode.

    Raises InputError if transformers is not installed or cannot load it, or if model and tokenizer do not match.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"--hf {folder}: not a GPT-2 with GPT-2's tokenizer, so transformers has to load it: install webtext[hf]"
        ) from error
    try:
        theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:  # transformers raises whatever its parts raise
        raise InputError(f"--hf {folder}: transformers cannot load the model ({_line(error)})") from error
    tokenizer = _tokenizer(folder, theirs.get_input_embeddings().weight.shape[0])
    return Causal(theirs.to(device), tokenizer, f"--hf {folder}").eval()


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    import transformers

    try:
        theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"--hf {folder}: transformers cannot load a tokenizer ({_line(error)}); put the model's tokenizer.json "
            "there"
        ) from error
    largest = max(theirs.get_vocab().values(), default=-1) + 1
    if largest > vocab_size or 2 * largest < vocab_size:
        raise InputError(
            f"--hf {folder}: the tokenizer has {largest:,} tokens and the model {vocab_size:,}, so they do not match; "
            "put the model's own tokenizer there"
        )
    start = theirs.bos_token_id if theirs.bos_token_id is not None else theirs.eos_token_id
    if start is None:
        raise InputError(
            f"--hf {folder}: the tokenizer has neither a BOS nor an EOS token, so nothing can come before a text"
        )

    def encode(text: str) -> npt.NDArray[np.integer]:
        return np.asarray(theirs(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    def decode(tokens: Sequence[int]) -> str:
        return str(theirs.decode(list(tokens)))

    def encode_special(text: str) -> npt.NDArray[np.integer]:
        if theirs.bos_token and text.startswith(theirs.bos_token):
            return encode(text)
        return np.asarray(theirs(text, verbose=False)["input_ids"], dtype=np.int64)

    return Tokenizer(f"the one of {folder.name}", encode, decode, int(start), encode_special)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
