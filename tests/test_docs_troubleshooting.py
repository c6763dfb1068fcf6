"""Troubleshooting quotes messages and statuses of the program; each of them must still exist."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from data.schema import STATUSES
from tests import documents

GUIDE = "docs/troubleshooting.md"
HEADINGS = re.findall(r"^### (.+)$", documents.read(GUIDE), re.MULTILINE)
QUOTES = [quote for heading in HEADINGS for quote in re.findall(r"`(.+?)`(?:$|[ ,])", heading)]


@functools.cache
def messages() -> str:
    """Every string of the program, one per line; a value in a formatted string is left out."""
    found = []
    for package in ("data", "model", "flows"):
        for path in sorted((documents.ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                    found.append("".join(map(str, parts)))
    return "\n".join(" ".join(text.split()) for text in found)


@pytest.mark.parametrize("quote", QUOTES)
def test_every_quoted_message_or_status_exists(quote: str) -> None:
    statuses = {status.value for stage in STATUSES.values() for status in stage}
    assert quote in statuses or quote in messages()


def test_the_guide_quotes_messages_and_lists_each_symptom_once() -> None:
    assert len(QUOTES) >= 30
    assert len(set(HEADINGS)) == len(HEADINGS)


def test_every_setting_that_the_guide_names_exists() -> None:
    from dataclasses import fields

    from data import config
    from model.config import ModelConfig, TrainConfig

    kinds = (config.LinksConfig, config.PagesConfig, config.TextConfig, config.SelectConfig, config.TokensConfig)
    known = {field.name for kind in (*kinds, ModelConfig, TrainConfig) for field in fields(kind)}
    statuses = {status.value for stage in STATUSES.values() for status in stage}
    spans = set(re.findall(r"`([a-z]+_[a-z_]+)`", documents.prose(GUIDE)))
    assert spans <= known | statuses
    assert "network_pause_s" in spans
