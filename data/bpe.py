"""GPT-2's byte-pair encoding, with the ranks shipped in this package: no network, no cache directory.

tiktoken does the merging. This module reads the ranks and checks their sha256, so a damaged vocabulary cannot produce
shards that nothing can decode. The alphabet is bytes, so any text can be encoded, and decoding gives the same text.
Loading takes about 0.1 s, once per process.

Sources: Radford et al. 2019, section 2.2; ``gpt2.tiktoken`` is OpenAI's ``r50k_base`` table (MIT), with the same merges
as GPT-2's ``vocab.bpe``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken

from data.errors import InputError

TOKENIZER_ID = "gpt2"
"""The name of this vocabulary in settings and checkpoints. The ranks are verified, so the name identifies them."""

VOCAB_SIZE = 50_257
END_OF_TEXT = 50_256

RANKS = Path(__file__).with_name("gpt2.tiktoken")
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"

# Splits text before merging: contractions, words with their leading space, digits, other marks, white space. This is
# GPT-2's expression, with possessive quantifiers where backtracking cannot change the match.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# At 999,999 white-space characters before a word, the expression's engine runs out of stack and tiktoken panics. So
# long runs are cut out before it: they are one piece each, by the last alternatives. Nothing in the expression looks
# back, and no other alternative goes past white space, so the texts around them are split as before.
LONG_SPACE = 100_000
# Unicode's White_Space, as Rust's \s; Python's \s has U+001C to U+001F too.
_WHITE_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def load(path: Path) -> tiktoken.Encoding:
    """The encoding with the ranks in ``path``; raises InputError unless the file is GPT-2's, byte for byte."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the package is incomplete: install webtext again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != RANKS_SHA256:
        raise InputError(
            f"{path}: sha256 is {found}, but GPT-2's ranks have {RANKS_SHA256}; the file is damaged: "
            "install webtext again"
        )
    pairs = (line.split() for line in content.splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in pairs}
    return tiktoken.Encoding(
        TOKENIZER_ID,
        pat_str=_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": END_OF_TEXT},
        explicit_n_vocab=VOCAB_SIZE,
    )


@functools.cache
def encoding() -> tiktoken.Encoding:
    """The encoding, loaded once per process."""
    return load(RANKS)


def encode(text: str) -> npt.NDArray[np.uint16]:
    """Tokens [n] of a text. ``<|endoftext|>`` in the text is encoded as text, never as the end-of-text token."""
    pieces = []
    done = 0
    for run in re.finditer(f"{_WHITE_SPACE}{{{LONG_SPACE},}}", text) if len(text) >= LONG_SPACE else ():
        end = run.end() - (run.end() < len(text))  # the last white space before a word belongs to what follows
        pieces.append(_encode(text[done : run.start()]))
        pieces.append(np.array(encoding()._encode_single_piece(text[run.start() : end]), dtype=np.uint16))
        done = end
    pieces.append(_encode(text[done:]))
    return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def _encode(text: str) -> npt.NDArray[np.uint16]:
    # A buffer of numbers costs a fifth less than encode_ordinary's list of Python integers.
    try:
        return encoding().encode_to_numpy(text, disallowed_special=()).astype(np.uint16)
    except UnicodeEncodeError:  # a lone surrogate, which becomes U+FFFD
        return np.array(encoding().encode_ordinary(text), dtype=np.uint16)


def decode(tokens: Iterable[int] | npt.NDArray[np.integer]) -> str:
    """The text of some tokens. Invalid UTF-8, such as a character that was cut, becomes U+FFFD."""
    return encoding().decode([int(token) for token in tokens])
