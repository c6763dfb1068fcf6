"""Text made by the program, as tokens: it has structure, so that a loss falls, and needs no lake.

Each document has a topic of its own words. A token is a likely successor of the one before it, a word of the topic, or
a frequent word; the choices within each kind follow Zipf's law. The last id of the vocabulary ends a document.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from model.loader import Corpus

LENGTH = 512  # tokens per document, with its end
TOPICS = 64
SUCCESSORS = 4
Tokens = npt.NDArray[np.uint16]


def make(n_train: int, n_val: int, vocab_size: int, seed: int = 0) -> Corpus:
    """A corpus of at least so many tokens; ids are below ``vocab_size``."""
    n_words = min(vocab_size - 1, 8_000)
    tables = _tables(np.random.default_rng(seed), n_words)
    train, val = (
        _documents(np.random.default_rng([seed, split]), -(-n // LENGTH), n_words, vocab_size - 1, tables)
        for split, n in enumerate((n_train, n_val))
    )
    share = np.bincount(train) / len(train)
    share = share[share > 0]
    return Corpus(
        digest=hashlib.sha256(train.tobytes() + val.tobytes()).hexdigest(),
        snapshots=("synthetic",),
        tokenizer="gpt2",
        train=train,
        val=val,
        train_documents=len(train) // LENGTH,
        val_documents=len(val) // LENGTH,
        max_token=vocab_size - 1,
        unigram_entropy=float(-(share * np.log(share)).sum()),
    )


def _tables(random: np.random.Generator, n_words: int) -> dict[str, Any]:
    return {
        "successors": random.integers(0, n_words, (n_words, SUCCESSORS)),
        "topics": random.integers(0, n_words, (TOPICS, max(8, n_words // 20))),
        "frequent": random.permutation(n_words)[: max(8, n_words // 50)],
    }


def _documents(random: np.random.Generator, count: int, n_words: int, end: int, tables: dict[str, Any]) -> Tokens:
    """All documents at once, one position after the other."""
    topic = random.integers(0, TOPICS, count)
    word = random.integers(0, n_words, count)
    tokens = np.empty((count, LENGTH), dtype=np.uint16)
    for position in range(LENGTH - 1):
        tokens[:, position] = word
        kind = random.random(count)
        next_word = tables["successors"][word, _zipf(random, count, SUCCESSORS)]
        of_topic = tables["topics"][topic, _zipf(random, count, tables["topics"].shape[1])]
        frequent = tables["frequent"][_zipf(random, count, len(tables["frequent"]))]
        word = np.where(kind < 0.5, next_word, np.where(kind < 0.75, of_topic, frequent))
    tokens[:, -1] = end
    return tokens.reshape(-1)


def _zipf(random: np.random.Generator, count: int, n: int) -> npt.NDArray[np.int64]:
    """Ranks below ``n``; the probability of rank r is about proportional to 1 / (r + 1)."""
    return (np.exp(random.random(count) * np.log(n + 1)) - 1).astype(np.int64).clip(0, n - 1)
