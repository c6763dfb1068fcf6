"""LAMBADA's test passages (Paperno et al., 2016), in two files of 5,153 lines each. The last word is to be predicted.

``lambada_test.jsonl`` is OpenAI's copy with natural punctuation and case: lines ``{"text": ...}``.
``lambada_test_plain_text.txt`` is the authors' file: lower case, tokenized (data/evalsets/treebank.py), a passage a
line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import orjson

from data.errors import InputError
from data.evalsets.lines import read_lines
from data.evalsets.treebank import detokenize


@dataclass(frozen=True)
class Passage:
    """Predict ``target``, a word with the space before it if there is one, after ``context``."""

    context: str
    target: str


def read_lambada(path: Path) -> list[Passage]:
    """The passages of OpenAI's file, text unchanged. Raises InputError naming the first line that is invalid."""
    passages = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            text = orjson.loads(line)["text"]
            context, _, word = text.rpartition(" ")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f'{path} line {number}: not a passage {{"text": ...}} ({error})') from error
        if not context.strip() or not word.strip():
            raise InputError(f"{path} line {number}: a passage needs a last word after a space, got {text[-40:]!r}")
        passages.append(Passage(context, f" {word}"))
    return passages


def read_lambada_plain(path: Path) -> list[Passage]:
    """The passages of the authors' file, text unchanged. Raises InputError naming the first line that is invalid."""
    passages = []
    for number, line in enumerate(read_lines(path), start=1):
        context, _, word = line.rstrip().rpartition(" ")
        if not context.strip():
            raise InputError(f"{path} line {number}: a passage needs a last word after a space, got {line[-40:]!r}")
        passages.append(Passage(context, f" {word}"))
    return passages


def as_it_stands(passage: Passage) -> Passage:
    return passage


def straight_quotes(passage: Passage) -> Passage:
    """The passage with straight double quotes."""
    context, target = (re.sub("[“”]", '"', text) for text in (passage.context, passage.target))
    return Passage(context, target)


def on_a_new_line(passage: Passage) -> Passage:
    """The passage with a line feed first, and no other outer white space."""
    return Passage(f"\n{passage.context.strip()}", f" {passage.target.strip()}")


def openai_lambada_text(passage: Passage) -> Passage:
    """The passage as OpenAI fed it to GPT-2: straight double quotes, a line feed first, no other outer white space.

    Source: comment of J. Wu (OpenAI) in openai/gpt-2 issue 131.
    """
    return on_a_new_line(straight_quotes(passage))


def untokenized(passage: Passage) -> Passage:
    """A passage of the authors' file in ordinary spelling."""
    text = detokenize(passage.context + passage.target)
    context = text.removesuffix(passage.target.strip())
    return Passage(context.rstrip(), text[len(context.rstrip()) :])
