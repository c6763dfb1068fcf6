"""Bounded streaming decompression of HTTP bodies.

The output comes in pieces of about 64 KiB, even if one chunk of input decompresses to far more, so the caller can
count and stop. The decoded body does not depend on how the input was cut into chunks. ``ACCEPT_ENCODING`` names only
the encodings that can be bounded in this way.

As browsers do, the decoders ignore up to MAX_TAIL_BYTES after the end of the compressed data. Some servers append
zeros, a line break or an HTML comment.

A stream may lack its trailer, and an empty last block before it, if the message arrived whole: some servers flush their
compressor and do not end it. A wrong checksum is an error, and so is data that ends within a block.

A name in Content-Encoding that is no coding (``utf-8``, ``none``, ``aws-chunked``) is ignored. A coding beside such a
name, and a transfer coding, are applied only if the body begins like it. Servers name those by mistake more often than
not.

Memory per stream: a window of 32 kB for gzip and deflate; at most 16 MB for brotli, and its input up to
KEPT_BYTES (the rest of the input is in a file).
Sources: RFC 9110 section 8.4.1, RFC 9112 section 7, RFC 1950-1952 (deflate, gzip), RFC 7932 (brotli); IANA HTTP Content
Coding Registry.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import brotli
from isal import isal_zlib

ACCEPT_ENCODING = "gzip, deflate, br"
MAX_TAIL_BYTES = 1 << 16
KEPT_BYTES = 1 << 18
_PIECE_BYTES = 1 << 16
_HEAD_BYTES = 16  # enough to tell text from compressed data
_STEP_BYTES = 1 << 10  # the first search for the end of a brotli stream; the second one goes byte by byte

# Between two layers there are compressed data, which hardly compress further. More is an attack on our time.
_LAYER_BYTES, _LAYER_RATIO = 1 << 20, 2

_GZIP_MAGIC = b"\x1f\x8b\x08"  # RFC 1952, section 2.3; the method is always 8
_EMPTY_BLOCK, _EMPTY_BROTLI_BLOCK = b"\x03\0", b"\x03"  # a last one (RFC 1951, section 3.2.3; RFC 7932, section 9.2)
_MAGICS = (b"\x1f\x8b", b"\x1f\x9d", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh91AY&SY")
_ZLIB_HEADS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")

# Codings that exist, by IANA's registry or by use, and that no request of ours accepts. The MIME encodings change the
# body too. A "chunked" that is left in Transfer-Encoding was not the last coding, so the parser did not remove it.
_NOT_ASKED_FOR = frozenset(
    "aes128gcm compress dcb dcz exi pack200-gzip x-compress zstd x-zstd bzip2 x-bzip2 lz4 lzma xz x-xz sdch snappy "
    "peerdist xpress base64 quoted-printable chunked".split()
)
_KNOWN = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "br": "br"}

CUT = "the compressed data is cut off"


class DecodeError(ValueError):
    """The encoding is not in ACCEPT_ENCODING, or its data is broken or ends too early."""


class Decoder(Protocol):
    """Decodes one body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes. Raises DecodeError."""
        ...

    def finish(self, *, is_whole: bool = False) -> Iterator[bytes]:
        """Decode the rest, after the last bytes. Raises DecodeError if the data is incomplete.

        ``is_whole``: the message has an end of its own (a length, a last chunk) and arrived up to it.
        """
        ...

    def close(self) -> None:
        """Free what the decoder holds."""
        ...


def decoder_of(content_encoding: str, transfer_encoding: str = "", scratch: Path | None = None) -> Decoder:
    """The decoder for the values of two headers, which may be empty.

    ``transfer_encoding`` is without its last ``chunked``. ``scratch`` is the folder for the input of a long brotli
    stream; None means the system's. Raises DecodeError for a coding that was not asked for, or more than one in a
    header.
    """
    content, has_others = _coding(content_encoding, "content")
    transfer, _ = _coding(transfer_encoding, "transfer")
    inner = _decoder(content, scratch, is_sure=not (has_others or transfer))
    if not transfer:
        return inner
    outer = _decoder(transfer, scratch, is_sure=False)
    return _Layers(outer, inner) if content else outer


def begins_as_compressed(data: bytes) -> bool:
    """Whether a body that should be text begins as gzip, zlib, compress, zstd, bzip2 or xz data."""
    return data.startswith(_MAGICS) or (data.startswith(_ZLIB_HEADS) and not _is_text(data[:_HEAD_BYTES]))


def _coding(header: str, kind: str) -> tuple[str, bool]:
    """The coding in a header, or an empty string, and whether the header holds anything that is no coding."""
    names = [member.partition(";")[0].strip().lower() for member in header.split(",")] if header.strip() else []
    codings = [name for name in names if name in _KNOWN or name in _NOT_ASKED_FOR]
    if len(codings) > 1 or not _NOT_ASKED_FOR.isdisjoint(codings):
        raise DecodeError(f"a {kind} encoding that was not asked for")
    has_others = any(name not in codings and name != "identity" for name in names)
    return (_KNOWN[codings[0]] if codings else ""), has_others


def _decoder(coding: str, scratch: Path | None, *, is_sure: bool) -> Decoder:
    if not coding:
        return _Identity()
    if not is_sure:
        return _Sniffed(lambda head: _decoder(coding if _begins_as(coding, head) else "", scratch, is_sure=True))
    return _Brotli(scratch) if coding == "br" else _Zlib(is_gzip=coding == "gzip")


def _begins_as(coding: str, head: bytes) -> bool:
    """Whether a body may be in the coding. Raw deflate and brotli have no magic number, but look like no text."""
    return head.startswith(_GZIP_MAGIC[:2]) if coding == "gzip" else not _is_text(head)


def _is_text(head: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\t\n\r\f" for byte in head.removeprefix(b"\xef\xbb\xbf"))


class _Identity:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self, *, is_whole: bool = False) -> Iterator[bytes]:  # noqa: ARG002
        return iter(())

    def close(self) -> None:
        pass


class _Sniffed:
    """Chooses the decoder by the first bytes of the body."""

    def __init__(self, choose: Callable[[bytes], Decoder]) -> None:
        self.choose = choose
        self.head = b""
        self.decoder: Decoder | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self.decoder is not None:
            yield from self.decoder.feed(data)
            return
        self.head += data
        if len(self.head) >= _HEAD_BYTES:
            yield from self._begin().feed(self.head)

    def finish(self, *, is_whole: bool = False) -> Iterator[bytes]:
        if self.decoder is None and self.head:
            yield from self._begin().feed(self.head)
        if self.decoder is not None:
            yield from self.decoder.finish(is_whole=is_whole)

    def close(self) -> None:
        if self.decoder is not None:
            self.decoder.close()

    def _begin(self) -> Decoder:
        self.decoder = self.choose(self.head[:_HEAD_BYTES])
        return self.decoder


class _Layers:
    """A transfer coding around a content coding."""

    def __init__(self, outer: Decoder, inner: Decoder) -> None:
        self.outer = outer
        self.inner = inner
        self.left_bytes = _LAYER_BYTES  # that may still pass between the two

    def feed(self, data: bytes) -> Iterator[bytes]:
        self.left_bytes += _LAYER_RATIO * len(data)
        yield from self._pass_on(self.outer.feed(data))

    def finish(self, *, is_whole: bool = False) -> Iterator[bytes]:
        yield from self._pass_on(self.outer.finish(is_whole=is_whole))
        yield from self.inner.finish(is_whole=is_whole)

    def close(self) -> None:
        self.outer.close()
        self.inner.close()

    def _pass_on(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.left_bytes -= len(piece)
            if self.left_bytes < 0:
                raise DecodeError("compressed data that compresses further")
            yield from self.inner.feed(piece)


class _Tail:
    """Counts the bytes after the end of the compressed data."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def skip(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        if self.n_bytes > MAX_TAIL_BYTES:
            raise DecodeError(f"more than {MAX_TAIL_BYTES} bytes after the compressed data")


class _Zlib:
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
            is_member = self.is_gzip and data.startswith(_GZIP_MAGIC)
            if not is_member and self.is_gzip and _GZIP_MAGIC.startswith(data):
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


class _Brotli:
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
