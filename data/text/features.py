"""What the model of data/text/choice.py knows of each block: one row of whole numbers per block.

Shares are in per mille. All is whole numbers, and every sum is exact, so the same page gives the same row on any
machine. The rows describe the block itself, where it stands, its neighbours, the blocks in the same place and around
the same element, how much of them the other extractors keep (*votes*), and the page as a whole.

Cost: 3 ms for a page of 300 blocks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from data.text.blocks import BIT, MARKS, Block

Ints = npt.NDArray[np.int64]

_WORD = re.compile(r"\w+")
_CAPITAL = re.compile(r"\b[A-Z]")
_FREQUENT = frozenset(
    "the be to of and that have with a in is for on as are was it this by an or at from you we your i not can will "
    "our".split()
)
_ELEMENTS = (
    *("p", "li", "h1", "h2", "h3", "h4", "td", "th", "dd", "dt", "div", "pre", "blockquote", "figcaption"),
    *("article", "section", "br", "button", "body", "label", "summary", "noscript"),
)
_NUMBER = {element: k for k, element in enumerate(_ELEMENTS)}
_N_OWN = MARKS.index("<nav>")  # the marks that classes and ids give
_PROSE_WORDS = 12
_SHARED = (
    *("comment", "message", "product", "item", "main", "content", "post", "author", "side", "related", "meta"),
    *("details", "document", "<article>", "<main>", "<li>", "<table>", "<form>", "<blockquote>", "<noscript>"),
    *("<pre>", "<header>", "<footer>"),
)
_NEAR = (1, 2, -1, -2)
_WINDOWS = (5, 15)


def key_of(text: str) -> str:
    """The text's letters and digits in lower case: what two extractors agree in, whatever white space they write."""
    return "".join(_WORD.findall(text.casefold()))


def votes_of(keys: Sequence[str], text: str) -> Ints:
    """How much of each block (per cent) is in the text of another extractor. ``keys`` are the blocks' keys."""
    lines = [key for key in map(key_of, text.split("\n")) if key]
    whole = set(lines)
    lined = "\n".join(lines)
    joined = "".join(lines)
    votes = np.zeros(len(keys), np.int64)
    for k, key in enumerate(keys):
        if not key:
            continue
        if key in whole:
            votes[k] = 100
        elif len(key) >= 20:
            if key in joined:
                votes[k] = 100
            elif len(key) > 60:
                pieces = [key[start : start + 30] for start in range(0, len(key) - 29, 30)]
                votes[k] = 100 * sum(piece in joined for piece in pieces) // len(pieces)
        elif len(key) >= 3 and key in lined:
            votes[k] = 50
    return votes


def word_counts(blocks: Sequence[Block]) -> Ints:
    """The number of words [n] of each block."""
    return np.array([len(block.text.split()) for block in blocks], np.int64)


def measure(
    blocks: Sequence[Block], keys: Sequence[str], votes: dict[str, Ints], page: dict[str, int]
) -> tuple[Ints, list[str]]:
    """The rows [n, f] of a page with at least one block, and the names [f] of their columns."""
    columns = _Columns(blocks, votes)
    columns.block(blocks, keys)
    for name in ("parent", "grandparent", "place"):
        columns.group(name, np.array([getattr(block, name) for block in blocks], np.int64))
    columns.neighbours()
    columns.marks(blocks)
    columns.page(page)
    return np.concatenate(columns.values, axis=1), columns.names


class _Columns:
    def __init__(self, blocks: Sequence[Block], votes: dict[str, Ints]) -> None:
        self.names: list[str] = []
        self.values: list[Ints] = []
        self.n = len(blocks)
        self.votes = votes
        self.words = word_counts(blocks)
        self.chars = np.array([len(block.text) for block in blocks], np.int64)
        self.link = np.minimum(
            1000, 1000 * np.array([block.link_chars for block in blocks], np.int64) // np.maximum(1, self.chars)
        )
        self.total = max(1, int(self.words.sum()))
        self.prose = self.words * ((self.words >= _PROSE_WORDS) & (self.link < 500))

    def add(self, name: str, values: Any) -> None:
        self.names.append(name)
        self.values.append(np.asarray(values, np.int64).reshape(-1, 1))

    def add_all(self, names: Sequence[str], values: Any) -> None:
        """Columns [n, len(names)], or one row for all blocks."""
        self.names += names
        self.values.append(np.broadcast_to(np.asarray(values, np.int64), (self.n, len(names))))

    def block(self, blocks: Sequence[Block], keys: Sequence[str]) -> None:
        words = [block.text.split() for block in blocks]
        last = [block.text[-1:] for block in blocks]
        at_least_one = np.maximum(1, self.words)
        self.add("words", self.words)
        self.add("link", self.link)
        self.add("links", [block.n_links for block in blocks])
        self.add("word length", 10 * self.chars // at_least_one)
        self.add("ends with a mark", [c in '.!?:;"”…)' for c in last])
        self.add("ends a sentence", [c in '.!?…"”' for c in last])
        self.add("commas", 1000 * np.array([sum(map(b.text.count, ".,;:")) for b in blocks], np.int64) // at_least_one)
        self.add(
            "frequent words",
            1000 * np.array([sum(w.lower() in _FREQUENT for w in ws) for ws in words], np.int64) // at_least_one,
        )
        digits = np.array([sum(map(str.isdigit, block.text)) for block in blocks], np.int64)
        self.add("digits", 1000 * digits // np.maximum(1, self.chars))
        capitals = np.array([len(_CAPITAL.findall(block.text)) for block in blocks], np.int64)
        self.add("capitals", 1000 * capitals // at_least_one)
        self.add("element", [_NUMBER.get(block.element, len(_ELEMENTS)) for block in blocks])
        self.add("depth", [block.depth for block in blocks])
        before = np.cumsum(self.words) - self.words
        self.add("words before", before)
        self.add("share before", 1000 * before // self.total)
        self.add("number", np.arange(self.n))
        self.add("number from the end", self.n - np.arange(self.n))
        counts = Counter(keys)
        self.add("times on the page", [counts[key] for key in keys])
        self.add("longest before", np.maximum.accumulate(self.words) - self.words)
        for name, votes in self.votes.items():
            self.add(name, votes)

    def group(self, name: str, ids: Ints) -> None:
        """What the blocks with the same id are together."""
        _, group = np.unique(ids, return_inverse=True)
        words = _sum_by(group, self.words)
        at_least_one = np.maximum(1, words)
        self.add(f"{name}: words", words[group])
        self.add(f"{name}: blocks", np.bincount(group)[group])
        self.add(f"{name}: share", (1000 * words // self.total)[group])
        self.add(f"{name}: link", (_sum_by(group, self.words * self.link) // at_least_one)[group])
        self.add(f"{name}: prose", (1000 * _sum_by(group, self.prose) // at_least_one)[group])
        for voter, votes in self.votes.items():
            self.add(f"{name}: {voter}", (10 * _sum_by(group, self.words * votes) // at_least_one)[group])

    def neighbours(self) -> None:
        for distance in _NEAR:
            self.add(f"words at {distance}", _shifted(self.words, distance))
            self.add(f"link at {distance}", _shifted(self.link, distance))
            for voter, votes in self.votes.items():
                self.add(f"{voter} at {distance}", _shifted(votes, distance))
        at = np.arange(self.n)
        for reach in _WINDOWS:
            low, high = np.maximum(0, at - reach), np.minimum(self.n, at + reach + 1)
            words = _between(self.words, low, high)
            at_least_one = np.maximum(1, words)
            self.add(f"within {reach}: words", words)
            self.add(f"within {reach}: link", _between(self.words * self.link, low, high) // at_least_one)
            self.add(f"within {reach}: prose", 1000 * _between(self.prose, low, high) // at_least_one)
            for voter, votes in self.votes.items():
                self.add(f"within {reach}: {voter}", 10 * _between(self.words * votes, low, high) // at_least_one)

    def marks(self, blocks: Sequence[Block]) -> None:
        own = np.array([block.own for block in blocks], np.int64)
        marks = np.array([block.marks for block in blocks], np.int64)
        bits = (marks[:, None] >> np.arange(len(MARKS))) & 1
        self.add_all([f"in {mark}" for mark in MARKS], bits)
        self.add_all([f"is {mark}" for mark in MARKS[:_N_OWN]], (own[:, None] >> np.arange(_N_OWN)) & 1)
        prose = self.prose @ bits
        all_prose = max(1, int(self.prose.sum()))
        shares = 1000 * prose[[MARKS.index(mark) for mark in _SHARED]] // all_prose
        self.add_all([f"page: prose in {mark}" for mark in _SHARED], shares)
        in_thread = (marks & (BIT["comment"] | BIT["message"])) > 0
        in_threads = int(self.prose[in_thread].sum())
        self.add_all(
            ["page: prose in threads", "page: prose outside threads"], [in_threads, int(self.prose.sum()) - in_threads]
        )

    def page(self, page: dict[str, int]) -> None:
        values = {
            "words": self.total,
            "blocks": self.n,
            "link": int((self.words * self.link).sum()) // self.total,
            "prose": 1000 * int(self.prose.sum()) // self.total,
            **{voter: 10 * int((self.words * votes).sum()) // self.total for voter, votes in self.votes.items()},
            **page,
        }
        self.add_all([f"page: {name}" for name in values], list(values.values()))


def summarise(blocks: Sequence[Block], words: Ints, chances: Ints, keep: npt.NDArray[np.bool_]) -> Ints:
    """The columns that the second model has beside the first one's: what the first one says of the blocks around.

    ``chances`` [n] are per mille, ``keep`` [n] the blocks that they would keep.
    """
    n = len(blocks)
    weights = words + 1
    weighted = weights * chances
    columns = [chances]
    for name in ("parent", "grandparent", "place"):
        _, group = np.unique([getattr(block, name) for block in blocks], return_inverse=True)
        total, all_weights = _sum_by(group, weighted)[group], _sum_by(group, weights)[group]
        others = all_weights - weights
        columns += [total // all_weights, np.where(others > 0, (total - weighted) // np.maximum(1, others), -1)]
    at = np.arange(n)
    for reach in (1, 3, 8, 25):
        low, high = np.maximum(0, at - reach), np.minimum(n, at + reach + 1)
        for start, end in ((low, high), (low, at), (at + 1, high)):
            columns.append(_between(weighted, start, end) // np.maximum(1, _between(weights, start, end)))
    kept = np.flatnonzero(keep)
    all_weighted = int(weighted.sum())
    columns += [
        np.full(n, all_weighted // int(weights.sum())),
        np.full(n, int(chances.max())),
        np.full(n, int(weighted[words > _PROSE_WORDS].sum()) // 1000),
        keep.astype(np.int64),
        at - kept[0],
        kept[-1] - at,
        1000 * (np.cumsum(weighted) - weighted) // max(1, all_weighted),
    ]
    return np.stack(columns, axis=1)


def _sum_by(group: npt.NDArray[np.intp], values: Ints) -> Ints:
    # Exact: the sums are far below 2**53.
    return np.bincount(group, weights=values).astype(np.int64)


def _between(values: Ints, start: Ints, end: Ints) -> Ints:
    sums = np.concatenate([[0], np.cumsum(values)])
    result: Ints = sums[end] - sums[start]
    return result


def _shifted(values: Ints, distance: int) -> Ints:
    """The values of the blocks ``distance`` before, 0 where there are none."""
    shifted = np.zeros_like(values)
    if distance > 0:
        shifted[distance:] = values[:-distance]
    else:
        shifted[:distance] = values[-distance:]
    return shifted
