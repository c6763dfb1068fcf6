"""Files with a JSON object on each line. A blank line before the end is an error: the file was changed or cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError
from data.evalsets.lines import read_lines


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``path line n`` and the object of each line. Raises InputError naming the first line that is none."""
    for number, line in enumerate(read_lines(path), start=1):
        where = f"{path} line {number}"
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error}); get the file again") from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: not a JSON object: {line[:40]}")
        yield where, value


def strings(value: Any, where: str, name: str) -> tuple[str, ...]:
    """A list of strings, or one string alone. Raises InputError for anything else, and for an empty list."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise InputError(f"{where}: {name} must be a list of strings, got {str(value)[:40]!r}")
    return tuple(found)
