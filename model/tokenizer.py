"""How the texts of a task become a model's tokens: GPT-2's byte pairs, or the tokenizer of another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.bpe import END_OF_TEXT, TOKENIZER_ID, decode, encode


@dataclass(frozen=True)
class Tokenizer:
    """``encode`` adds no special tokens; ``start`` is the token before the first one of a text."""

    name: str
    encode: Callable[[str], npt.NDArray[np.integer]]
    decode: Callable[[Sequence[int]], str]
    start: int
    encode_special: Callable[[str], npt.NDArray[np.integer]] | None = None  # with the special tokens that are usual


GPT2_TOKENIZER = Tokenizer(TOKENIZER_ID, encode, decode, END_OF_TEXT)
