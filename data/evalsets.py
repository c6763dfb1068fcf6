"""Read official benchmark files, as their authors publish them, into examples. No model is involved here.

Files are found by name, in the directory of ``--eval-data`` or one level below. A score carries the sha256 of its file.
Supported:

    lambada          lambada_test.jsonl, OpenAI's copy of LAMBADA's test passages with their natural punctuation and
                     case (5,153 lines ``{"text": ...}``; the word to predict is the last one)
    wikitext2_test   wiki.test.tokens of WikiText-2 (the split of the GPT-2 paper's table 3)
    wikitext2_valid  wiki.valid.tokens of WikiText-2

WikiText's authors split its text into tokens: punctuation stands between spaces, a hyphen inside a word is ``@-@``. The
GPT-2 paper (section 3.1) scores such sets with "invertible de-tokenizers", which remove these artefacts. Because the
original can be restored, the probability of the de-tokenized text is the probability of the original. The paper's rules
were never published; the rules below are our own, and ``retokenize`` is their inverse. A line that it cannot restore
keeps its artefacts and is counted (1 of the 2,461 lines of text in the validation file).

Sources: Radford et al., 2019, sections 3.1 and 3.3; Paperno et al., 2016 (LAMBADA); Merity et al., 2016 (WikiText).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from data.errors import InputError

PATTERNS: dict[str, tuple[str, ...]] = {
    "lambada": ("lambada_test*.jsonl",),
    # WikiText-103 uses the same file names, so a bare name counts in --eval-data itself or in a WikiText-2 folder only.
    "wikitext2_test": ("wiki.test.tokens", "wikitext-2*/wiki.test.tokens", "wikitext-2.test.tokens*"),
    "wikitext2_valid": ("wiki.valid.tokens", "wikitext-2*/wiki.valid.tokens", "wikitext-2.valid.tokens*"),
}
"""File names of each set, as glob patterns. Patterns with a ``*`` and no folder also match one level down."""

TRAINING: dict[str, tuple[str, ...]] = {
    "wikitext2_train": ("wiki.train.tokens", "wikitext-2*/wiki.train.tokens", "wikitext-2.train.tokens*"),
}
"""File names of training parts, which nothing is scored on."""

TRAINING_OF = {"wikitext2_test": "wikitext2_train", "wikitext2_valid": "wikitext2_train"}
"""The training part that belongs to a set."""


@dataclass(frozen=True)
class EvalFile:
    """A benchmark file that was found."""

    evalset: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class Passage:
    """Predict ``target``, a word with the space before it, after ``context``."""

    context: str
    target: str


@dataclass(frozen=True)
class WikiText:
    """A WikiText file without its artefacts."""

    text: str  # de-tokenized, lines joined by line feeds
    n_tokens: int  # of the original, as its authors count them: its words and one end-of-line token per line
    n_lines: int
    lines_kept: int  # with their artefacts, because the de-tokenizer cannot restore them


def find(folder: Path, known: Mapping[str, tuple[str, ...]] = PATTERNS) -> dict[str, EvalFile]:
    """The files of the ``known`` sets in ``folder`` or one level below, by set.

    Raises InputError if there is no such directory, or if two files match the same set.
    """
    if not folder.is_dir():
        raise InputError(f"--eval-data {folder}: no such directory")
    found = {}
    for evalset, patterns in known.items():
        paths = sorted({path for pattern in patterns for path in _matches(folder, pattern) if path.is_file()})
        if len(paths) > 1:
            raise InputError(f"--eval-data {folder}: {paths[0]} and {paths[1]} are both {evalset}; leave one there")
        if paths:
            with paths[0].open("rb") as file:
                found[evalset] = EvalFile(evalset, paths[0], hashlib.file_digest(file, "sha256").hexdigest())
    return found


def _matches(folder: Path, pattern: str) -> list[Path]:
    below = [f"*/{pattern}"] if "*" in pattern and "/" not in pattern else []
    return [path for one in (pattern, *below) for path in folder.glob(one)]


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


def documents(file: EvalFile) -> list[str]:
    """The texts of a file, each as a whole, without artefacts. Raises InputError as the readers do."""
    if file.evalset == "lambada":
        return [passage.context + passage.target for passage in read_lambada(file.path)]
    return [read_wikitext(file.path).text]


def openai_lambada_text(passage: Passage) -> Passage:
    """The passage as OpenAI fed it to GPT-2: straight double quotes, a line feed first, no other outer white space.

    Source: comment of J. Wu (OpenAI) in openai/gpt-2 issue 131.
    """
    context, target = (re.sub("[“”]", '"', text) for text in (passage.context, passage.target))
    return Passage(f"\n{context.strip()}", f" {target.strip()}")


def read_wikitext(path: Path) -> WikiText:
    """A WikiText file, de-tokenized. Raises InputError naming the first line that is not WikiText."""
    try:
        original = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); get the file again") from error
    lines = original.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{path}: empty; get the file again")
    for number, line in enumerate(lines, start=1):
        if line[:1] != " " or line[-1:] != " ":
            raise InputError(
                f"{path} line {number}: not WikiText, whose lines begin and end with a space: {line[:40]!r}; get the "
                "*.tokens file of the word-level set"
            )
    texts = [detokenize(line) for line in lines]
    n_words = sum(len(line.split()) for line in lines)
    return WikiText("\n".join(texts) + "\n", n_words + len(lines), len(lines), sum(t[:1] == " " for t in texts))


def detokenize(line: str) -> str:
    """A WikiText line in ordinary spelling, without a space at its start; unchanged if it could not be restored."""
    text = line.strip(" ")
    for rule in _RULES:
        text = rule.joined.sub(rule.join, text)
    return text if retokenize(text) == line else line


def retokenize(text: str) -> str:
    """The inverse of ``detokenize``, which leaves a line unchanged if it begins with a space."""
    if text.startswith(" "):
        return text
    for rule in reversed(_RULES):
        text = rule.split.sub(rule.spaced, text)
    return f" {text} " if text else " "


@dataclass(frozen=True)
class _Rule:
    """Replacing ``joined`` by ``join`` removes an artefact; replacing ``split`` by ``spaced`` restores it."""

    joined: re.Pattern[str]
    join: str
    split: re.Pattern[str]
    spaced: str


def _rule(joined: str, join: str, split: str, spaced: str) -> _Rule:
    return _Rule(re.compile(joined), join, re.compile(split), spaced)


# A full stop stays with an abbreviation: an initial, initials (U.S.), or one of these.
_ABBREVIATED = (
    r"(?<!\b[A-Za-z])(?<!\.[A-Za-z])(?<!\bNo)(?<!\bNos)(?<!\bSt)(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bBros)"
    r"(?<!\bvar)(?<!\bCo)(?<!\bJr)(?<!\bSr)(?<!\bvs)(?<!\bLt)(?<!\bCol)(?<!\bSgt)(?<!\bpp)(?<!\.)"
)
_END = r"""(?=[ ,;:!?.)\]"]|$)"""  # may follow a mark that ends a word
_RULES = (
    _rule(r"(?<=\S) @-@ (?=\S)", "-", r"(?<=[^\s@-])-(?=[^\s@-])", " @-@ "),
    _rule(r"(?<=\d) @([,.])@ (?=\d)", r"\1", r"(?<=\d)([,.])(?=\d)", r" @\1@ "),
    _rule(r"(?<=\d) – (?=\d)", "–", r"(?<=\d)–(?=\d)", " – "),
    _rule(r"(?<=[$£]) (?=\d)", "", r"(?<=[$£])(?=\d)", " "),
    _rule(r"(?<=\d) (?=%)", "", r"(?<=\d)(?=%)", " "),
    _rule(r"(?<=\w) ('(?:s|t|re|ve|ll|d|m)) ", r"\1 ", rf"(?<=\w)('(?:s|t|re|ve|ll|d|m)){_END}", r" \1"),
    _rule(r"(?<=s) ' (?=\S)", "' ", r"(?<=s)' (?=\S)", " ' "),
    _rule(r"([(\[]) (?=\S)", r"\1", r"([(\[])(?=\S)", r"\1 "),
    _rule(r"(?<=\S) (?=[)\]])", "", r"(?<=\S)(?=[)\]])", " "),
    _rule(
        r'(^| |[(\[])" ([^"]*[^" ]) "(?=$| )', r'\1"\2"', r'(^| |[(\[])"([^" ]|[^" ][^"]*[^" ])"' + _END, r'\1" \2 "'
    ),
    _rule(r"(?<=[^\s,;:?!]) (?=[,;:?!]" + _END + ")", "", r"(?<=[^\s,;:?!])(?=[,;:?!]" + _END + ")", " "),
    _rule(rf"(?<=[^\s.\"]){_ABBREVIATED} (?=\.{_END})", "", rf"(?<=[^\s.\"]){_ABBREVIATED}(?=\.{_END})", " "),
)
