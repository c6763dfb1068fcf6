"""Bounded streaming decompression of HTTP bodies.

The output comes in pieces of about 64 KiB, even if one chunk of input decompresses to far more, so the caller can
count and stop. The decoded body does not depend on how the input was cut into chunks. ``ACCEPT_ENCODING`` names only
the encodings that can be bounded in this way.

A name in Content-Encoding that is no coding (``utf-8``, ``none``, ``aws-chunked``) is ignored. A coding beside such a
name, and a transfer coding, are applied only if the body begins like it. Servers name those by mistake more often than
not.

Sources: RFC 9110 section 8.4.1, RFC 9112 section 7; IANA HTTP Content Coding Registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from data.http.streams import GZIP_MAGIC, Brotli, DecodeError, Zlib

ACCEPT_ENCODING = "gzip, deflate, br"
_HEAD_BYTES = 16  # enough to tell text from compressed data

# Between two layers there are compressed data, which hardly compress further. More is an attack on our time.
_LAYER_BYTES, _LAYER_RATIO = 1 << 20, 2

_MAGICS = (b"\x1f\x8b", b"\x1f\x9d", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh91AY&SY")
_ZLIB_HEADS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")

# Codings that exist, by IANA's registry or by use, and that no request of ours accepts. The MIME encodings change the
# body too. A "chunked" that is left in Transfer-Encoding was not the last coding, so the parser did not remove it.
_NOT_ASKED_FOR = frozenset(
    "aes128gcm compress dcb dcz exi pack200-gzip x-compress zstd x-zstd bzip2 x-bzip2 lz4 lzma xz x-xz sdch snappy "
    "peerdist xpress base64 quoted-printable chunked".split()
)
_KNOWN = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "br": "br"}


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
    return Brotli(scratch) if coding == "br" else Zlib(is_gzip=coding == "gzip")


def _begins_as(coding: str, head: bytes) -> bool:
    """Whether a body may be in the coding. Raw deflate and brotli have no magic number, but look like no text."""
    return head.startswith(GZIP_MAGIC[:2]) if coding == "gzip" else not _is_text(head)


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
