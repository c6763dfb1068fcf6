r"""Penn Treebank in Mikolov's version (2010): ``ptb.test.txt``, the split of the GPT-2 paper's table 3.

A line is a sentence: lower case, without punctuation, ``n't`` and ``'s`` split off, numbers as ``N``, words outside of
the 10,000 most frequent ones as ``<unk>``, a slash as ``\/``. The lines follow each other as in the articles.

What can be undone is undone, and ``retokenize`` restores it: split words and currency signs are joined, and a sentence
begins with a capital. So do I, titles, initials, companies' abbreviations, weekdays and months. Any choice of capitals
can be inverted, because the original has none but ``N``. ``N`` and ``<unk>`` stay, since what they stand for is lost,
and no punctuation is added.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import InputError
from data.evalsets.detokenizers import TokenText, remove, restore, rule
from data.evalsets.lines import read_lines

_CAPITALISED = frozenset(
    "i mr. mrs. ms. dr. sen. rep. gov. prof. st. inc. corp. co. ltd. cos. bros. jr. sr. "
    "monday tuesday wednesday thursday friday saturday sunday january february april june july august september "
    "october november december jan. feb. aug. sept. oct. nov. dec.".split()
)
_INITIALS = re.compile(r"(?:[a-z]\.)+(?:[a-z]\.?)?")
_NOT_INITIALS = frozenset({"a.m.", "p.m.", "i.e.", "e.g."})
_RULES = (
    rule(r"(?<=[a-z]) n't(?= |$)", "n't", r"(?<=[a-z])n't(?= |$)", " n't"),
    rule(r"(?<=\S) ('(?:s|re|ve|ll|d|m))(?= |$)", r"\1", r"(?<=[^ ])('(?:s|re|ve|ll|d|m))(?= |$)", r" \1"),
    rule(r"(?<=s) '(?= |$)", "'", r"(?<=s)'(?= |$)", " '"),
    rule(r"([$#]) (?=N\b)", r"\1", r"([$#])(?=N\b)", r"\1 "),
    rule(r"\\/", "/", r"/", r"\/"),
)


def read_ptb(path: Path) -> TokenText:
    """The sentences, de-tokenized. Raises InputError naming the first line that is not of this version."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if line[:1] != " " or line[-1:] != " " or not line.strip() or re.search(r"[A-MO-Z]", line):
            raise InputError(
                f"{path} line {number}: not Mikolov's Penn Treebank, whose sentences are in lower case with a space "
                f"before and after them: {line[:40]!r}; get ptb.test.txt again"
            )
    return TokenText.of(lines, detokenize)


def detokenize(line: str) -> str:
    """A sentence in ordinary spelling, without a space at its start; unchanged if it could not be restored."""
    first, *others = line.strip(" ").split(" ")
    words = [first[:1].upper() + first[1:], *others]
    text = remove(_RULES, " ".join(map(_capitalise, words)))
    return text if retokenize(text) == line else line


def retokenize(text: str) -> str:
    """The inverse of ``detokenize``, which leaves a sentence unchanged if it begins with a space."""
    if text.startswith(" "):
        return text
    words = restore(_RULES, text).split(" ")
    return f" {' '.join(word if word == 'N' else word.lower() for word in words)} "


def _capitalise(word: str) -> str:
    if _INITIALS.fullmatch(word) and word not in _NOT_INITIALS:
        return word.upper()
    return word[:1].upper() + word[1:] if word in _CAPITALISED else word
