"""Bounded streaming decompression of HTTP bodies.

The output comes in pieces of about 64 KiB, even if one chunk of input decompresses to far more, so the caller can
count and stop. The decoded body does not depend on how the input was cut into chunks. ``ACCEPT_ENCODING`` names only
the encodings that can be bounded in this way.

Memory per stream: a window of 32 kB for gzip and deflate, at most 16 MB for brotli.
Sources: RFC 9110 section 8.4.1, RFC 1950-1952 (deflate, gzip), RFC 7932 (brotli).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import brotli

ACCEPT_ENCODING = "gzip, deflate, br"
_PIECE_BYTES = 1 << 16


class DecodeError(ValueError):
    """The encoding is not in ACCEPT_ENCODING, or its data is broken or ends too early."""


class Decoder(Protocol):
    """Decodes one body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes. Raises DecodeError."""
        ...

    def finish(self) -> Iterator[bytes]:
        """Decode the rest, after the last bytes. Raises DecodeError if the data is incomplete."""
        ...


def decoder_of(content_encoding: str) -> Decoder:
    """The decoder for a Content-Encoding header, which may be empty. Raises DecodeError for an unknown encoding."""
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return _Identity()
    if coding in ("gzip", "x-gzip"):
        return _Zlib(is_gzip=True)
    if coding == "deflate":
        return _Zlib(is_gzip=False)
    if coding == "br":
        return _Brotli()
    raise DecodeError("a content encoding that was not asked for")


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> Iterator[bytes]:
        return iter(())


class _Zlib:
    """gzip with any number of members, or deflate with or without the zlib header, which some servers leave out."""

    def __init__(self, *, is_gzip: bool) -> None:
        self.is_gzip = is_gzip
        self.head = b""  # the first two bytes tell which kind of deflate it is
        self.stream: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.stream is None:
            data = self.head = self.head + data
            if len(data) < 2:
                return
            self.stream = self._start(data)
        while data:
            piece = self._decompress(data)
            if piece:
                yield piece
            data = self.stream.unconsumed_tail
            if self.stream.eof and self.stream.unused_data:
                if not self.is_gzip:
                    raise DecodeError("broken deflate data")
                data, self.stream = self.stream.unused_data, self._start(b"")

    def finish(self) -> Iterator[bytes]:
        if self.stream is None:
            if self.head:
                raise DecodeError("the compressed data is cut off")
            return
        while piece := self._decompress(b""):
            yield piece
        if not self.stream.eof:
            raise DecodeError("the compressed data is cut off")

    def _decompress(self, data: bytes) -> bytes:
        try:
            piece: bytes = self.stream.decompress(data, _PIECE_BYTES)
        except zlib.error as error:
            raise DecodeError(f"broken {'gzip' if self.is_gzip else 'deflate'} data") from error
        return piece

    def _start(self, head: bytes) -> Any:
        if self.is_gzip:
            return zlib.decompressobj(31)
        has_header = head[0] & 0x0F == 8 and int.from_bytes(head[:2]) % 31 == 0  # RFC 1950, section 2.2
        return zlib.decompressobj(15 if has_header else -15)


class _Brotli:
    def __init__(self) -> None:
        self.stream = brotli.Decompressor()
        self.is_empty = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.is_empty = False
        if self.stream.is_finished():
            return  # bytes after the end are ignored, in the same chunk or a later one
        # brotli may take all input and still hold output back, so go on until it has none.
        while (piece := self._process(data)) or not self.stream.can_accept_more_data():
            yield piece
            data = b""
            if self.stream.is_finished():
                return

    def finish(self) -> Iterator[bytes]:
        if not self.is_empty and not self.stream.is_finished():
            raise DecodeError("the compressed data is cut off")
        return iter(())

    def _process(self, data: bytes) -> bytes:
        try:
            piece: bytes = self.stream.process(data, output_buffer_limit=_PIECE_BYTES)
        except brotli.error as error:
            raise DecodeError("broken brotli data") from error
        return piece
