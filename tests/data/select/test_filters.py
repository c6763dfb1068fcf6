"""Each rule against texts worked by hand, each profile against what its papers say."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from data.config import FilterProfile, SelectConfig
from data.errors import InputError
from data.schema import TEXT, SelectStatus
from data.select.filters import COLUMNS, RULES, Rule, verdict
from data.text.signals import Signals, measure

PROFILES = get_args(FilterProfile)
SENTENCES = [
    "The ferry left the pier at nine and came back to the harbour in the evening.",
    "Nobody on board could say what had happened with the captain and his old dog.",
    "A year later, some children found a bottle that the sea had carried to their beach.",
    "Inside it lay a letter, three pages long, in handwriting so small it hurt the eyes.",
    "They took it to the library, where people have patience and good lamps.",
    "It told of an island with two hills, a spring of fresh water, and no one to talk to.",
    "Of course the newspapers wrote about it, each of them with a different ending.",
    "Today the letter hangs in the town hall, behind glass, and few visitors stop to read it.",
]
PROSE = "\n".join(SENTENCES)
# 60 and 56 characters
FOUR_LONG_WORDS = [
    "Unquestionably extraordinary correspondence notwithstanding.",
    "Nevertheless environmental responsibilities intensified.",
]
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnpr" for b in "aeiou" for c in "bdfgklmnpr"]  # 500 distinct words


def row(text: str, **changes: Any) -> dict[str, Any]:
    known = {"domain": "a.example", "url": "http://a.example/", "status": "ok", "language": "en", "language_score": 1.0}
    return {**dict.fromkeys(TEXT.names), **known, **measure(text)._asdict(), **changes}


def judged(text: str, profile: FilterProfile, **changes: Any) -> tuple[str, str | None]:
    status, reason = verdict(row(text, **changes), SelectConfig(profile=profile))
    return str(status), reason


def test_good_prose_passes_every_profile() -> None:
    assert [judged(PROSE, profile) for profile in PROFILES] == [("ok", None)] * 3


def spread(n: int, blocks: int, times: int, total: int) -> str:
    """``total`` words of three letters: ``blocks`` sequences of ``n`` words ``times`` each, the other words once."""
    others = iter(["the", "and", *WORDS[200:]])
    words = []
    for block in range(blocks):
        for _ in range(times):
            words += [*WORDS[n * block : n * block + n], next(others)]
    return " ".join([*words, *(next(others) for _ in range(total - len(words)))])


# PROSE has 126 words in 8 lines, 640 characters without the line ends.
CASES: list[tuple[FilterProfile, str, str, str]] = [
    ("webtext", " dog" * 127, "too_short", "n_gpt2_tokens 127 < 128"),
    ("webtext", "x" * 1_000_001, "too_long", "n_chars 1000001 > 1000000"),
    ("gopher", " ".join(WORDS[:49]), "too_short", "n_words 49 < 50"),
    ("gopher", " ".join(["a"] * 100_001), "too_long", "n_words 100001 > 100000"),
    ("gopher", " ".join(f"{k:02d}" for k in range(60)), "low_quality", "mean_word_length 2 < 3"),
    ("gopher", " ".join(f"{word}-and-more" for word in WORDS[:60]), "low_quality", "mean_word_length 12 > 10"),
    ("gopher", f"{PROSE} {'# ' * 15}", "low_quality", "hash_word_ratio 0.1064 > 0.1"),  # 15 / (126 + 15)
    ("gopher", f"{PROSE} {'... '.join(WORDS[:16])}", "low_quality", "ellipsis_word_ratio 0.1056 > 0.1"),  # 15 / 142
    ("gopher", "\n".join(f"- {s}" for s in SENTENCES), "low_quality", "bullet_line_share 1 > 0.9"),
    (
        "gopher",
        "\n".join([*(f"{s}.." for s in SENTENCES[:3]), *SENTENCES[3:]]),
        "low_quality",
        "ellipsis_line_share 0.375 > 0.3",  # 3 / 8
    ),
    (
        "gopher",
        f"{PROSE} {' '.join(map(str, range(1000, 1032)))}",
        "low_quality",
        "alpha_word_share 0.7975 < 0.8",  # 126 / (126 + 32)
    ),
    ("gopher", " ".join([*WORDS[:60], "the", "The"]), "low_quality", "n_stop_words 1 < 2"),
    (
        "gopher",
        "\n".join([*SENTENCES, *["Read more."] * 5]),
        "repetitive",
        "duplicate_line_share 0.3077 > 0.3",  # 4 / 13
    ),
    (
        "gopher",
        f"{PROSE}\n\nRead more.\n\nRead more.",
        "repetitive",
        "duplicate_paragraph_share 0.3333 > 0.3",  # 1 / 3, but 1 / 10 of the lines
    ),
    (
        "gopher",
        "\n".join([*SENTENCES, SENTENCES[2], SENTENCES[7]]),
        "repetitive",
        "duplicate_line_char_share 0.2109 > 0.2",  # (83 + 88) / (640 + 83 + 88)
    ),
    ("gopher", spread(2, 1, 7, 60), "repetitive", "top_2_gram_share 0.2333 > 0.2"),  # 14 / 60
    ("gopher", spread(3, 1, 4, 60), "repetitive", "top_3_gram_share 0.2 > 0.18"),
    ("gopher", spread(4, 1, 3, 60), "repetitive", "top_4_gram_share 0.2 > 0.16"),
    ("gopher", spread(5, 2, 2, 65), "repetitive", "duplicate_5_gram_share 0.1538 > 0.15"),  # 10 / 65
    ("gopher", spread(6, 2, 2, 83), "repetitive", "duplicate_6_gram_share 0.1446 > 0.14"),  # 12 / 83
    ("gopher", spread(7, 1, 2, 52), "repetitive", "duplicate_7_gram_share 0.1346 > 0.13"),  # 7 / 52
    ("gopher", spread(8, 1, 2, 64), "repetitive", "duplicate_8_gram_share 0.125 > 0.12"),  # 8 / 64
    ("gopher", spread(9, 1, 2, 78), "repetitive", "duplicate_9_gram_share 0.1154 > 0.11"),  # 9 / 78
    ("gopher", spread(10, 1, 2, 95), "repetitive", "duplicate_10_gram_share 0.1053 > 0.1"),  # 10 / 95
    ("fineweb", f"{PROSE} Lorem ipsum!", "low_quality", "n_lorem_ipsum 1 > 0"),
    ("fineweb", f"{PROSE} A set is written as {{1}}.", "low_quality", "n_curly_brackets 1 > 0"),
    ("fineweb", " ".join(SENTENCES).replace(". ", ", ") + " Is it? Yes. No.", "too_short", "n_sentences 4 < 5"),
    ("fineweb", PROSE.replace(".", ""), "low_quality", "punctuated_line_share 0 < 0.12"),
    (
        "fineweb",
        "\n".join([*SENTENCES, *(f"{a} and {b}." for a, b in zip(WORDS[:17], WORDS[100:], strict=False))]),
        "low_quality",
        "short_line_share 0.68 > 0.67",  # 17 / 25
    ),
    (
        "fineweb",
        "\n".join([*FOUR_LONG_WORDS, SENTENCES[0], *FOUR_LONG_WORDS[::-1], *SENTENCES[1:]]),
        "repetitive",
        "duplicate_line_char_share 0.133 > 0.1",  # 116 / (640 + 2 * 116)
    ),
    ("fineweb", PROSE + "\n" * 40, "low_quality", "newline_word_ratio 0.373 > 0.3"),  # (7 + 40) / 126
]


@pytest.mark.parametrize(("profile", "text", "status", "reason"), CASES, ids=[f"{c[0]} {c[3]}" for c in CASES])
def test_a_rule_drops_with_its_status_value_and_limit(
    profile: FilterProfile, text: str, status: str, reason: str
) -> None:
    assert judged(text, profile) == (status, reason)


def test_every_rule_has_a_case() -> None:
    shown = {
        (profile, reason.rpartition(" ")[0].split()[0], reason[-5:].split()[-1]) for profile, _, _, reason in CASES
    }
    limits = {(signal, limit) for _, signal, limit in shown}
    for rules in RULES.values():
        for rule in rules:
            for limit in (rule.at_least, rule.at_most):
                if limit is not None and rule.signal != "duplicate_paragraph_char_share":  # the line rule is met before
                    assert (rule.signal, f"{limit:g}") in limits or limit >= 100_000, rule
    assert judged(PROSE, "gopher", duplicate_paragraph_char_share=0.201) == (
        "repetitive",
        "duplicate_paragraph_char_share 0.201 > 0.2",
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_a_value_at_the_limit_passes_also_as_stored_in_32_bits(profile: FilterProfile) -> None:
    for rule in RULES[profile]:
        for limit, beyond in ((rule.at_least, -1), (rule.at_most, 1)):
            if limit is None:
                continue
            stored = limit if isinstance(limit, int) else TEXT.field(rule.signal).type.to_pandas_dtype()(limit).item()
            assert rule.broken({"language": "en", rule.signal: stored}) is None
            assert rule.broken({"language": "en", rule.signal: limit}) is None
            step = beyond if rule.signal.startswith("n_") else beyond * 0.001
            assert rule.broken({"language": "en", rule.signal: limit + step})


def test_the_webtext_profile_says_nothing_about_prose() -> None:
    for signal in Signals._fields:
        if signal not in ("n_gpt2_tokens", "n_chars"):
            for value in (0, 1, 1_000_000):
                assert judged(PROSE, "webtext", **{signal: value}) == ("ok", None)


@pytest.mark.parametrize("profile", PROFILES)
def test_rules_that_are_the_same_in_all_profiles(profile: FilterProfile) -> None:
    assert judged("", profile, status="empty") == ("no_text", "empty")
    assert judged(PROSE, profile, domain="wikipedia.org") == ("wikipedia", "wikipedia.org")
    assert judged(PROSE, profile, language="de") == ("not_english", "de with probability 1.00")
    assert judged(PROSE, profile, language_score=0.59) == ("not_english", "en with probability 0.59")


def test_length_comes_before_the_language_and_the_language_before_prose() -> None:
    assert judged("Zu kurz.", "gopher", language="de")[0] == "too_short"
    assert judged(PROSE, "gopher", language="de", bullet_line_share=1.0)[0] == "not_english"


def test_rules_that_need_english_or_spaces_skip_other_languages() -> None:
    german = SelectConfig(profile="gopher", language="de")
    assert verdict(row(PROSE, language="de", n_stop_words=0), german) == (SelectStatus.OK, None)
    # As long as an English text of 128 tokens; there are no spaces, so words are counted by characters.
    chinese = "".join(chr(0x4E00 + 17 * k) + ("。" if k % 12 == 11 else "") for k in range(96))
    for profile in PROFILES:
        config = SelectConfig(profile=profile, language="zh")
        assert verdict(row(chinese, language="zh"), config) == (SelectStatus.OK, None)


def test_every_rule_names_a_column_of_text_and_its_source() -> None:
    for rules in RULES.values():
        assert len({(rule.signal, rule.at_least, rule.at_most) for rule in rules}) == len(rules)
        for rule in rules:
            assert isinstance(rule, Rule)
            assert rule.signal in TEXT.names
            assert rule.signal in COLUMNS
            assert (rule.at_least, rule.at_most) != (None, None)
            assert rule.source


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(InputError, match="profile must be 'webtext', 'gopher' or 'fineweb', got 'pile'"):
        SelectConfig(profile="pile")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="language"):
        SelectConfig(language="English")
