"""The Children's Book Test (Hill et al., 2016): ``cbtest_CN_valid_2000ex.txt`` and its like, from ``CBTest.tgz``.

A question is 20 numbered sentences of a book, then line 21: the next sentence with ``XXXXX`` for one word, the answer,
nothing, and ten choices between ``|``, separated by tabs. A blank line ends it. CN asks for common nouns, NE for named
entities; the validation files have 2,000 questions each, the test files 2,500. Which book a question is from, they do
not say. An empty choice is left out, and so is a repeated one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.evalsets.lines import read_lines

SENTENCES = 20
CHOICES = 10
BLANK = "XXXXX"


@dataclass(frozen=True)
class CbtQuestion:
    """``query`` has ``BLANK`` where one of ``choices`` belongs; texts are tokenized, as in the file."""

    line: int  # of the first sentence in the file
    context: tuple[str, ...]
    query: str
    choices: tuple[str, ...]
    answer: int  # index of the right choice

    @property
    def text(self) -> str:
        """The 21 sentences with the blank, tokenized."""
        return " ".join([*self.context, self.query])


def read_cbt(path: Path) -> list[CbtQuestion]:
    """The questions of a file. Raises InputError naming the first line that is not as described above."""
    questions: list[CbtQuestion] = []
    sentences: list[str] = []
    is_complete = True  # between two questions
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() and is_complete:
            continue
        if is_complete:
            sentences = []
            is_complete = False
        label, _, text = line.partition(" ")
        expected = len(sentences) + 1
        if label != str(expected):
            raise InputError(f"{path} line {number}: expected sentence {expected} of a question, got {line[:40]!r}")
        if expected <= SENTENCES:
            sentences.append(text)
        else:
            first = number - SENTENCES
            questions.append(CbtQuestion(first, tuple(sentences), *_question(text, f"{path} line {number}")))
            is_complete = True
    if not is_complete:
        raise InputError(f"{path}: ends in the middle of a question; the file is truncated: get it again")
    return questions


def _question(text: str, where: str) -> tuple[str, tuple[str, ...], int]:
    """The query, the choices and the index of the answer of line 21."""
    fields = text.split("\t")
    if len(fields) != 4:
        raise InputError(f"{where}: expected sentence, answer, nothing and choices between tabs, got {text[:60]!r}")
    query, answer, _, joined = fields
    choices = tuple(dict.fromkeys(choice for choice in joined.split("|") if choice.strip()))
    if query.count(BLANK) != 1:
        raise InputError(f"{where}: needs {BLANK} once, got {query[:60]!r}")
    if not 2 <= len(choices) <= CHOICES:
        raise InputError(f"{where}: needs 2 to {CHOICES} different choices, got {joined!r}")
    if answer not in choices:
        raise InputError(f"{where}: the answer {answer!r} must be one of the choices {joined!r}")
    return query, choices, choices.index(answer)
