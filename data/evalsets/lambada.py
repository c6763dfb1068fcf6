"""LAMBADA's test passages (Paperno et al., 2016), in OpenAI's copy with their natural punctuation and case.

``lambada_test.jsonl`` has 5,153 lines ``{"text": ...}``; the word to predict is the last one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import orjson

from data.errors import InputError


@dataclass(frozen=True)
class Passage:
    """Predict ``target``, a word with the space before it, after ``context``."""

    context: str
    target: str


def read_lambada(path: Path) -> list[Passage]:
    """The passages of OpenAI's file, text unchanged. Raises InputError naming the first line that is invalid."""
    passages = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            text = orjson.loads(line)["text"]
            context, _, word = text.rpartition(" ")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f'{path} line {number}: not a passage {{"text": ...}} ({error})') from error
        if not context.strip() or not word.strip():
            raise InputError(f"{path} line {number}: a passage needs a last word after a space, got {text[-40:]!r}")
        passages.append(Passage(context, f" {word}"))
    if not passages:
        raise InputError(f"{path}: empty; get the file again")
    return passages


def openai_lambada_text(passage: Passage) -> Passage:
    """The passage as OpenAI fed it to GPT-2: straight double quotes, a line feed first, no other outer white space.

    Source: comment of J. Wu (OpenAI) in openai/gpt-2 issue 131.
    """
    context, target = (re.sub("[“”]", '"', text) for text in (passage.context, passage.target))
    return Passage(f"\n{context.strip()}", f" {target.strip()}")
