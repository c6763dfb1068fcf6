"""The Winograd Schema Challenge's 273 examples (Levesque et al., 2012), in the file ``wsc273.txt`` with ``[MASK]``.

An example is five lines: the text with ``[MASK]`` for the pronoun, ``[MASK]``, the two candidates with a comma between
them, the right one, and a blank line. Each is cleaned:

- Runs of spaces become one space, without one before a mark.
- A candidate begins with a capital at the start of a sentence. Elsewhere a first word such as ``The`` or ``My`` is
  written small. Other words stay as they are.

The file does not have the pronouns. Where it was a possessive, a candidate without ``'s`` stands for it, the right one
as well as the wrong one ("The man lifted the boy onto the man shoulders"); these are about 25 examples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.evalsets.lines import read_lines

BLANK = "[MASK]"
LINES = 5
_SMALL_INSIDE = frozenset("A An The My His Her Its Our Their Your".split())
_SPACE_BEFORE_MARK = re.compile(r" (?=[.,;:!?])")


@dataclass(frozen=True)
class WinogradExample:
    """``before`` + space + one of two ``candidates`` + ``after``, which begins with a space, a mark, or is empty."""

    line: int
    before: str
    candidates: tuple[str, str]
    after: str
    answer: int  # index of the right candidate

    @property
    def text(self) -> str:
        """The text with the right candidate."""
        return f"{self.before} {self.candidates[self.answer]}{self.after}".lstrip()


def read_winograd(path: Path) -> list[WinogradExample]:
    """The examples of a file. Raises InputError naming the line of the first that is not as described above."""
    lines = read_lines(path)
    return [_example(lines[start : start + LINES], f"{path} line", start + 1) for start in range(0, len(lines), LINES)]


def schemas(examples: list[WinogradExample]) -> list[int]:
    """The schema of each example. Neighbours with the same candidates, in either order, are of one schema."""
    found: list[int] = []
    for i, example in enumerate(examples):
        pair = {candidate.lower() for candidate in example.candidates}
        is_next = i > 0 and pair != {candidate.lower() for candidate in examples[i - 1].candidates}
        found.append(found[-1] + is_next if found else 0)
    return found


def _example(lines: list[str], where: str, number: int) -> WinogradExample:
    if len(lines) < LINES - 1 or (len(lines) == LINES and lines[-1].strip()):
        raise InputError(f"{where} {number}: an example is {LINES - 1} lines and a blank one; the file is truncated")
    text, blank, joined, answer = (" ".join(line.split()) for line in lines[: LINES - 1])
    if text.count(BLANK) != 1 or blank != BLANK:
        raise InputError(f"{where} {number}: needs {BLANK} once, and again in the next line, got {text[:60]!r}")
    if joined.startswith(f"{answer} ,") or joined.startswith(f"{answer},"):
        candidates = [answer, joined.removeprefix(answer).lstrip(" ,")]
    elif joined.endswith(f", {answer}") or joined.endswith(f",{answer}"):
        candidates = [joined.removesuffix(answer).rstrip(" ,"), answer]
    else:
        candidates = []
    if not answer or not all(candidates) or len(set(candidates)) != 2:
        raise InputError(f"{where} {number + 2}: expected two candidates, one of them {answer!r}, got {joined!r}")
    before, _, after = (_SPACE_BEFORE_MARK.sub("", part) for part in text.partition(BLANK))
    before = before.strip()
    one, two = (_cased(candidate, before) for candidate in candidates)
    return WinogradExample(number, before, (one, two), after, candidates.index(answer))


def _cased(candidate: str, before: str) -> str:
    first = candidate.split()[0]
    if not before or before[-1] in ".!?":
        return candidate[0].upper() + candidate[1:]
    return candidate[0].lower() + candidate[1:] if first in _SMALL_INSIDE else candidate
