"""Signals against values worked by hand, against a slow reference, and on texts that break things."""

from __future__ import annotations

import math
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.schema import TEXT
from data.text import signals
from data.text.signals import Signals, measure


def test_counts_and_shares_of_words() -> None:
    found = measure("The cat # and\nthe 42 dogs... {ok}\n\nTHE Lorem Ipsum of 7… that}")
    assert found.n_chars == 62
    assert found.n_words == 14  # The cat # and the 42 dogs... {ok} THE Lorem Ipsum of 7… that}
    assert measure("hello world").n_gpt2_tokens == 2
    assert found.n_stop_words == 3  # the and of; "that}" is another word
    assert found.n_curly_brackets == 1
    assert found.n_lorem_ipsum == 1
    assert found.mean_word_length == (3 + 3 + 1 + 3 + 3 + 2 + 7 + 4 + 3 + 5 + 5 + 2 + 2 + 5) / 14
    assert found.alpha_word_share == 11 / 14  # all but # 42 7…
    assert found.hash_word_ratio == 1 / 14
    assert found.ellipsis_word_ratio == 2 / 14
    assert found.newline_word_ratio == 3 / 14


def test_shares_of_lines_ignore_blank_lines_and_outer_space() -> None:
    lines = [
        "- a bullet without a mark",
        "  • another one, and more than thirty characters.  ",
        "",
        "A long line that goes on and on and says...",
        "Here ends a quotation of thirty.”",
        "Menu",
    ]
    found = measure("\n".join(lines))
    assert found.bullet_line_share == 2 / 5
    assert found.ellipsis_line_share == 1 / 5
    assert found.punctuated_line_share == 3 / 5
    assert found.short_line_share == 2 / 5
    assert measure("x" * 29).short_line_share == 1
    assert measure("x" * 30).short_line_share == 0


def test_repeated_lines_and_paragraphs() -> None:
    found = measure("One two.\nThree.\n\n One two.\nThree.\n \nOne two.\nFour")
    assert found.duplicate_line_share == 3 / 6  # of One two., Three., One two.
    assert found.duplicate_line_char_share == (8 + 6 + 8) / (3 * 8 + 2 * 6 + 4)
    assert found.duplicate_paragraph_share == 1 / 3  # the second one
    assert found.duplicate_paragraph_char_share == 15 / (15 + 15 + 13)


def test_a_line_ends_a_sentence_and_lines_of_notices_have_none() -> None:
    assert measure("One of them is here. Is it? It is!\nThis line has no mark").n_sentences == 4
    assert measure('He said "so be it." Then he left... Nobody knew.').n_sentences == 3
    assert (
        measure("Two words.\nPlease enable JavaScript first. Then wait.\nOur Privacy Policy is here").n_sentences == 0
    )
    assert measure("我来。我看见。我征服！你好吗？").n_sentences == 4
    assert measure("It costs 3.50 at a.example now").n_sentences == 1


def test_the_most_frequent_sequence_of_words() -> None:
    # Characters: 6 * ("to" + "be") + "or" + "not" = 29
    found = measure("to be or to be not to be to be to be to be")
    assert found.top_2_gram_share == 6 * 4 / 29
    assert found.top_3_gram_share == 7 * 2 / 29  # "to be to" covers seven of the last eight words
    assert measure("a b ccc ddd a b ccc ddd").top_2_gram_share == 12 / 16  # of three equally frequent, the longest
    assert measure("none of these words occurs twice").top_2_gram_share == 0


def test_sequences_that_occurred_before_count_once_each() -> None:
    six = "aa bb cc dd ee ff"  # 12 characters
    found = measure(f"{six} xx {six} yy {six}")
    shares = [getattr(found, f"duplicate_{n}_gram_share") for n in range(5, 11)]
    assert shares == [24 / 40, 24 / 40, 0, 0, 0, 0]
    periodic = measure("a " * 100)  # the first ten are no repeat of anything: 99 words are
    assert periodic.duplicate_10_gram_share == 99 / 100
    assert periodic.top_4_gram_share == 1


def test_scripts_without_spaces_count_characters_as_words() -> None:
    chinese = measure("网站上的文章很长，没有空格。" * 3)
    assert chinese.n_words == 3 * 14
    assert chinese.mean_word_length == 1
    assert chinese.duplicate_10_gram_share == pytest.approx(2 / 3)
    mixed = measure("GPT-2是一个 model")
    assert (mixed.n_words, mixed.n_gpt2_tokens) == (5, 9)


def slow_ngram_shares(words: list[str]) -> dict[str, float]:
    """The definition, word for word."""
    total = sum(map(len, words))
    shares = {}
    for n in range(2, 11):
        grams = [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]
        counts = Counter(grams)
        covered: set[int] = set()
        if n <= 4 and counts and max(counts.values()) > 1:
            most = max(counts.values())
            longest = max(sum(map(len, gram)) for gram, count in counts.items() if count == most)
            top = next(g for g in sorted(counts) if counts[g] == most and sum(map(len, g)) == longest)
            chosen = [k for k, gram in enumerate(grams) if gram == top]
        else:
            chosen = [k for k, gram in enumerate(grams) if n > 4 and gram in grams[:k]]
        for k in chosen:
            covered.update(range(k, k + n))
        name = f"top_{n}_gram_share" if n <= 4 else f"duplicate_{n}_gram_share"
        shares[name] = sum(len(words[k]) for k in covered) / total if total else 0.0
    return shares


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=60))
def test_ngrams_are_those_of_the_definition(words: list[str]) -> None:
    found = measure(" ".join(words))._asdict()
    for name, share in slow_ngram_shares(words).items():
        if name.startswith("dup"):
            assert found[name] == pytest.approx(share), name
        else:  # which of equally frequent and long ones counts is left open
            assert 0 <= found[name] <= 1, name
            assert (found[name] > 0) == (share > 0), name


def check(text: str) -> Signals:
    found = measure(text)
    for name, value in found._asdict().items():
        assert math.isfinite(value), name
        assert value >= 0, name
        assert "share" not in name or value <= 1, name
    row = pa.Table.from_pylist([found._asdict()], pa.schema([TEXT.field(name) for name in Signals._fields]))
    assert row.num_rows == 1
    return found


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\n .-#{}…a中ก\ud800\0")), max_size=200))
@example("")
@example("\0")
@example("\ud800")
@example("\n\n \n")
@example("." * 1000)
@example("\u0e33\u0e33 \u3000")
def test_any_text_has_signals_in_their_range(text: str) -> None:
    check(text)


def test_nothing_has_no_signals() -> None:
    assert measure("") == Signals()
    assert measure(" \n\t\n") == Signals(n_chars=4, n_gpt2_tokens=4)


def test_a_paragraph_ten_thousand_times() -> None:
    paragraph = "The quick brown fox jumps over the lazy dog. It runs on."
    found = check(f"{paragraph}\n\n" * 10_000)
    assert found.n_words == 120_000
    assert found.duplicate_line_share == found.duplicate_paragraph_share == 9_999 / 10_000
    assert found.duplicate_10_gram_share == pytest.approx(9_999 / 10_000)


@pytest.mark.parametrize("text", ["x " * 1_000_000, "{" * 5_000_000, "\n.\n" * 1_000_000, "字" * 1_000_000])
def test_megabytes_of_one_thing_take_no_more_than_linear_time(text: str) -> None:
    """What is quadratic would run into the time limit of the tests."""
    check(text)


def test_a_document_of_ten_megabytes() -> None:
    words = [f"{number * 7919 % 65_537:x}" for number in range(2_000_000)]
    text = " ".join(words)
    assert len(text) > 9_000_000
    found = check(text)
    assert found.n_words == 2_000_000
    assert found.duplicate_10_gram_share == pytest.approx(1 - 65_537 / 2_000_000, abs=1e-4)


def test_the_columns_of_text_are_the_signals() -> None:
    assert TEXT.names[-len(Signals._fields) :] == list(Signals._fields)
    assert signals.MAX_NGRAM == 10
