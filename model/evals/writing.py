"""What the tasks share in which the model writes: where an answer ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from data.bpe import encode


def prompts_of(texts: Sequence[str]) -> list[list[int]]:
    return [encode(text).tolist() for text in texts]


def has_line(text: str) -> bool:
    return "\n" in text


def first_line(text: str) -> str:
    """What stands before the first line break, without outer white space; empty if the text begins with one."""
    return text.partition("\n")[0].strip()


# Sentences: white space after . ! or ?, with closing quotes or brackets, ends one if an upper-case letter, a digit or
# an opening mark follows, unless the word before is an initial or one of these, or ``No.`` before a number.
_ABBREVIATED = re.compile(
    r"(?:^|[\s(\[\"'“‘])(?:[^\W\d_]|[A-Z]\.[A-Z](?:\.[A-Z])?|Mr|Mrs|Ms|Dr|Prof|Rev|Gen|Lt|Col|Sgt|Capt|Sen|Rep|Gov|St|Jr|Sr|"
    r"vs|Co|Inc|Corp|Ltd|Jan|Feb|Aug|Sept|Oct|Nov|Dec|M|MM|Mme|Mlle)\.$"
)
_END = re.compile(r"[.!?…](?:\s?»|[\"'”’)\]])*\s+(?=[\"'“‘«(\[]?\s?[^\W_a-zß-öø-ÿ])|\s*\n\s*")


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without outer white space. A line break ends a sentence."""
    found = []
    start = 0
    for match in _END.finditer(text):
        sentence = text[start : match.end()].strip()
        is_number = sentence.endswith("No.") and text[match.end()].isdigit()
        if "\n" not in match[0] and (is_number or _ABBREVIATED.search(sentence)):
            continue
        found.append(sentence)
        start = match.end()
    return [sentence for sentence in (*found, text[start:].strip()) if sentence]


def has_more_sentences(n: int) -> Callable[[str], bool]:
    """Whether a text goes on after its first n sentences, which then no longer change."""
    return lambda text: len(sentences(text)) > n
