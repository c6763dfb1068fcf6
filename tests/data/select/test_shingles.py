from __future__ import annotations

import re
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import SelectConfig
from data.select.shingles import exact_hash, jaccard, shingles

CONFIG = SelectConfig()
MULTIPLIER = 0x9E3779B97F4A7C15


def by_hand(text: str) -> list[int]:
    """The definition, with Python's numbers and the regular expression."""
    words = re.findall(r"\w+", text.casefold()) or [" ".join(text.split())]
    hashes = [int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") for word in words]
    length = min(5, len(words))
    found = []
    for start in range(len(words) - length + 1):
        value = 0
        for one in hashes[start : start + length]:
            value = (value + one) * MULTIPLIER % 2**64
        found.append(value)
    return found


TEXTS = st.text(st.sampled_from("aB_ 1²éßİŉ’—\n\t\u00a0\u3000一ก็\U0001f600\U00010400"), max_size=60)


@settings(deadline=None)  # the first call makes a table
@given(TEXTS)
def test_shingles_are_runs_of_five_words(text: str) -> None:
    assert shingles(text, "en", CONFIG).tolist() == by_hand(text)


def test_short_texts_and_texts_without_words_have_one_shingle() -> None:
    assert len(shingles("a b c", "en", CONFIG)) == 1
    assert len(shingles("a b c d e f", "en", CONFIG)) == 2
    ones = [shingles(text, "en", CONFIG) for text in ("", "!?", "...", "one", "two", "one two", "two one")]
    assert [len(one) for one in ones] == [1] * 7
    assert len({int(one[0]) for one in ones}) == 7
    assert len(shingles("", "zh", CONFIG)) == len(shingles("人", "zh", CONFIG)) == 1


def test_a_lone_surrogate_is_a_character_like_others() -> None:
    for language in ("en", "ja"):
        assert len(shingles("one two \ud800 three", language, CONFIG)) > 0
    assert exact_hash("a \ud800") != exact_hash("a")


def test_languages_without_spaces_are_shingled_by_characters() -> None:
    text = "我們在海邊看見許多船"
    assert len(shingles(text, "zh", CONFIG)) == len(text) - 4
    assert len(shingles(text, "en", CONFIG)) == 1  # one word
    spaced = "我們在海邊 看見\n許多船"
    assert np.array_equal(shingles(spaced, "zh", CONFIG), shingles(text, "zh", CONFIG))
    assert not np.array_equal(shingles(text[::-1], "zh", CONFIG), shingles(text, "zh", CONFIG))


@pytest.mark.parametrize("language", ["zh", "ja", "th", "lo", "km", "my"])
def test_a_changed_character_changes_five_shingles(language: str) -> None:
    rng = np.random.default_rng(1)
    text = "".join(map(chr, rng.integers(0x4E00, 0x5E00, 400)))
    edited = f"{text[:200]}々{text[201:]}"
    a, b = (np.unique(shingles(one, language, CONFIG)) for one in (text, edited))
    assert jaccard(a, b) == (396 - 5) / (396 + 5)


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_jaccard_is_the_shared_part_of_the_union(a: set[int], b: set[int]) -> None:
    expected = len(a & b) / len(a | b) if a | b else 1.0
    assert jaccard(*(np.array(sorted(one), dtype=np.uint64) for one in (a, b))) == expected


def test_exact_hashes_ignore_case_and_white_space() -> None:
    assert exact_hash("One two") == exact_hash(" ONE\n\ttwo ")
    assert exact_hash("One two") != exact_hash("One, two")
