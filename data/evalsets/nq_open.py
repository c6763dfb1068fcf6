"""Natural Questions without documents (Kwiatkowski et al., 2019; Lee et al., 2019): ``NQ-open.{dev,train}.jsonl``.

Each line has a ``question`` and a list of right answers, ``answer``, each of at most five tokens. The development file
has 3,610 lines, the training file 87,925.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.evalsets.jsonl import read_jsonl, strings


@dataclass(frozen=True)
class Question:
    question: str
    answers: tuple[str, ...]


def read_nq_open(path: Path) -> list[Question]:
    """The questions of a file. Raises InputError naming the first line that is none."""
    questions = []
    for where, value in read_jsonl(path):
        question = value.get("question")
        if not isinstance(question, str) or not question.strip():
            raise InputError(f'{where}: a line needs {{"question": ..., "answer": [...]}}')
        questions.append(Question(question.strip(), strings(value.get("answer"), where, "answer")))
    return questions
