"""8-grams against a plain loop over the words, and the filter's bound."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.overlap.grams import GRAM_WORDS, BloomFilter, Grams, grams


def words_of(text: str) -> list[str]:
    """Lower-cased alphanumeric words, one character after the other."""

    def plain(character: str) -> str:
        if not character.isalnum():
            return " "
        lower = character.lower()
        return lower if len(lower.encode()) == len(character.encode()) and len(lower) == 1 else character

    return "".join(map(plain, text)).split()


def strings(found: Grams) -> list[bytes]:
    every = np.arange(len(found.hashes))
    return [found.string(gram) for gram in every[found.documents(every) >= 0].tolist()]


def expected(texts: list[str]) -> list[bytes]:
    found = []
    for text in texts:
        words = words_of(text)
        found += [" ".join(words[n : n + GRAM_WORDS]).encode() for n in range(len(words) - GRAM_WORDS + 1)]
    return found


ODD = st.text(st.sampled_from("aZ9 .'\n\x00ÀéßİKΣ中文א٣½²“—\u0301😀𝐀𐐀Ⱥ"), max_size=60)


@settings(deadline=None)  # the first call makes the table of letters
@given(ODD | st.text(max_size=60))
def test_a_text_becomes_lower_cased_words(text: str) -> None:
    assert grams(pa.array([text], pa.string())).normal.decode().split() == words_of(text)


@settings(deadline=None)
@given(st.lists(ODD | st.text(st.sampled_from("ab "), max_size=80), max_size=6))
def test_the_grams_of_documents_are_those_of_a_loop_over_their_words(texts: list[str]) -> None:
    found = grams(pa.array(texts, pa.string()))
    assert strings(found) == expected(texts)


def test_equal_strings_have_equal_hashes_wherever_they_stand() -> None:
    random = np.random.default_rng(0)
    vocabulary = ["a", "bc", "eightchr", "ninechars", "sixteencharacter", "a-very-long-word" * 3, "né", "中文字"]
    texts = [" ".join(random.choice(vocabulary, 40)) for _ in range(60)]
    found = grams(pa.array(texts))
    by_string: dict[bytes, set[int]] = {}
    every = np.arange(len(found.hashes))
    inside = every[found.documents(every) >= 0]
    for gram in inside.tolist():
        by_string.setdefault(found.string(gram), set()).add(int(found.hashes[gram]))
    assert {len(hashes) for hashes in by_string.values()} == {1}
    assert len(set().union(*by_string.values())) == len(by_string)  # and others differ
    alone = grams(pa.array(texts[7:8]))
    assert all(by_string[alone.string(k)] == {int(one)} for k, one in enumerate(alone.hashes))


def test_a_slice_of_a_column_is_read_as_such() -> None:
    texts = [f"document {n} has the words one two three four five six" for n in range(5)]
    found = grams(pa.array(texts).slice(2, 2))
    assert strings(found) == expected(texts[2:4])
    assert found.documents(np.array([0, 3, 4, 11])).tolist() == [0, 0, -1, 1]


@pytest.mark.parametrize("texts", [[], [""], ["", "\n"], ["one two"], ["\x00" * 100]])
def test_documents_without_eight_words_have_no_grams(texts: list[str]) -> None:
    assert strings(grams(pa.array(texts, pa.string()))) == []


def test_the_filter_finds_every_member_and_none_of_a_million_others() -> None:
    """The paper's check: a million strings that are not in the filter, of which it found none."""
    random = np.random.default_rng(0)
    members = random.integers(2**64 - 1, size=100_000, dtype=np.uint64)
    bloom = BloomFilter(members)
    assert len(bloom.find(members)) == len(members)
    others = random.integers(2**64 - 1, size=1_000_000, dtype=np.uint64)
    assert len(bloom.find(others)) == 0
    fill = 1 - np.exp(-bloom.PROBES * len(members) / 2**bloom.bits)
    assert fill**bloom.PROBES <= 1e-8
    words = [f"w{n}" for n in random.integers(10_000, size=200_000).tolist()]
    known = grams(pa.array([" ".join(words[:100_000])])).hashes
    other = grams(pa.array([" ".join(words[100_000:])])).hashes
    assert len(BloomFilter(known).find(known)) == len(known)
    assert len(BloomFilter(known).find(other)) == 0


def test_an_empty_filter_finds_nothing() -> None:
    assert len(BloomFilter(np.empty(0, np.uint64)).find(np.arange(1000, dtype=np.uint64))) == 0
