"""WikiText-2 (Merity et al., 2016): ``wiki.test.tokens``, the split of the GPT-2 paper's table 3, and
``wiki.valid.tokens``.

WikiText's authors split its text into tokens: punctuation stands between spaces, a hyphen inside a word is ``@-@``. The
GPT-2 paper (section 3.1) scores such sets with "invertible de-tokenizers", which remove these artefacts. Because the
original can be restored, the probability of the de-tokenized text is the probability of the original. The paper's rules
were never published; the rules below are our own, and ``retokenize`` is their inverse. A line that it cannot restore
keeps its artefacts and is counted (1 of the 2,461 lines of text in the validation file).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError


@dataclass(frozen=True)
class WikiText:
    """A WikiText file without its artefacts."""

    text: str  # de-tokenized, lines joined by line feeds
    n_tokens: int  # of the original, as its authors count them: its words and one end-of-line token per line
    n_lines: int
    lines_kept: int  # with their artefacts, because the de-tokenizer cannot restore them


def read_wikitext(path: Path) -> WikiText:
    """A WikiText file, de-tokenized. Raises InputError naming the first line that is not WikiText."""
    try:
        original = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); get the file again") from error
    lines = original.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{path}: empty; get the file again")
    for number, line in enumerate(lines, start=1):
        if line[:1] != " " or line[-1:] != " ":
            raise InputError(
                f"{path} line {number}: not WikiText, whose lines begin and end with a space: {line[:40]!r}; get the "
                "*.tokens file of the word-level set"
            )
    texts = [detokenize(line) for line in lines]
    n_words = sum(len(line.split()) for line in lines)
    return WikiText("\n".join(texts) + "\n", n_words + len(lines), len(lines), sum(t[:1] == " " for t in texts))


def detokenize(line: str) -> str:
    """A WikiText line in ordinary spelling, without a space at its start; unchanged if it could not be restored."""
    text = line.strip(" ")
    for rule in _RULES:
        text = rule.joined.sub(rule.join, text)
    return text if retokenize(text) == line else line


def retokenize(text: str) -> str:
    """The inverse of ``detokenize``, which leaves a line unchanged if it begins with a space."""
    if text.startswith(" "):
        return text
    for rule in reversed(_RULES):
        text = rule.split.sub(rule.spaced, text)
    return f" {text} " if text else " "


@dataclass(frozen=True)
class _Rule:
    """Replacing ``joined`` by ``join`` removes an artefact; replacing ``split`` by ``spaced`` restores it."""

    joined: re.Pattern[str]
    join: str
    split: re.Pattern[str]
    spaced: str


def _rule(joined: str, join: str, split: str, spaced: str) -> _Rule:
    return _Rule(re.compile(joined), join, re.compile(split), spaced)


# A full stop stays with an abbreviation: an initial, initials (U.S.), or one of these.
_ABBREVIATED = (
    r"(?<!\b[A-Za-z])(?<!\.[A-Za-z])(?<!\bNo)(?<!\bNos)(?<!\bSt)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bBros)"
    r"(?<!\bvar)(?<!\bCo)(?<!\bJr)(?<!\bSr)(?<!\bvs)(?<!\bLt)(?<!\bCol)(?<!\bSgt)(?<!\bpp)(?<!\.)"
)
_END = r"""(?=[ ,;:!?.)\]"]|$)"""  # may follow a mark that ends a word
_RULES = (
    _rule(r"(?<=\S) @-@ (?=\S)", "-", r"(?<=[^\s@-])-(?=[^\s@-])", " @-@ "),
    _rule(r"(?<=\d) @([,.])@ (?=\d)", r"\1", r"(?<=\d)([,.])(?=\d)", r" @\1@ "),
    _rule(r"(?<=\d) – (?=\d)", "–", r"(?<=\d)–(?=\d)", " – "),
    _rule(r"(?<=[$£]) (?=\d)", "", r"(?<=[$£])(?=\d)", " "),
    _rule(r"(?<=\d) (?=%)", "", r"(?<=\d)(?=%)", " "),
    _rule(r"(?<=\w) ('(?:s|t|re|ve|ll|d|m)) ", r"\1 ", rf"(?<=\w)('(?:s|t|re|ve|ll|d|m)){_END}", r" \1"),
    _rule(r"(?<=s) ' (?=\S)", "' ", r"(?<=s)' (?=\S)", " ' "),
    _rule(r"([(\[]) (?=\S)", r"\1", r"([(\[])(?=\S)", r"\1 "),
    _rule(r"(?<=\S) (?=[)\]])", "", r"(?<=\S)(?=[)\]])", " "),
    _rule(
        r'(^| |[(\[])" ([^"]*[^" ]) "(?=$| )', r'\1"\2"', r'(^| |[(\[])"([^" ]|[^" ][^"]*[^" ])"' + _END, r'\1" \2 "'
    ),
    _rule(r"(?<=[^\s,;:?!]) (?=[,;:?!]" + _END + ")", "", r"(?<=[^\s,;:?!])(?=[,;:?!]" + _END + ")", " "),
    _rule(rf"(?<=[^\s.\"]){_ABBREVIATED} (?=\.{_END})", "", rf"(?<=[^\s.\"]){_ABBREVIATED}(?=\.{_END})", " "),
)
