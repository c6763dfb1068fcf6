"""Results as tables in the Prefect UI, beside the run that made them."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_table_artifact


def table(what: str, name: str, rows: list[dict[str, Any]]) -> None:
    """A table artifact ``<what>-<name>``; nested values are left out."""
    flat = [{key: value for key, value in row.items() if not isinstance(value, (dict, list))} for row in rows]
    create_table_artifact(key=slug(f"{what}-{name}"), table=flat, description=f"{what} of {name}")


def slug(name: str) -> str:
    """The name as Prefect's keys and our folders take it: lower-case letters, digits and dashes."""
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name.lower())
