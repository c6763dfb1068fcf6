"""Questions with several answers, as the files of HellaSwag, ARC, PIQA and WinoGrande have them: one JSON per line.

A question is kept as the columns that lm-evaluation-harness reads. ARC's own file nests them. PIQA's has its answers in
a file beside it (``dev-labels.lst`` beside ``dev.jsonl``). Both are brought into that form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError
from data.evalsets.lines import read_lines

COLUMNS = {
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    "arc_challenge": ("question", "choices", "answerKey"),
    "piqa": ("goal", "sol1", "sol2", "label"),
    "winogrande": ("sentence", "option1", "option2", "answer"),
}
"""The columns of each set; the last one holds the right answer."""


@dataclass(frozen=True)
class Question:
    """``row`` has the set's columns; ``text`` is the question with all its answers."""

    row: dict[str, Any]
    text: str


def read_questions(evalset: str, path: Path) -> list[Question]:
    """The questions of a set's file, in its order. Raises InputError naming the first line that is invalid."""
    questions = []
    labels = _labels(path) if evalset == "piqa" else None
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = orjson.loads(line)
            if evalset == "arc_challenge" and isinstance(row["question"], dict):
                row = _flat(row)
            if labels is not None and "label" not in row:
                row["label"] = labels[number - 1]
            row = {name: row[name] for name in COLUMNS[evalset]}
            if evalset == "hellaswag":
                row["label"] = str(row["label"])
            questions.append(Question(row, _text(evalset, row)))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise InputError(f"{path} line {number}: not a question of {evalset} ({error!r})") from error
    if labels is not None and len(labels) != len(questions):
        raise InputError(f"{path}: {len(questions)} questions, but {len(labels)} labels beside it; get both again")
    return questions


def labels_of(path: Path) -> Path | None:
    """The file beside PIQA's that has its answers; None if there is none."""
    beside = path.with_name(f"{path.stem}-labels.lst")
    return beside if beside.is_file() else None


def _labels(path: Path) -> list[int] | None:
    beside = labels_of(path)
    try:
        return [int(line) for line in read_lines(beside)] if beside else None
    except ValueError as error:
        raise InputError(f"{beside}: not one label per line ({error}); get the file again") from error


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    choices = row["question"]["choices"]
    columns = {name: [choice[name] for choice in choices] for name in ("text", "label")}
    return {"question": row["question"]["stem"], "choices": columns, "answerKey": row["answerKey"]}


def _text(evalset: str, row: dict[str, Any]) -> str:
    """Raises ValueError if the right answer is not one of the answers."""
    if evalset == "hellaswag":
        parts = [row["ctx_a"], row["ctx_b"], *row["endings"]]
        is_known = 0 <= int(row["label"]) < len(row["endings"])
    elif evalset == "arc_challenge":
        parts = [row["question"], *row["choices"]["text"]]
        is_known = row["answerKey"] in row["choices"]["label"]
    elif evalset == "piqa":
        parts = [row["goal"], row["sol1"], row["sol2"]]
        is_known = row["label"] in (0, 1)
    else:
        before, blank, after = row["sentence"].partition("_")
        parts = [f"{before}{row[option]}{after}" for option in ("option1", "option2")]
        is_known = blank == "_" and row["answer"] in ("1", "2")
    if not all(part.strip() for part in (row["endings"] if evalset == "hellaswag" else parts)):
        raise ValueError("the question or an answer is empty")
    if not is_known:
        raise ValueError(f"the right answer is {row[COLUMNS[evalset][-1]]!r}")
    return "\n".join(parts)
