"""The filters of select: which rows of text are dropped before duplicates are looked for, and why."""

from __future__ import annotations

from typing import Any

from data.config import SelectConfig
from data.schema import SelectStatus, TextStatus
from data.urls.canonical import domain_of

COLUMNS = [
    "doc_id",
    "url",
    "domain",
    "karma",
    "status",
    "n_words",
    "n_chars",
    "language",
    "language_score",
    "alpha_share",
    "duplicate_line_share",
]
"""The columns of text that a verdict depends on."""


def verdict(row: dict[str, Any], config: SelectConfig) -> tuple[SelectStatus, str | None]:
    """The status of the first filter that drops a row of text, with its reason; ``ok`` if none does."""
    if row["status"] != TextStatus.OK:
        return SelectStatus.NO_TEXT, row["status"]
    domains = {row["domain"], domain_of(row["url"])} & set(config.drop_domains)
    if domains:
        return SelectStatus.WIKIPEDIA, min(domains)
    if row["n_words"] < config.min_words or row["n_chars"] < config.min_chars:
        return SelectStatus.TOO_SHORT, f"{row['n_words']} words, {row['n_chars']} characters"
    if row["n_chars"] > config.max_chars:
        return SelectStatus.TOO_LONG, f"{row['n_chars']} characters"
    if row["language"] != config.language or row["language_score"] < config.min_language_score:
        return SelectStatus.NOT_ENGLISH, f"{row['language']} with probability {row['language_score']:.2f}"
    if row["alpha_share"] < config.min_alpha_share:
        return SelectStatus.NOT_PROSE, f"letters are {row['alpha_share']:.2f} of the characters"
    if row["duplicate_line_share"] > config.max_duplicate_line_share:
        return SelectStatus.NOT_PROSE, f"repeated lines are {row['duplicate_line_share']:.2f} of the lines"
    return SelectStatus.OK, None
