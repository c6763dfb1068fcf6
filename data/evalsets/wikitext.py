"""WikiText-2 (Merity et al., 2016): ``wiki.test.tokens``, the split of the GPT-2 paper's table 3, and
``wiki.valid.tokens``.

Punctuation stands between spaces, and a hyphen inside a word is ``@-@``. ``retokenize`` restores the original. One line
of the 2,461 lines of text in the validation file keeps its artefacts (data/evalsets/detokenizers.py).

WikiText-103's ``wiki.test.tokens`` has the same articles and as many tokens. Its vocabulary is larger, so it has fewer
``<unk>``.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError
from data.evalsets.detokenizers import TokenText, remove, restore, rule
from data.evalsets.lines import read_lines


def read_wikitext(path: Path, *, as_it_stands: bool = False) -> TokenText:
    """A WikiText file, de-tokenized unless ``as_it_stands``.

    Raises InputError naming the first line that is not WikiText.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if line[:1] != " " or line[-1:] != " ":
            raise InputError(
                f"{path} line {number}: not WikiText, whose lines begin and end with a space: {line[:40]!r}; get the "
                "*.tokens file of the word-level set"
            )
    return TokenText.of(lines, str if as_it_stands else detokenize)


def detokenize(line: str) -> str:
    """A WikiText line in ordinary spelling, without a space at its start; unchanged if it could not be restored."""
    text = remove(_RULES, line.strip(" "))
    return text if retokenize(text) == line else line


def retokenize(text: str) -> str:
    """The inverse of ``detokenize``, which leaves a line unchanged if it begins with a space."""
    if text.startswith(" "):
        return text
    text = restore(_RULES, text)
    return f" {text} " if text else " "


# A full stop stays with an abbreviation: an initial, initials (U.S.), or one of these.
_ABBREVIATED = (
    r"(?<!\b[A-Za-z])(?<!\.[A-Za-z])(?<!\bNo)(?<!\bNos)(?<!\bSt)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bBros)"
    r"(?<!\bvar)(?<!\bCo)(?<!\bJr)(?<!\bSr)(?<!\bvs)(?<!\bLt)(?<!\bCol)(?<!\bSgt)(?<!\bpp)(?<!\.)"
)
_END = r"""(?=[ ,;:!?.)\]"]|$)"""  # may follow a mark that ends a word
_RULES = (
    rule(r"(?<=\S) @-@ (?=\S)", "-", r"(?<=[^\s@-])-(?=[^\s@-])", " @-@ "),
    rule(r"(?<=\d) @([,.])@ (?=\d)", r"\1", r"(?<=\d)([,.])(?=\d)", r" @\1@ "),
    rule(r"(?<=\d) – (?=\d)", "–", r"(?<=\d)–(?=\d)", " – "),
    rule(r"(?<=[$£]) (?=\d)", "", r"(?<=[$£])(?=\d)", " "),
    rule(r"(?<=\d) (?=%)", "", r"(?<=\d)(?=%)", " "),
    rule(r"(?<=\w) ('(?:s|t|re|ve|ll|d|m)) ", r"\1 ", rf"(?<=\w)('(?:s|t|re|ve|ll|d|m)){_END}", r" \1"),
    rule(r"(?<=s) ' (?=\S)", "' ", r"(?<=s)' (?=\S)", " ' "),
    rule(r"([(\[]) (?=\S)", r"\1", r"([(\[])(?=\S)", r"\1 "),
    rule(r"(?<=\S) (?=[)\]])", "", r"(?<=\S)(?=[)\]])", " "),
    rule(r'(^| |[(\[])" ([^"]*[^" ]) "(?=$| )', r'\1"\2"', r'(^| |[(\[])"([^" ]|[^" ][^"]*[^" ])"' + _END, r'\1" \2 "'),
    rule(r"(?<=[^\s,;:?!]) (?=[,;:?!]" + _END + ")", "", r"(?<=[^\s,;:?!])(?=[,;:?!]" + _END + ")", " "),
    rule(rf"(?<=[^\s.\"]){_ABBREVIATED} (?=\.{_END})", "", rf"(?<=[^\s.\"]){_ABBREVIATED}(?=\.{_END})", " "),
)
