"""Measure a text: the counts and shares that ``select`` compares with the limits of its rules (data/select/filters.py).

White space separates words. Scripts that put no spaces between words, such as Chinese and Thai, count each character as
a word. A line is what is left of a line without white space around it; blank lines do not count. Blank lines separate
paragraphs. A *repeat* is anything but the first of several equal things, so a text said twice has a share of 0.5.

n-grams are numbered with numpy, from n-1 to n: only where an n-gram occurs twice can a longer one occur twice. So the
numbers are exact, ordinary prose is done after n = 4 or 5, and the worst text costs ten sorts of its words.

Speed: 1.2 ms per text of 700 words, a third of it for tokens. Linear in the length of the text, but for the sorts.
Sources: Rae et al. 2021 (Gopher), A.1.1 and table A1; Raffel et al. 2020 (C4), section 2.2; Penedo et al. 2024
(FineWeb), section 3.5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data import bpe

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})  # Gopher's eight
BULLETS = ("•", "‣", "◦", "●", "▪", "*", "-")
ELLIPSES = ("...", "…")
# C4's full stop, question mark, exclamation mark and quotation mark, in their other shapes and scripts, too.
END_MARKS = (".", "?", "!", "…", '"', "'", "”", "’", "»", "。", "？", "！", "」", "』", "؟", "۔", "।", "။", "។", "։")
SHORT_LINE_CHARS = 30  # FineWeb
SENTENCE_LINE_WORDS = 3  # C4 counts no sentences of shorter lines,
# nor of lines with these. The first is in the paper, the others only in its program (tensorflow_datasets, c4_utils).
NOTICES = (
    "javascript",
    *("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
)
MAX_NGRAM = 10

# Thai, Lao, Myanmar, Khmer, Kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
# The end of a sentence that is not the end of its line.
_SENTENCE_END = re.compile(r"[.?!…][\"'”’»)]* +(?=\S)")
_SENTENCE_END_UNSPACED = re.compile("[。？！][」』]?(?=.)")
_PARAGRAPH = re.compile(r"\n\s*\n")

Ints = npt.NDArray[np.int64]


class Signals(NamedTuple):
    """The signal columns of schema.TEXT; their meanings are there. Shares are in [0, 1]; a share of nothing is 0."""

    n_chars: int = 0
    n_words: int = 0
    n_gpt2_tokens: int = 0
    n_sentences: int = 0
    n_stop_words: int = 0
    n_curly_brackets: int = 0
    n_lorem_ipsum: int = 0
    mean_word_length: float = 0.0
    alpha_word_share: float = 0.0
    hash_word_ratio: float = 0.0
    ellipsis_word_ratio: float = 0.0
    newline_word_ratio: float = 0.0
    bullet_line_share: float = 0.0
    ellipsis_line_share: float = 0.0
    punctuated_line_share: float = 0.0
    short_line_share: float = 0.0
    duplicate_line_share: float = 0.0
    duplicate_line_char_share: float = 0.0
    duplicate_paragraph_share: float = 0.0
    duplicate_paragraph_char_share: float = 0.0
    top_2_gram_share: float = 0.0
    top_3_gram_share: float = 0.0
    top_4_gram_share: float = 0.0
    duplicate_5_gram_share: float = 0.0
    duplicate_6_gram_share: float = 0.0
    duplicate_7_gram_share: float = 0.0
    duplicate_8_gram_share: float = 0.0
    duplicate_9_gram_share: float = 0.0
    duplicate_10_gram_share: float = 0.0


def measure(text: str) -> Signals:
    """All signals of a text. Any string has them."""
    words = split_words(text)
    lines = _filled(text.split("\n"))
    paragraphs = _filled(_PARAGRAPH.split(text)) if "\n" in text else lines
    lower = text.lower()
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    ids = np.fromiter(map(vocabulary.__getitem__, words), np.int64, len(words))
    lengths = np.fromiter(map(len, vocabulary), np.int64, len(vocabulary))[ids]
    has_letter = np.array([w.isalpha() or any(map(str.isalpha, w)) for w in vocabulary], np.bool_)[ids]
    line_share, line_char_share = _repeats(lines)
    paragraph_share, paragraph_char_share = _repeats(paragraphs)
    return Signals(
        n_chars=len(text),
        n_words=len(words),
        n_gpt2_tokens=len(bpe.encode(text)),
        n_sentences=_n_sentences(lines),
        n_stop_words=len(STOP_WORDS.intersection(map(str.lower, vocabulary))),
        n_curly_brackets=text.count("{"),
        n_lorem_ipsum=lower.count("lorem ipsum"),
        mean_word_length=_share(int(lengths.sum()), len(words)),
        alpha_word_share=_share(int(has_letter.sum()), len(words)),
        hash_word_ratio=_share(text.count("#"), len(words)),
        ellipsis_word_ratio=_share(sum(map(text.count, ELLIPSES)), len(words)),
        newline_word_ratio=_share(text.count("\n"), len(words)),
        bullet_line_share=_share(sum(line.startswith(BULLETS) for line in lines), len(lines)),
        ellipsis_line_share=_share(sum(line.endswith(ELLIPSES) for line in lines), len(lines)),
        punctuated_line_share=_share(sum(line.endswith(END_MARKS) for line in lines), len(lines)),
        short_line_share=_share(sum(len(line) < SHORT_LINE_CHARS for line in lines), len(lines)),
        duplicate_line_share=line_share,
        duplicate_line_char_share=line_char_share,
        duplicate_paragraph_share=paragraph_share,
        duplicate_paragraph_char_share=paragraph_char_share,
        **_ngram_shares(ids, lengths),
    )


def split_words(text: str) -> list[str]:
    """The words of a text, in order. In scripts without spaces between words, each character is one."""
    if text.isascii() or not _UNSPACED_CHARACTER.search(text):
        return text.split()
    return _WORD.findall(text)


def _filled(pieces: Iterable[str]) -> list[str]:
    return [piece for piece in map(str.strip, pieces) if piece]


def _has_words(line: str, n: int) -> bool:
    """Whether the line has at least ``n`` words; stops at the n-th where it can."""
    return len(line.split(maxsplit=n - 1)) == n or (not line.isascii() and len(split_words(line)) >= n)


def _n_sentences(lines: Sequence[str]) -> int:
    """Sentences as C4 counts them; the end of a line ends one, with or without a mark."""
    counted = [line for line in lines if _has_words(line, SENTENCE_LINE_WORDS)]
    lower = "\n".join(counted).lower()
    if any(notice in lower for notice in NOTICES):
        counted = [line for line in counted if not any(notice in line.lower() for notice in NOTICES)]
    text = "\n".join(counted)
    n_unspaced = 0 if text.isascii() else len(_SENTENCE_END_UNSPACED.findall(text))
    return len(counted) + len(_SENTENCE_END.findall(text)) + n_unspaced


def _repeats(pieces: Sequence[str]) -> tuple[float, float]:
    """The share of the pieces that repeat an earlier one, and the share of their characters."""
    n_chars = sum(map(len, pieces))
    distinct = set(pieces)
    return _share(len(pieces) - len(distinct), len(pieces)), _share(n_chars - sum(map(len, distinct)), n_chars)


def _ngram_shares(ids: Ints, lengths: Ints) -> dict[str, float]:
    """``top_N_gram_share`` and ``duplicate_N_gram_share``, of the characters that are not white space.

    ``ids`` [n] number the words, equal words alike; ``lengths`` [n] are their characters. No character counts twice,
    also where n-grams overlap. If several n-grams are the most frequent, the longest of them counts.
    """
    shares: dict[str, float] = {}
    n_chars = int(lengths.sum())
    starts = np.flatnonzero(np.bincount(ids)[ids] > 1)  # where n-grams begin that occur more than once
    numbers = ids[starts]  # of those n-grams; equal ones have equal numbers
    n_ids = int(ids.max(initial=0)) + 1
    ends = np.concatenate([[0], np.cumsum(lengths)])
    for n in range(2, MAX_NGRAM + 1):
        fits = starts + n <= len(ids)
        starts = starts[fits]
        numbers = numbers[fits] * n_ids + ids[starts + n - 1]
        order = np.argsort(numbers, kind="stable")  # equal n-grams lie together, in the order of the text
        starts, numbers = starts[order], numbers[order]
        is_first = np.concatenate([[True], numbers[1:] != numbers[:-1]])[: len(numbers)]
        groups = np.cumsum(is_first) - 1
        counts = np.bincount(groups)
        is_repeated = counts[groups] > 1
        if not is_repeated.any():
            break
        if n <= 4:
            firsts = starts[is_first]
            longest = np.where(counts == counts.max(), ends[firsts + n] - ends[firsts], -1).argmax()
            shares[f"top_{n}_gram_share"] = _covered(starts[groups == longest], n, lengths) / n_chars
        else:
            shares[f"duplicate_{n}_gram_share"] = _covered(starts[~is_first], n, lengths) / n_chars
        starts, numbers = starts[is_repeated], groups[is_repeated]
    return shares


def _covered(starts: Ints, n: int, lengths: Ints) -> int:
    """The characters of the words that lie in an n-gram that begins at one of ``starts``, which are distinct."""
    change = np.zeros(len(lengths) + 1, np.int64)
    change[starts] += 1
    change[starts + n] -= 1
    return int(lengths[np.cumsum(change[:-1]) > 0].sum())


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
