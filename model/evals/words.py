"""Sentences and words of English text, found by rules, for the held-out tasks.

The text is never rewritten: an example is a piece of the document, so its tokens are the same as in training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.bpe import encode, encoding
from model.evals.heldout import Counts

# The closed classes of English: words that carry grammar, not content.
STOP_WORDS = frozenset(
    """
    a about above across after again against all almost along already also although always am among an and another any
    anyone anything are around as at away back be became because become been before behind being below between both but
    by can cannot could did do does doing done down during each either else enough etc even ever every everyone
    everything few for from further get gets give given go goes got had has have having he her here hers herself him
    himself his how however i if in indeed instead into is it its itself just least less like made make makes many may
    maybe me might mine more most much must my myself near neither never no nobody none nor not nothing now of off often
    on once one only onto or other others our ours ourselves out over own per perhaps quite rather really same shall she
    should since so some someone something sometimes soon still such take taken than that the their theirs them
    themselves then there therefore these they thing things this those though through thus to together too toward
    towards under until up upon us use used uses using very via was we well were what whatever when where whether which
    while who whole whom whose why will with within without would yet you your yours yourself yourselves
    """.split()
)
MIN_LETTERS = 3

WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_BREAK = re.compile(r"""(?<=[.!?])["'”’)\]]*\s+(?=["'“‘(\[]?[A-Z])|\s*\n\s*""")


@dataclass(frozen=True)
class Sentence:
    """``text[start:end]`` of a document, without surrounding white space."""

    start: int
    end: int
    n_words: int


def sentences(text: str) -> list[Sentence]:
    """The sentences of a text, in order. A line break ends a sentence: headings, list items and code are lines."""
    found = []
    start = 0
    for following in [*(match.end() for match in _BREAK.finditer(text)), len(text)]:
        # Closing quotes and brackets at the start of the break belong to the sentence before it.
        body = text[start:following].rstrip()
        offset = len(body) - len(body.lstrip())
        if body.strip():
            found.append(Sentence(start + offset, start + len(body), len(WORD.findall(body))))
        start = following
    return found


def is_content(word: str) -> bool:
    """Whether a word carries content: long enough, and not a stop word."""
    return len(word) >= MIN_LETTERS and word.isalpha() and word.lower() not in STOP_WORDS


def content_words(text: str) -> list[str]:
    return [word for word in WORD.findall(text) if is_content(word)]


def most_frequent(words: list[str]) -> str | None:
    """The most frequent word; in a tie the one that occurs last."""
    if not words:
        return None
    counts = Counter(words)
    last = {word: index for index, word in enumerate(words)}
    return max(counts, key=lambda word: (counts[word], last[word]))


def single_tokens() -> dict[str, int]:
    """Content words that are one token together with the space before them, and that token."""
    ranks = encoding()._mergeable_ranks
    pieces = ((piece[1:], rank) for piece, rank in ranks.items() if piece[:1] == b" " and piece[1:].isalpha())
    return {word: rank for raw, rank in pieces if is_content(word := raw.decode("ascii"))}


def _encode(text: str) -> list[int]:
    tokens: list[int] = encode(text).tolist()
    return tokens


def stop_tokens(encode: Callable[[str], Sequence[int]] = _encode) -> list[int]:
    """The tokens of a space and a stop word, in lower case or capitalised; ``encode`` is the model's."""
    spelled = (f" {word}" for lower in sorted(STOP_WORDS) for word in dict.fromkeys((lower, lower.capitalize())))
    return [tokens[0] for word in spelled if len(tokens := encode(word)) == 1]


def commonest(counts: Counts) -> str:
    """The content word whose token is most frequent in training."""
    words = single_tokens()
    names = list(words)
    tokens = np.array(list(words.values()))
    return names[int(counts[tokens].argmax())]
