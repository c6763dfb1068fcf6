"""The language of short, noisy, mixed and odd texts."""

from __future__ import annotations

import pytest

from data.config import LANGUAGES
from data.text.language import N_PIECES, PIECE_CHARS, _identifier, excerpt, identify
from tests.data.text.test_charset import PROSE

ENGLISH = "The ferry left the pier at nine and came back in the evening, when the harbour was quiet again."


def test_the_settings_know_every_language_that_a_text_can_have() -> None:
    assert set(_identifier().labels) == LANGUAGES


@pytest.mark.parametrize("language", PROSE)
def test_a_passage_is_recognised(language: str) -> None:
    assert identify(PROSE[language])[0] == language


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH.upper(),
        f"{ENGLISH} https://a.example/?id=1234567 0x7f3a {ENGLISH[:40]}",
        f"{ENGLISH * 3}\nEr sagte: „Das war ein schöner Tag am Meer.“\n{ENGLISH}",
    ],
)
def test_capitals_numbers_and_quotations_do_not_hide_english(text: str) -> None:
    language, probability = identify(text)
    assert language == "en"
    assert probability > 0.9


def test_a_long_text_is_judged_by_pieces_of_all_its_parts() -> None:
    assert excerpt("x" * (N_PIECES * PIECE_CHARS)) == "x" * (N_PIECES * PIECE_CHARS)
    digits = "0123456789ab"
    assert excerpt("".join(digit * 1_000 for digit in digits)) == "\n".join(digit * PIECE_CHARS for digit in digits)
    assert identify(PROSE["ru"][:300] + ENGLISH * 30)[0] == "en"


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "…", "12345", "x" * 1_000_000])
def test_any_text_has_an_answer(text: str) -> None:
    language, probability = identify(text)
    assert language
    assert 0 <= probability <= 1
