"""The lines of a benchmark's text file."""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file; a byte order mark, Windows line ends and blank lines at the end are left out.

    Raises InputError if the file is not UTF-8 or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); get the file again") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{path}: empty; get the file again")
    return lines
