"""The One Billion Word Benchmark (Chelba et al., 2013): ``news.en.heldout-00000-of-00050``, the usual test file.

A line is a sentence of a news article; the sentences are shuffled, so each stands for itself. Case and vocabulary are
the original ones, but punctuation, quotation marks and ``'s`` stand between spaces, and the apostrophe of ``n't`` has
moved: ``doesn 't``. The sample ../shared/data/eval has 500 lines of it.

``retokenize`` restores the original. Quotation marks are joined by a guess at which of them open: they alternate, and
a lone one opens at the start of a sentence or after a colon. A wrong guess is restored as well, since the inverse puts
spaces on both sides of each.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import InputError
from data.evalsets.detokenizers import TokenText, remove, restore, rule
from data.evalsets.lines import read_lines

_CONTRACTED = "'(?:s|S|t|re|ve|ll|d|m)"
_END = r"""(?=[ ,;:?!.)\]"]|$)"""  # may follow a mark that ends a word
_FULL_STOP = r'(?=\.(?: ?["\')\]])*$)'  # before the one that ends the sentence
_ABBREVIATED = r"(?:\b(?:[A-Za-z]\.)+[A-Za-z]|\b(?:Inc|Corp|Co|Ltd|Jr|Sr|Bros|No|etc|vs))\."
_RULES = (
    rule(rf"(?<=\w) ({_CONTRACTED}){_END}", r"\1", rf"(?<=\w)({_CONTRACTED}){_END}", r" \1"),
    rule(r"(?<=s) ' (?=\S)", "' ", r"(?<=s)' (?=\S)", " ' "),
    rule(r"([$£€]) (?=\d)", r"\1", r"([$£€])(?=\d)", r"\1 "),
    rule(r"(?<=\d) (?=%)", "", r"(?<=\d)(?=%)", " "),
    rule(r"(?<=\d) : (?=\d)", ":", r"(?<=\d):(?=\d)", " : "),
    rule(r"([(\[]) (?=\S)", r"\1", r"([(\[])(?=\S)", r"\1 "),
    rule(r"(?<=\S) (?=[)\]])", "", r"(?<=\S)(?=[)\]])", " "),
    rule(r"(?<=[^\s,;:?!]) (?=[,;:?!]" + _END + ")", "", r"(?<=[^\s,;:?!])(?=[,;:?!]" + _END + ")", " "),
    rule(rf"(?<=[^\s.]) {_FULL_STOP}", "", rf"(?<=[^\s.]){_FULL_STOP}", " "),
    rule(rf"({_ABBREVIATED}) \.$", r"\1", rf"({_ABBREVIATED})$", r"\1 ."),
)
_QUOTE = re.compile(r' ?" ?')


def read_1bw(path: Path) -> TokenText:
    """The sentences, de-tokenized. Raises InputError naming the first line that is not a sentence of this set."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line != " ".join(line.split()):
            raise InputError(
                f"{path} line {number}: not the One Billion Word Benchmark, whose lines are words with single spaces "
                f"between them: {line[:40]!r}; get {path.name} again"
            )
    return TokenText.of(lines, detokenize)


def detokenize(line: str) -> str:
    """A sentence in ordinary spelling; with a space before it and otherwise unchanged if it could not be restored."""
    text = remove(_RULES, _join_quotes(line))
    return text if retokenize(text) == line else f" {line}"


def retokenize(text: str) -> str:
    """The inverse of ``detokenize``."""
    if text.startswith(" "):
        return text[1:]
    return restore(_RULES, _space_quotes(text))


def _join_quotes(line: str) -> str:
    words = line.split(" ")
    if '"' not in words:
        return line
    at = [i for i, word in enumerate(words) if word == '"']
    opens = len(at) % 2 == 0 or at[0] == 0 or words[at[0] - 1] == ":"
    text = ""
    glue = ""  # what separates the next word from the text
    for word in words:
        closes = word == '"' and not opens
        text += word if closes else glue + word
        glue = "" if word == '"' and opens else " "
        opens ^= word == '"'
    return text


def _space_quotes(text: str) -> str:
    return _QUOTE.sub(' " ', text).strip(" ")
