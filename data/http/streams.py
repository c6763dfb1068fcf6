"""Decompression of one stream: gzip, deflate or brotli, in pieces of bounded size.

As browsers do, the decoders ignore up to MAX_TAIL_BYTES after the end of the compressed data. Some servers append
zeros, a line break or an HTML comment.

A stream may lack its trailer, and an empty last block before it, if the message arrived whole: some servers flush their
compressor and do not end it. A wrong checksum is an error, and so is data that ends within a block.

Memory per stream: a window of 32 kB for gzip and deflate; at most 16 MB for brotli, and its input up to
KEPT_BYTES (the rest of the input is in a file).
Sources: RFC 1950-1952 (deflate, gzip), RFC 7932 (brotli).
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import brotli
from isal import isal_zlib

MAX_TAIL_BYTES = 1 << 16
KEPT_BYTES = 1 << 18
GZIP_MAGIC = b"\x1f\x8b\x08"  # RFC 1952, section 2.3; the method is always 8
CUT = "the compressed data is cut off"
_PIECE_BYTES = 1 << 16
_STEP_BYTES = 1 << 10  # the first search for the end of a brotli stream; the second one goes byte by byte
_EMPTY_BLOCK, _EMPTY_BROTLI_BLOCK = b"\x03\0", b"\x03"  # a last one (RFC 1951, section 3.2.3; RFC 7932, section 9.2)


class DecodeError(ValueError):
    """The encoding is not in ACCEPT_ENCODING, or its data is broken or ends too early."""


class _Tail:
    """Counts the bytes after the end of the compressed data."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def skip(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        if self.n_bytes > MAX_TAIL_BYTES:
            raise DecodeError(f"more than {MAX_TAIL_BYTES} bytes after the compressed data")


class Zlib:
    """gzip with any number of members, or deflate with or without the zlib header, which some servers leave out."""

    def __init__(self, *, is_gzip: bool) -> None:
        self.is_gzip = is_gzip
        self.head = b""  # the first bytes of a stream, until they tell its kind
        self.stream: Any = None  # the current one
        self.has_ended = False  # at least one stream ended
        self.is_tail = False  # what follows is not compressed
        self.tail = _Tail()
        self._sum: Callable[[bytes, int], int] | None = None  # the checksum in the trailer; None: raw deflate
        self.check = 0
        self.n_bytes = 0  # decoded in this stream

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.head:
            data = self.head + data
            self.head = b""
        while data:
            if self.stream is None and not self.is_tail and not self._begin(data):
                self.head = data
                return
            if self.is_tail:
                self.tail.skip(len(data))
                return
            piece = self._decompress(data)
            if piece:
                yield piece
            data = self.stream.unconsumed_tail
            if self.stream.eof:
                data = self.stream.unused_data
                self.stream = None
                self.has_ended = True

    def finish(self, *, is_whole: bool = False) -> Iterator[bytes]:
        if self.stream is None:
            if self.head and not self.has_ended:
                raise DecodeError(CUT)
            return
        while piece := self._decompress(b""):
            yield piece
        if not self.stream.eof and not (is_whole and self._lacks_only_its_end()):
            raise DecodeError(CUT)

    def close(self) -> None:
        self.stream = None

    def _begin(self, data: bytes) -> bool:
        """Begin a stream, or the tail. False if there are too few bytes to tell which."""
        if self.has_ended:
            is_member = self.is_gzip and data.startswith(GZIP_MAGIC)
            if not is_member and self.is_gzip and GZIP_MAGIC.startswith(data):
                return False
            self.is_tail = not is_member
            if self.is_tail:
                return True
        elif len(data) < 2:
            return False
        self.n_bytes = 0
        if self.is_gzip:
            self.stream, self._sum, self.check = zlib.decompressobj(31), isal_zlib.crc32, 0
        elif data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0:  # RFC 1950, section 2.2
            self.stream, self._sum, self.check = zlib.decompressobj(15), isal_zlib.adler32, 1
        else:
            self.stream = zlib.decompressobj(-15)
        return True

    def _decompress(self, data: bytes) -> bytes:
        try:
            piece: bytes = self.stream.decompress(data, _PIECE_BYTES)
        except zlib.error as error:
            raise DecodeError(f"broken {'gzip' if self.is_gzip else 'deflate'} data") from error
        if self._sum is not None:
            self.check = self._sum(piece, self.check)
        self.n_bytes += len(piece)
        return piece

    def _lacks_only_its_end(self) -> bool:
        """Whether the trailer, its end, or an empty last block and the trailer would complete the stream."""
        if self.is_gzip:
            trailer = self.check.to_bytes(4, "little") + (self.n_bytes & 0xFFFF_FFFF).to_bytes(4, "little")
        else:
            trailer = self.check.to_bytes(4) if self._sum is not None else b""
        ends = [trailer[n_there:] for n_there in range(len(trailer))]
        if self.n_bytes:
            ends.append(_EMPTY_BLOCK + trailer)
        for end in ends:
            probe = self.stream.copy()
            with contextlib.suppress(zlib.error):
                if not probe.decompress(end) and probe.eof:
                    return True
        return False


class Brotli:
    """Brotli with bytes after its end.

    brotli.Decompressor fails if a chunk goes on after the end of the stream, and does not tell where the end is. So the
    input is kept. If a chunk fails, ``_last_chunk`` decodes the kept input again.
    """

    def __init__(self, scratch: Path | None) -> None:
        self.stream = brotli.Decompressor()
        self.kept = tempfile.SpooledTemporaryFile(KEPT_BYTES, dir=None if scratch is None else str(scratch))  # noqa: SIM115
        self.has_ended = False
        self.n_given = 0  # decoded bytes
        self.tail = _Tail()

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.has_ended:
            self.tail.skip(len(data))
            return
        try:
            for piece in _unbrotli(self.stream, data):
                self.n_given += len(piece)
                yield piece
        except brotli.error:
            yield from self._last_chunk(data)
        else:
            self.kept.write(data)
            self.has_ended = self.stream.is_finished()

    def finish(self, *, is_whole: bool = False) -> Iterator[bytes]:
        if self.kept.tell() and not self.has_ended and not (is_whole and self._lacks_only_its_end()):
            raise DecodeError(CUT)
        return iter(())

    def close(self) -> None:
        self.kept.close()

    def _lacks_only_its_end(self) -> bool:
        with contextlib.suppress(brotli.error):
            return bool(self.n_given and not self.stream.process(_EMPTY_BROTLI_BLOCK) and self.stream.is_finished())
        return False

    def _last_chunk(self, data: bytes) -> Iterator[bytes]:
        """What is still to give of the chunk in which the stream ends. Raises DecodeError if it does not end there."""
        n_left = self.kept.tell() + len(data)
        good = self._before_failure(data)
        end = [data[at : at + 1] for at in range(good, min(good + _STEP_BYTES, len(data)))]
        n_skipped = self.n_given
        stream = brotli.Decompressor()
        try:
            for chunk in itertools.chain(self._kept_chunks(), [data[:good]], end):
                for piece in _unbrotli(stream, chunk):
                    if len(piece) > n_skipped:
                        yield piece[n_skipped:]
                    n_skipped = max(0, n_skipped - len(piece))
                n_left -= len(chunk)
                if stream.is_finished():
                    break
        except brotli.error as error:
            raise DecodeError("broken brotli data") from error
        if not stream.is_finished():
            raise DecodeError("broken brotli data")
        self.has_ended = True
        self.tail.skip(n_left)

    def _before_failure(self, data: bytes) -> int:
        """How many bytes of a chunk can be decoded, rounded down to whole steps."""
        stream = brotli.Decompressor()
        good = 0
        with contextlib.suppress(brotli.error):
            for chunk in self._kept_chunks():
                _drop(_unbrotli(stream, chunk))
            for at in range(0, len(data), _STEP_BYTES):
                good = at
                _drop(_unbrotli(stream, data[at : at + _STEP_BYTES]))
        return good

    def _kept_chunks(self) -> Iterator[bytes]:
        self.kept.seek(0)
        return iter(lambda: self.kept.read(_PIECE_BYTES), b"")


def _unbrotli(stream: brotli.Decompressor, data: bytes) -> Iterator[bytes]:
    """Decode a chunk. brotli may take all input and still hold output back, so go on until it has none."""
    while (piece := stream.process(data, output_buffer_limit=_PIECE_BYTES)) or not stream.can_accept_more_data():
        yield piece
        data = b""
        if stream.is_finished():
            return


def _drop(pieces: Iterator[bytes]) -> None:
    for _ in pieces:
        pass
