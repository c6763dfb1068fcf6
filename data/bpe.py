"""GPT-2's byte-pair encoding, from the ranks that are shipped with this package: no network, no cache directory.

tiktoken does the merging; what is ours is that the ranks are read from one file whose sha256 is checked, so a damaged
vocabulary cannot make shards that nothing can read. Any text can be encoded and comes back as it was, since the
alphabet is bytes. About 0.1 s to load, once a process.

Sources: Radford et al. 2019, section 2.2; ``gpt2.tiktoken`` is OpenAI's ``r50k_base`` table (MIT), the same merges as
GPT-2's ``vocab.bpe``.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tiktoken

from data.errors import InputError

TOKENIZER_ID = "gpt2"
"""What settings and checkpoints call this vocabulary. The ranks behind it are verified, so the name says it all."""

VOCAB_SIZE = 50_257
END_OF_TEXT = 50_256

RANKS = Path(__file__).with_name("gpt2.tiktoken")
RANKS_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"

# Splits text before merging: contractions, words with their leading space, digits, other marks, white space. GPT-2's
# own expression, with possessive quantifiers where backtracking cannot change the match.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def load(path: Path) -> tiktoken.Encoding:
    """The encoding with the ranks in ``path``; raises InputError unless the file is GPT-2's, byte for byte."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; the package is incomplete, install it again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != RANKS_SHA256:
        raise InputError(
            f"{path}: sha256 is {found}, GPT-2's ranks have {RANKS_SHA256}; the file is damaged, install webtext again"
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
    """The encoding, loaded once a process."""
    return load(RANKS)


def encode(text: str) -> npt.NDArray[np.uint16]:
    """Tokens [n] of a text. ``<|endoftext|>`` in the text is text: the end-of-text token is never made from it."""
    return np.array(encoding().encode_ordinary(text), dtype=np.uint16)


def decode(tokens: Iterable[int] | npt.NDArray[np.integer]) -> str:
    """The text of some tokens; bytes that are no UTF-8, as in a text cut inside a character, become U+FFFD."""
    return encoding().decode([int(token) for token in tokens])
