"""The text of a benchmark file, and what happens to a BOM, Windows line ends and blank lines at its end.

Tools that people use to look at files leave such traces, and none of them belongs to a benchmark. One rule for all
readers of text:

- A byte order mark at the beginning is removed.
- A carriage return before a line feed is removed. One anywhere else is refused.
- Blank lines at the end of the file are removed; blank means empty, so a line with a space is not blank. Blank lines
  elsewhere reach the reader, for which they may mean something.
- Bytes that are not UTF-8 are refused, and so is a file with no lines.

A file that was changed in this way has another sha256 than the official one, so it is scored with ``--any-file`` only.
enwik8 and text8 are read as bytes: there a change of any byte is another file.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import InputError

_BOM = b"\xef\xbb\xbf"


def read_text(path: Path) -> str:
    """The file by the rule of this module, lines separated by line feeds, without one at the end.

    Raises InputError with the line if it is not UTF-8 or has a stray carriage return, and if nothing is left of it.
    """
    content = path.read_bytes().removeprefix(_BOM).replace(b"\r\n", b"\n")
    stray = content.find(b"\r")
    if stray >= 0:
        raise InputError(
            f"{path} line {content.count(10, 0, stray) + 1}: a carriage return inside a line; get the file again"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        number = content.count(10, 0, error.start) + 1
        raise InputError(f"{path} line {number}: not UTF-8 ({error}); get the file again") from error
    text = text.rstrip("\n")
    if not text:
        raise InputError(f"{path}: empty; get the file again")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of ``read_text``. Only a line feed ends a line. Raises InputError as ``read_text`` does."""
    return read_text(path).split("\n")
