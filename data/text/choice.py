"""Which blocks of a page are its main text, and what kind of page it is: a small model's judgement.

trafilatura and resiliparse disagree most on pages that are no articles: threads, product pages, lists. The model weighs
their votes with the structure of the page (data/text/features.py). It is two sums of decision trees: the second one
knows what the first one says of the blocks around. The result is each block's chance to be main text.

The blocks that are kept have the greatest expected F1 of words: with chances p and words w, the blocks of the highest
chances for which 2 sum(kept w p) / (sum(kept w) + sum(w p)) is greatest. So a page whose blocks are all doubtful keeps
more of them than a fixed limit would.

Trained on 917 marked pages by benchmarks/blocks.py; docs/corpus.md has the scores on pages that a model did not see.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.config import EXTRACTOR
from data.errors import InputError
from data.text.blocks import Block
from data.text.features import Ints, summarise, word_counts
from data.text.trees import Trees

MODEL = Path(__file__).with_name("blocks.npz")
KINDS = ("article", "collection", "documentation", "forum", "listing", "product", "service")

_REPEATED_WORDS = 20  # a passage as long that stands on the page before is a copy
_WHOLE_WORDS = 80  # a block as long may hold the text of several others
_GRAM = 6  # words
_REPEATED_SHARE = 0.7  # of such a block's 6-grams


class Model(NamedTuple):
    """The trees, and the lowest sums [1000] for chances of 1 to 1,000 per mille."""

    first: Trees
    second: Trees
    kinds: list[Trees]
    steps: Ints

    @classmethod
    def read(cls, path: Path) -> Model:
        """Raises InputError unless the file is the one that ``EXTRACTOR`` names."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; the package is incomplete: install webtext again") from error
        found = f"blocks {hashlib.sha256(content).hexdigest()[:16]}"
        if found != EXTRACTOR:
            raise InputError(f"{path}: it is {found}, not {EXTRACTOR}; the file is damaged: install webtext again")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            kinds = [Trees.read(arrays, f"kind.{kind}") for kind in KINDS]
            return cls(Trees.read(arrays, "first"), Trees.read(arrays, "second"), kinds, arrays["steps"])

    def chances(self, blocks: Sequence[Block], rows: Ints) -> Ints:
        """The chance [n] of each block to be main text, per mille."""
        first = self._per_mille(self.first.sums(rows))
        words = word_counts(blocks)
        around = summarise(blocks, words, first, best(words, first))
        second = self._per_mille(self.second.sums(np.concatenate([rows, around], axis=1)))
        return (first + second) // 2

    def kind(self, row: Ints) -> str:
        """The most probable kind of a page. ``row`` [f] is that of any of its blocks."""
        sums = [int(trees.sums(row[None])[0]) for trees in self.kinds]
        return KINDS[int(np.argmax(sums))]

    def _per_mille(self, sums: Ints) -> Ints:
        return np.searchsorted(self.steps, sums, side="right").astype(np.int64)


@functools.cache
def model() -> Model:
    """The model that the package ships, read once per process."""
    return Model.read(MODEL)


def best(words: Ints, chances: Ints) -> npt.NDArray[np.bool_]:
    """The blocks [n] of the greatest expected F1; at least one."""
    order = np.argsort(-chances, kind="stable")
    expected = words * chances
    f1 = np.cumsum(expected[order]) / np.maximum(1, 1000 * np.cumsum(words[order]) + expected.sum())
    keep = np.zeros(len(words), np.bool_)
    keep[order[: int(np.argmax(f1)) + 1]] = True
    return keep


def repeated(blocks: Sequence[Block], keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    """The blocks [n] whose text the page has elsewhere: later copies, and blocks that hold the text of several others.

    Some pages send their article twice, once in one piece that is not shown. Code may repeat.
    """
    repeats = np.zeros(len(blocks), np.bool_)
    words = word_counts(blocks)
    seen = set()
    for k, key in enumerate(keys):
        if words[k] >= _REPEATED_WORDS and blocks[k].element != "pre":
            repeats[k] = key in seen
            seen.add(key)
    long = [int(k) for k in np.argsort(-words, kind="stable") if words[k] >= _WHOLE_WORDS and not repeats[k]]
    if long:
        grams = [set() if repeats[k] else _grams(block.text) for k, block in enumerate(blocks)]
        n_blocks = Counter(gram for of_block in grams for gram in of_block)  # that have the 6-gram
        for k in long:
            if sum(n_blocks[gram] > 1 for gram in grams[k]) >= _REPEATED_SHARE * len(grams[k]):
                repeats[k] = True
                n_blocks.subtract(grams[k])
    return repeats


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.casefold().split()
    return {tuple(words[k : k + _GRAM]) for k in range(len(words) - _GRAM + 1)}


def text_of(blocks: Sequence[Block]) -> str:
    """The blocks as text: one line each, list items with ``- ``, the cells of a table row in one line."""
    lines: list[str] = []
    row = 0
    for block in blocks:
        if block.row and block.row == row:
            lines[-1] = f"{lines[-1]} | {block.text}"
        else:
            lines.append(f"- {block.text}" if block.element == "li" else block.text)
        row = block.row
    return "\n".join(lines)
