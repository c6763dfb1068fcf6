"""What de-tokenizers share: rules that remove an artefact and can restore it, and a text whose lines went through them.

A benchmark's authors split its text into tokens. The GPT-2 paper (section 3.1) scores such sets with "invertible
de-tokenizers", which remove these artefacts: because the original can be restored, the probability of the de-tokenized
text is one of the original. Its rules were never published; ours are in the module of each set.

A line that the inverse would not restore keeps its artefacts and is counted. It is written with a space before it,
which no other line has, so the whole text can be inverted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Replacing ``joined`` by ``join`` removes an artefact; replacing ``split`` by ``spaced`` restores it."""

    joined: re.Pattern[str]
    join: str
    split: re.Pattern[str]
    spaced: str


def rule(joined: str, join: str, split: str, spaced: str) -> Rule:
    return Rule(re.compile(joined), join, re.compile(split), spaced)


def remove(rules: Sequence[Rule], text: str) -> str:
    """The text without the artefacts, rule by rule."""
    for one in rules:
        text = one.joined.sub(one.join, text)
    return text


def restore(rules: Sequence[Rule], text: str) -> str:
    """The inverse of ``remove``, for most texts: whoever uses it compares."""
    for one in reversed(rules):
        text = one.split.sub(one.spaced, text)
    return text


@dataclass(frozen=True)
class TokenText:
    """The lines of a file without their artefacts and line feeds, and how many words each had in the original.

    Benchmarks count a token for the end of each line, so a line of w words has w + 1 original tokens.
    """

    lines: tuple[str, ...]
    words: tuple[int, ...]

    @classmethod
    def of(cls, originals: Sequence[str], detokenize: Callable[[str], str]) -> TokenText:
        return cls(tuple(map(detokenize, originals)), tuple(len(line.split()) for line in originals))

    @property
    def text(self) -> str:
        """Every line with its line feed."""
        return "".join(f"{line}\n" for line in self.lines)

    @property
    def n_lines(self) -> int:
        return len(self.lines)

    @property
    def n_tokens(self) -> int:
        """Of the original, as its authors count them."""
        return sum(self.words) + len(self.lines)

    @property
    def lines_kept(self) -> int:
        """Lines with their artefacts, because the de-tokenizer cannot restore them."""
        return sum(line.startswith(" ") for line in self.lines)
