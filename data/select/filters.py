"""The filters of select: which rows of text are dropped before duplicates are looked for, and why.

A profile is a list of rules. A rule compares one signal of the text stage (data/text/signals.py) with a limit. The
first rule that a document breaks decides its status. The reason gives the signal, its value and the limit it crossed,
such as ``n_gpt2_tokens 100 < 128``.

    webtext     the paper: karma has chosen the pages, so nothing is said about prose
    gopher      MassiveText's rules on quality and repetition
    fineweb     gopher's, C4's without the one on the last mark of a line, and FineWeb's own

gopher and fineweb were made for English. What counts English words or the letters of words is skipped where it cannot
hold: stop words in another language, the length of words in one that puts no spaces between them.

The rules judge documents whole. C4 and FineWeb also remove single lines (with the word "Javascript", say); here a text
stays as it is. Speed: 5 to 20 microseconds per row.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Literal, get_args

from data.config import FilterProfile, SelectConfig
from data.schema import SelectStatus, TextStatus
from data.select.shingles import WITHOUT_SPACES
from data.urls.canonical import domain_of


@dataclass(frozen=True)
class Rule:
    """A document breaks the rule if its signal is below ``at_least`` or above ``at_most``, one of which is set."""

    signal: str  # a column of schema.TEXT, which names the rule
    status: SelectStatus
    source: str  # paper and section
    at_least: float | None = None
    at_most: float | None = None
    where: Literal["all", "spaced", "english"] = "all"  # the languages that it can judge

    def broken(self, row: dict[str, Any]) -> str | None:
        """The reason to drop a row, or None."""
        if (self.where == "english" and row["language"] != "en") or (
            self.where == "spaced" and row["language"] in WITHOUT_SPACES
        ):
            return None
        value = row[self.signal]
        if self.at_least is not None and _stored(value) < _stored(self.at_least):
            return f"{self.signal} {_shown(value)} < {_shown(self.at_least)}"
        if self.at_most is not None and _stored(value) > _stored(self.at_most):
            return f"{self.signal} {_shown(value)} > {_shown(self.at_most)}"
        return None


def _stored(value: float) -> float:
    """The value as its column holds it: whole numbers as they are, others in 32 bits. Else 0.2 would exceed 0.2."""
    if isinstance(value, int):
        return value
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


_GOPHER = "Rae et al. 2021, A.1.1"
_C4 = "Raffel et al. 2020, 2.2"
_FINEWEB = "Penedo et al. 2024, 3.5"
_SHORT, _LONG = SelectStatus.TOO_SHORT, SelectStatus.TOO_LONG
_REPETITIVE, _POOR = SelectStatus.REPETITIVE, SelectStatus.LOW_QUALITY

# GPT-2's paper has no floor; its open rebuild dropped what is shorter.
WEBTEXT = (Rule("n_gpt2_tokens", _SHORT, "Gokaslan & Cohen 2019, OpenWebText", at_least=128),)

# Not in any paper: logs and dictionaries, some of them 10 MB long.
ALL = (Rule("n_chars", _LONG, "this project", at_most=1_000_000),)

GOPHER_QUALITY = (
    Rule("n_words", _SHORT, _GOPHER, at_least=50),
    Rule("n_words", _LONG, _GOPHER, at_most=100_000, where="spaced"),
    Rule("mean_word_length", _POOR, _GOPHER, at_least=3, at_most=10, where="spaced"),
    Rule("hash_word_ratio", _POOR, _GOPHER, at_most=0.1),
    Rule("ellipsis_word_ratio", _POOR, _GOPHER, at_most=0.1),
    Rule("bullet_line_share", _POOR, _GOPHER, at_most=0.9),
    Rule("ellipsis_line_share", _POOR, _GOPHER, at_most=0.3),
    Rule("alpha_word_share", _POOR, _GOPHER, at_least=0.8),
    Rule("n_stop_words", _POOR, _GOPHER, at_least=2, where="english"),
)

GOPHER_REPETITION = tuple(
    Rule(signal, _REPETITIVE, f"{_GOPHER}, table A1", at_most=limit)
    for signal, limit in (
        ("duplicate_line_share", 0.30),
        ("duplicate_paragraph_share", 0.30),
        ("duplicate_line_char_share", 0.20),
        ("duplicate_paragraph_char_share", 0.20),
        ("top_2_gram_share", 0.20),
        ("top_3_gram_share", 0.18),
        ("top_4_gram_share", 0.16),
        ("duplicate_5_gram_share", 0.15),
        ("duplicate_6_gram_share", 0.14),
        ("duplicate_7_gram_share", 0.13),
        ("duplicate_8_gram_share", 0.12),
        ("duplicate_9_gram_share", 0.11),
        ("duplicate_10_gram_share", 0.10),
    )
)

C4 = (
    Rule("n_lorem_ipsum", _POOR, _C4, at_most=0),
    Rule("n_curly_brackets", _POOR, _C4, at_most=0),
    Rule("n_sentences", _SHORT, _C4, at_least=5),
)

FINEWEB = (
    Rule("punctuated_line_share", _POOR, _FINEWEB, at_least=0.12),
    Rule("short_line_share", _POOR, _FINEWEB, at_most=0.67),
    Rule("duplicate_line_char_share", _REPETITIVE, _FINEWEB, at_most=0.1),  # datatrove's program has 0.01
    Rule("newline_word_ratio", _POOR, "datatrove, FineWebQualityFilter", at_most=0.3),  # not in the paper
)

RULES: dict[str, tuple[Rule, ...]] = {
    "webtext": (*WEBTEXT, *ALL),
    "gopher": (*ALL, *GOPHER_QUALITY, *GOPHER_REPETITION),
    "fineweb": (*ALL, *GOPHER_QUALITY, *GOPHER_REPETITION, *C4, *FINEWEB),
}
"""The rules of each profile. Those on length come first, then the language, then the others, in this order."""

assert set(RULES) == set(get_args(FilterProfile))

_LENGTH = {_SHORT, _LONG}
_BY_LENGTH = {profile: [rule for rule in rules if rule.status in _LENGTH] for profile, rules in RULES.items()}
_BY_PROSE = {profile: [rule for rule in rules if rule.status not in _LENGTH] for profile, rules in RULES.items()}

COLUMNS = [
    *("doc_id", "url", "domain", "karma", "status", "language", "language_score"),
    *dict.fromkeys(rule.signal for rules in RULES.values() for rule in rules),
]
"""The columns of text that a verdict depends on."""


def verdict(row: dict[str, Any], config: SelectConfig) -> tuple[SelectStatus, str | None]:
    """The status of the first filter that drops a row of text, with its reason; ``ok`` if none does."""
    if row["status"] != TextStatus.OK:
        return SelectStatus.NO_TEXT, row["status"]
    domains = {row["domain"], domain_of(row["url"])} & set(config.drop_domains)
    if domains:
        return SelectStatus.WIKIPEDIA, min(domains)
    for rule in _BY_LENGTH[config.profile]:
        if reason := rule.broken(row):
            return rule.status, reason
    if row["language"] != config.language or row["language_score"] < config.min_language_score:
        return SelectStatus.NOT_ENGLISH, f"{row['language']} with probability {row['language_score']:.2f}"
    for rule in _BY_PROSE[config.profile]:
        if reason := rule.broken(row):
            return rule.status, reason
    return SelectStatus.OK, None
