"""Two texts side by side, with the words marked that differ."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from rich.text import Text

_MOST_WORDS = 2_000  # of lines that are compared word by word; longer ones are marked whole

_MARKS = (("[-", "-]"), ("{+", "+}"))  # as wdiff has them, where there is no terminal to show them reversed


def side_by_side(left: str, right: str, *, has_styles: bool) -> Iterator[tuple[Text, Text]]:
    """Rows of aligned lines of two texts. Words that only one of them has are marked."""
    ours, theirs = left.splitlines(), right.splitlines()
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, ours, theirs).get_opcodes():
        pair = "\n".join(ours[i1:i2]), "\n".join(theirs[j1:j2])
        yield (Text(pair[0]), Text(pair[1])) if tag == "equal" else _marked(*pair, has_styles)


def _marked(left: str, right: str, has_styles: bool) -> tuple[Text, Text]:
    words = left.split(" "), right.split(" ")
    if max(map(len, words)) > _MOST_WORDS:
        words = [left], [right]
    texts = Text(), Text()
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, *words).get_opcodes():
        for text, run, marks in zip(texts, (words[0][i1:i2], words[1][j1:j2]), _MARKS, strict=True):
            joined = " ".join(run)
            if not joined:
                continue
            text.append(" " if text else "")
            if tag == "equal":
                text.append(joined)
            elif has_styles:
                text.append(joined, "reverse")
            else:
                text.append(joined.join(marks))
    return texts
