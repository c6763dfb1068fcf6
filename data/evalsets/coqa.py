"""CoQA's development set (Reddy et al., 2019): conversations about a text, with answers of several people.

The official ``coqa-dev-v1.0.json`` has 500 conversations with 7,983 questions, in five domains. Each question has the
answer of the conversation and three more. A JSONL file with ``story``, ``questions`` and ``answers`` (all the answers
of each question) is read too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError
from data.evalsets.jsonl import read_jsonl, strings
from data.evalsets.lines import read_text


@dataclass(frozen=True)
class Conversation:
    """Questions about a story; ``answers[i]`` are all answers to question i, the conversation's own one first."""

    name: str
    domain: str  # as in the file: mctest, gutenberg, race, cnn, wikipedia
    story: str
    questions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]


def read_coqa(path: Path) -> list[Conversation]:
    """The conversations of a file. Raises InputError naming the line, or the conversation, that is not one."""
    if path.suffix == ".jsonl":
        return [_conversation(value, where) for where, value in read_jsonl(path)]
    try:
        found = orjson.loads(read_text(path))["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not CoQA's JSON with a list `data` ({error}); get the file again") from error
    if not isinstance(found, list) or not found:
        raise InputError(f"{path}: `data` has no conversation; get the file again")
    conversations = []
    for number, value in enumerate(found, start=1):
        where = f"{path} conversation {number}"
        try:
            more = [value["additional_answers"][name] for name in sorted(value.get("additional_answers", {}))]
            of_people = [[turn["input_text"] for turn in turns] for turns in (value["answers"], *more)]
            answers = [list(turn) for turn in zip(*of_people, strict=True)]
            questions = [turn["input_text"] for turn in value["questions"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{where}: not a conversation of CoQA ({error!r}); get the file again") from error
        conversations.append(_conversation({**value, "questions": questions, "answers": answers}, where))
    return conversations


def _conversation(value: dict[str, Any], where: str) -> Conversation:
    missing = [name for name in ("id", "source", "story", "questions", "answers") if not value.get(name)]
    if missing:
        raise InputError(f"{where}: a conversation needs {missing[0]}")
    questions = strings(value["questions"], where, "questions")
    answers = tuple(strings(turn, where, "the answers to a question") for turn in value["answers"])
    if len(questions) != len(answers):
        raise InputError(f"{where}: {len(questions)} questions, but answers to {len(answers)}")
    return Conversation(str(value["id"]), str(value["source"]), str(value["story"]), questions, answers)
