"""A file of lines, decompressed into the caller's buffers, a block of whole lines at a time.

The first bytes tell the compression. A file name that contradicts them is an error, so a web page saved as ``dump.zst``
is not read as a dump full of malformed lines.

zstandard's ``readinto`` is the fastest reader, but it ends at a cut-off frame without an error. So we append two small
frames of random bytes to the file: they come out at the end only if every frame before them was whole.

Memory: buffers of ``buffer_bytes()`` each, seldom filled beyond ``BLOCK_BYTES``, and the decompressor's window (up to
2 GiB for Pushshift's later months).
"""

from __future__ import annotations

import bz2
import codecs
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
_INPUT_BYTES = 2**15  # small, since what precedes damage in one piece of input is lost
MAX_LINE_BYTES = 16 * 2**20
MAX_WINDOW_BYTES = 2**31  # Pushshift compressed with zstd --long=31

_MAGIC = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x1f\x8b": "gzip",
}
_OPENERS: dict[str, Callable[[BinaryIO], Any]] = {
    "xz": lambda file: _Streams(file, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    "bzip2": lambda file: _Streams(file, bz2.BZ2Decompressor),
    "gzip": gzip.open,
    "plain": lambda file: file,
}
_SUFFIXES = {".zst": "zstd", ".xz": "xz", ".bz2": "bzip2", ".gz": "gzip"}
_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r")  # in no line of JSON and in no URL
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


def buffer_bytes() -> int:
    """The size of a buffer: the longest line and one read."""
    return MAX_LINE_BYTES + READ_BYTES


class Buffer(NamedTuple):
    """``buffer_bytes()`` of a larger memory, from ``start`` on."""

    memory: bytearray | mmap.mmap
    start: int


class LineBlock(NamedTuple):
    """Whole lines, from ``start`` to ``end`` of the buffer's memory. A line that is too long is an empty block."""

    start: int
    end: int
    is_too_long: bool = False


class BlockReader:
    """Reads an opened file block by block. Raises InputError as ``compression`` does."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        assert BLOCK_BYTES + READ_BYTES <= MAX_LINE_BYTES, "so that only the first line of a block may be too long"
        self._stream = _Stream(path, file)
        self._tail = b""  # bytes that were read, but belong to the next block
        self._is_done = False

    def fill(self, buffer: Buffer) -> LineBlock | None:
        """The next block, in this buffer; None at the end. Every line ends with a newline, except perhaps the last.

        Raises InputError if the file is cut off or damaged.
        """
        if self._is_done:
            return None
        memory, start = buffer
        n = start + len(self._tail)
        with memoryview(memory) as view:
            view[start:n] = self._tail
            end = start + self._tail.rfind(b"\n") + 1  # of the last whole line
            while end == start or n - start < BLOCK_BYTES:
                if end == start and n - start > MAX_LINE_BYTES:
                    return self._skip(memory, view, start)
                n_read = self._stream.read_into(view[n : n + READ_BYTES])
                if not n_read:
                    self._is_done, end = True, n
                    break
                n += n_read
                if end == start:
                    newline = memory.find(b"\n", n - n_read, n)
                    if newline - start > MAX_LINE_BYTES:
                        self._tail = bytes(view[newline + 1 : n])
                        return LineBlock(start, start, is_too_long=True)
                end = max(end, memory.rfind(b"\n", n - n_read, n) + 1)
            self._tail = bytes(view[end:n])
        return LineBlock(start, end) if end > start else None

    def _skip(self, memory: bytearray | mmap.mmap, view: memoryview, start: int) -> LineBlock:
        """Read to the end of a line that is too long."""
        newline = -1
        while newline < 0 and not self._is_done:
            n_read = self._stream.read_into(view[start : start + READ_BYTES])
            self._is_done = n_read == 0
            newline = memory.find(b"\n", start, start + n_read)
            self._tail = bytes(view[newline + 1 : start + n_read]) if newline >= 0 else b""
        return LineBlock(start, start, is_too_long=True)


def compression(path: Path, file: BinaryIO) -> str:
    """zstd, xz, bzip2, gzip or plain, by the first bytes; the file is left at its start.

    Raises InputError if the compression is unknown or the file name contradicts it.
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


def head(path: Path, file: BinaryIO) -> bytes:
    """The first megabyte of the decompressed content, or all of it. Raises InputError as ``compression`` does."""
    file.seek(0)
    stream = _Stream(path, file)
    found = bytearray()
    with memoryview(bytearray(READ_BYTES)) as view:
        while len(found) < READ_BYTES and (n_read := stream.read_into(view)):
            found += view[:n_read]
    return bytes(found)


class _Stream:
    """The decompressed bytes of a file, without a byte order mark."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._n_bytes = 0
        name = compression(path, file)
        self._mark = b""
        if name == "zstd":
            self._mark = os.urandom(32)
            decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
            marked: Any = _Marked(file, self._mark)  # zstandard calls nothing but read()
            self._read_into = decompressor.stream_reader(marked, read_across_frames=True).readinto
        else:
            self._read_into = _OPENERS[name](file).readinto1  # readinto would lose the bytes before the damage
        self._held = self._first()  # read, but not returned yet; at the end, the mark

    def read_into(self, view: memoryview) -> int:
        """The number of bytes read; 0 at the end. ``view`` must be longer than the mark and the byte order mark."""
        n = len(self._held)
        view[:n] = self._held
        while True:
            n_read = self._more(view[n:])
            n += n_read
            given = n - len(self._mark)
            if n_read == 0 and bytes(view[max(given, 0) : n]) != self._mark:
                raise self._damaged("the last zstd frame is not complete")
            if n_read == 0 or given > 0:
                self._held = bytes(view[given:n])
                self._n_bytes += given
                return given

    def _first(self) -> bytes:
        head = bytearray(len(codecs.BOM_UTF8))
        n = 0
        while n < len(head) and (n_read := self._more(memoryview(head)[n:])):
            n += n_read
        return b"" if head == codecs.BOM_UTF8 else bytes(head[:n])

    def _more(self, view: memoryview) -> int:
        try:
            return self._read_into(view) or 0
        except _BROKEN as error:
            raise self._damaged(str(error) or type(error).__name__) from error

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{self._path}: damaged or cut off after {self._n_bytes:,} bytes of text ({why}); "
            "nothing was kept: download it again and run again"
        )


class _Streams:
    """The content of xz or bzip2 streams, one after the other, with any number of zeros after each (padding).

    Python's own readers end silently at anything that does not begin a stream, even if whole streams follow.
    Source: the .xz file format, section 2.2 (tukaani.org/xz/xz-file-format.txt).
    """

    def __init__(self, file: BinaryIO, new: Callable[[], Any]) -> None:
        self._file = file
        self._new = new
        self._stream: Any = None
        self._next = b""  # read, but not given to a stream

    def readinto1(self, view: memoryview) -> int:
        """The number of bytes written to ``view``; 0 at the end. Raises as the decompressor does, and EOFError."""
        while True:
            if self._stream is None or self._stream.eof:
                if not self._skip_padding():
                    return 0
                self._stream = self._new()
            if self._stream.needs_input and not self._next:
                self._next = self._file.read(_INPUT_BYTES)
                if not self._next:
                    raise EOFError("the last stream is not complete")
            found = self._stream.decompress(self._next, len(view))
            self._next = self._stream.unused_data
            if found:
                view[: len(found)] = found
                return len(found)

    def _skip_padding(self) -> bool:
        """Whether anything but zeros is left."""
        while not (rest := self._next.lstrip(b"\0")):
            self._next = self._file.read(_INPUT_BYTES)
            if not self._next:
                return False
        self._next = rest
        return True


class _Marked:
    """A zstd file with two frames behind it that hold the halves of a mark.

    A cut-off frame may swallow the bytes that follow it as its own content, hence two frames. They come in one piece
    with the end of the file. If a piece ended inside a frame's header and the next one began with a whole frame,
    libzstd would forget the header.
    """

    def __init__(self, file: BinaryIO, mark: bytes) -> None:
        half = len(mark) // 2
        compressor = zstandard.ZstdCompressor(write_checksum=True)
        self._file = file
        self._frames = compressor.compress(mark[:half]) + compressor.compress(mark[half:])
        self._next: bytes | None = None

    def read(self, n_bytes: int) -> bytes:
        found = self._file.read(n_bytes) if self._next is None else self._next
        self._next = self._file.read(n_bytes) if found else b""
        if not self._next:
            found += self._frames
            self._frames = b""
        return found
