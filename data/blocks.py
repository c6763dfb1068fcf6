"""A file of lines, decompressed into buffers that the caller gives, a block of whole lines at a time.

The compression is read from the first bytes; a name that says otherwise is an error, so that a web page saved as
``dump.zst`` is not taken for a dump full of malformed lines.

zstandard's reader, which writes where it is told and is the fastest, ends at a cut-off frame without an error. So two
small frames of random bytes are put behind the file: they come out at the end only if every frame before was whole.

Memory: buffers of ``BUFFER_BYTES``, of which a block seldom fills more than ``BLOCK_BYTES``, and the decompressor's
window (2 GiB for Pushshift's later months, as far as data fill it).
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import mmap
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from data.errors import InputError

BLOCK_BYTES = 2**21
READ_BYTES = 2**20
MAX_LINE_BYTES = 16 * 2**20
MAX_WINDOW_BYTES = 2**31  # Pushshift compressed with zstd --long=31

_MARK_BYTES = 32
_MAGIC = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x1f\x8b": "gzip",
}
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "xz": lzma.open,
    "bzip2": bz2.open,
    "gzip": gzip.open,
    "plain": contextlib.nullcontext,
}
_SUFFIXES = {".zst": "zstd", ".xz": "xz", ".bz2": "bzip2", ".gz": "gzip"}
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r")  # in no line of JSON and in no URL
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


def buffer_bytes() -> int:
    """The size of a buffer: the longest line, and what may be read beyond it."""
    return MAX_LINE_BYTES + _MARK_BYTES + READ_BYTES


class Buffer(NamedTuple):
    """``buffer_bytes()`` of a larger memory, from ``start`` on."""

    memory: bytearray | mmap.mmap
    start: int


class Block(NamedTuple):
    """Whole lines from ``start`` to ``end`` of the buffer's memory; of one that is too long nothing is kept."""

    start: int
    end: int
    is_too_long: bool = False


class BlockReader:
    """The blocks of an opened file. Raises InputError as ``compression``."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        assert BLOCK_BYTES + READ_BYTES <= MAX_LINE_BYTES, "only the first line of a block may be too long"
        self._path = path
        self._stream = _Stream(compression(path, file), file)
        self._tail = b""  # what was read behind the last block
        self._is_skipping = False  # in a line that is too long
        self._is_done = False

    def fill(self, buffer: Buffer) -> Block | None:
        """The next block, in this buffer; None at the end. Every line but a file's last one ends with a newline.

        Raises InputError if the file is cut off or damaged.
        """
        memory, start = buffer
        with memoryview(memory) as view:
            while not self._is_done:
                block = self._fill(memory, view, start)
                if block is not None:
                    return block
        return None

    def _fill(self, memory: bytearray | mmap.mmap, view: memoryview, start: int) -> Block | None:
        n = start + len(self._tail)
        view[start:n] = self._tail
        if self._is_skipping:
            first = memory.find(b"\n", start, n)
            end = memory.rfind(b"\n", start, n) + 1
        else:
            first, end = -1, 0
        return self._read_on(memory, view, start, n, first, end)

    def _read_on(
        self, memory: bytearray | mmap.mmap, view: memoryview, start: int, n: int, first: int, end: int
    ) -> Block | None:
        raise NotImplementedError
