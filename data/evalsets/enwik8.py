"""enwik8 and text8 (Mahoney, 2006): the first 100,000,000 bytes of a dump of Wikipedia, and of its text in 27 letters.

Scored is the last twentieth of the file: of the official file the last 5,000,000 bytes, the usual test split. The
GPT-2 paper does not name the part that it scored. Nothing is changed in the text.

A cut can fall inside a character of several bytes. Its bytes at the beginning or at the end of the part, at most three
each, are left out and counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError

TEST_SHARE = 20  # one part in 20
_MAX_PART = 3  # bytes of a UTF-8 character that is cut off


@dataclass(frozen=True)
class TestPart:
    """The part that is scored."""

    __test__ = False  # for pytest: not a test
    text: str
    file_bytes: int
    left_out_bytes: int  # of characters that the cut went through


def read_enwik8(path: Path) -> TestPart:
    """The test part. Raises InputError if the file is empty, or its end is not UTF-8."""
    n_bytes = path.stat().st_size
    start = n_bytes - n_bytes // TEST_SHARE
    with path.open("rb") as file:
        file.seek(start)
        part = file.read()
    if not part:
        raise InputError(f"{path}: {n_bytes} bytes, too few for a test part; get the file again")
    begin = 0
    while begin < min(_MAX_PART, len(part)) and part[begin] & 0xC0 == 0x80:
        begin += 1
    try:
        text = part[begin:].decode()
        left_out = begin
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            raise InputError(f"{path} byte {start + begin + error.start}: not UTF-8; get the file again") from error
        text = part[begin : begin + error.start].decode()
        left_out = len(part) - error.start
    return TestPart(text, n_bytes, left_out)


def read_text8(path: Path) -> TestPart:
    """The test part. Raises InputError as ``read_enwik8``, and if it has anything but small letters and spaces."""
    part = read_enwik8(path)
    other = re.search("[^a-z ]", part.text)
    if other:
        raise InputError(f"{path}: {other[0]!r} is not one of text8's 27 characters; get the file again")
    return part
