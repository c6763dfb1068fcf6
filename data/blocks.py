"""A file of lines as a stream of blocks of whole lines.

The compression is read from the first bytes; a name that says otherwise is an error, so that a web page saved as
``dump.zst`` is not taken for a dump full of malformed lines.

Memory: one decompressed piece of at most 1 MiB (zstd: what 4 KiB decompress to, at most 128 MiB for a bomb), a block of
``BLOCK_BYTES`` and one line of at most ``MAX_LINE_BYTES``, and the decompressor's window (2 GiB for Pushshift's later
months, as far as data fill it).
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from data.errors import InputError

BLOCK_BYTES = 2**21
MAX_LINE_BYTES = 16 * 2**20
MAX_WINDOW_BYTES = 2**31  # Pushshift compressed with zstd --long=31

_PIECE_BYTES = 2**20
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)
_ZSTD_INPUT_BYTES = 4096  # RLE blocks make up to 128 KiB of 4 bytes, so this makes at most 128 MiB
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


class Block(NamedTuple):
    """Whole lines, in pieces; ``pieces`` is None in place of one line longer than MAX_LINE_BYTES.

    ``first`` is the number of the first line, from 1; every line but a file's last one ends with a newline.
    """

    first: int
    n_lines: int
    pieces: list[bytes] | None

    @property
    def n_bytes(self) -> int:
        return sum(map(len, self.pieces or ()))


def read_blocks(path: Path, file: BinaryIO) -> Iterator[Block]:
    """The lines of an opened file: blocks of BLOCK_BYTES and a little more, but for the last one.

    Raises InputError as ``compression``, and with the number of lines read before if the file is cut off or damaged.
    """
    pieces = _pieces(compression(path, file), file)
    n_lines = 0

    def counted() -> Iterator[bytes]:
        nonlocal n_lines
        while True:
            try:
                piece = next(pieces, None)
            except _BROKEN as error:
                raise InputError(
                    f"{path}: damaged or cut off after {n_lines:,} lines ({str(error) or type(error).__name__}); "
                    "nothing of it was kept: download it again and run again"
                ) from error
            if piece is None:
                return
            n_lines += piece.count(b"\n")
            yield piece

    return _blocks(counted())


def _blocks(pieces: Iterator[bytes]) -> Iterator[Block]:
    number, size = 1, 0
    whole: list[bytes] = []  # ends with a newline
    tail: list[bytes] = []  # a line that has begun
    held = 0  # bytes of that line, also of what of it was dropped

    def block() -> Iterator[Block]:
        nonlocal number, size, whole
        if whole:
            n_lines = sum(piece.count(b"\n") for piece in whole) + (not whole[-1].endswith(b"\n"))
            yield Block(number, n_lines, whole)
            number, size, whole = number + n_lines, 0, []

    for piece in _small(pieces):
        cut = piece.rfind(b"\n") + 1
        if cut:
            end = piece.find(b"\n")
            if held + end > MAX_LINE_BYTES:
                yield from block()
                yield Block(number, 1, None)
                number += 1
                added = [piece[end + 1 : cut]] if end + 1 < cut else []
            else:
                added = [*tail, piece[:cut]]
            whole += added
            size += sum(map(len, added))
            tail, held = [], 0
            if size >= BLOCK_BYTES:
                yield from block()
        if rest := piece[cut:]:
            held += len(rest)
            tail = [*tail, rest] if held <= MAX_LINE_BYTES else []
    if held > MAX_LINE_BYTES:
        yield from block()
        yield Block(number, 1, None)
        return
    whole += tail
    yield from block()


def compression(path: Path, file: BinaryIO) -> str:
    """zstd, xz, bzip2, gzip or plain, by the first bytes; the file is left at its start.

    Raises InputError where none of them is known or the file's name says another.
    """
    head = file.read(512)
    file.seek(0)
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "plain")
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:  # a skippable frame before the data (RFC 8878, 3.1.2)
        found = "zstd"
    if found == "plain" and _CONTROL.intersection(head):
        raise InputError(f"{path}: unknown compression; .zst, .xz, .bz2, .gz and plain text are read, convert it first")
    expected = _SUFFIXES.get(path.suffix.lower(), found)
    if expected != found:
        raise InputError(f"{path}: named {path.suffix} but its content is {found}; download it again or rename it")
    return found


def _pieces(compressed: str, file: BinaryIO) -> Iterator[bytes]:
    if compressed == "zstd":
        yield from _zstd_pieces(file)
        return
    with _OPENERS[compressed](file) as reader:
        while piece := reader.read1(_PIECE_BYTES):  # read() would lose what stands before the place of damage
            yield piece


def _zstd_pieces(file: BinaryIO) -> Iterator[bytes]:
    """All frames of a file. Not with zstandard's ``stream_reader``, which ends at a cut-off frame without an error."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    while data := file.read(_ZSTD_INPUT_BYTES):
        while data:
            if frame.eof:
                frame = decompressor.decompressobj()
            piece = frame.decompress(data)
            if piece:
                yield piece
            data = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the last zstd frame is not complete")


def _small(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of at most _PIECE_BYTES, so that no line inside one is too long; without a byte order mark."""
    is_first = True
    for piece in pieces:
        if is_first:
            piece, is_first = piece.removeprefix(codecs.BOM_UTF8), False
        if len(piece) <= _PIECE_BYTES:
            yield piece
            continue
        for start in range(0, len(piece), _PIECE_BYTES):
            yield piece[start : start + _PIECE_BYTES]
