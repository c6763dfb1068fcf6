"""Text whose tokens stand between spaces, as Stanford's tokenizer writes it, back in ordinary spelling.

CBT and LAMBADA's original file are tokenized in the style of the Penn Treebank: ``did n't``, ```` `` Yes , '' ````,
``-LRB-``. The GPT-2 paper (section 3.2) removes these artefacts of CBT with "a de-tokenizer", whose rules were never
published. The rules here are our own. They are not invertible, and need not be: answers to one text are compared.

- Marks join the word before them, opening brackets and ``$ # £`` the word after them. ``--`` keeps its spaces.
- ``-LRB-`` and its like become brackets.
- ``n't``, ``'s`` and their like join the word before them; ``can not``, ``gon na`` and ``'t is`` become one word.
- ```` `` ```` and ``''`` become straight double quotes, a backquote becomes a straight single quote.
- A lone ``'`` is ambiguous. Inside a single quotation it closes it if it follows a mark, otherwise it is an apostrophe.
  Outside, it is an apostrophe after a word that ends in s, and opens a quotation elsewhere. Before the text's first
  single quotation, one after ``. ! ?`` or ``,`` closes a quotation that began earlier.

What the tokens do not tell: line breaks, and whether ``--`` had spaces.
"""

from __future__ import annotations

import re

_BRACKETS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
_BRACKET = re.compile("|".join(_BRACKETS), re.IGNORECASE)
_ENDING = re.compile(r"n't|'(?:s|t|re|ve|ll|d|m)", re.IGNORECASE)
_MARKS = re.compile(r"[.,;:!?)\]}%]+")
_OPENING = frozenset("([{$#£")
_BEFORE_CLOSING = frozenset('.,;:!?)-"')
_HALVES = frozenset(
    tuple(word.split("|"))
    for word in "can|not gon|na got|ta wan|na gim|me lem|me 't|is 't|was 't|were 't|will 't|would".split()
)


def detokenize(text: str) -> str:
    """A text in ordinary spelling; white space between its tokens is one space."""
    words = [_BRACKET.sub(lambda match: _BRACKETS[match[0].upper()], word) for word in text.split()]
    pieces: list[str] = []
    joins_next = True  # no space before the next piece
    in_double = in_single = was_in_single = False
    before = ""
    for index, word in enumerate(words):
        piece = word
        joins = joins_next
        joins_next = word in _OPENING
        if word == "``" or (word == '"' and not in_double):
            piece, in_double, joins_next = '"', True, True
        elif word in ("''", '"'):
            piece, in_double, joins = '"', False, True
        elif word == "`" or (word == "'" and _opens(before, in_single, was_in_single)):
            piece, in_single, was_in_single, joins_next = "'", True, True, True
        elif word == "'":
            joins = True
            in_single = in_single and before[-1:] not in _BEFORE_CLOSING
        elif _ENDING.fullmatch(word):
            joins = joins or tuple(one.lower() for one in words[index : index + 2]) not in _HALVES
        elif _MARKS.fullmatch(word) or (before.lower(), word.lower()) in _HALVES:
            joins = True
        pieces.append(piece if joins else f" {piece}")
        before = piece
    return "".join(pieces)


def _opens(before: str, in_single: bool, was_in_single: bool) -> bool:
    """Whether a lone ``'`` after the token ``before`` opens a quotation."""
    if in_single or before[-1:].lower() == "s":
        return False
    return was_in_single or before[-1:] not in (".", "!", "?", ",")
