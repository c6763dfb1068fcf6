"""Bounded streaming decompression."""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data.http.decode import ACCEPT_ENCODING, Decoder, begins_as_compressed, decoder_of
from data.http.streams import KEPT_BYTES, MAX_TAIL_BYTES, DecodeError

PROSE = b"<p>" + b"".join(b"Sentence number %d of a long page.\n" % (n * 7_919 % 10_007) for n in range(600))


def _raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


ENCODERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("", bytes),
    ("gzip", gzip.compress),
    ("x-gzip", lambda data: gzip.compress(data[:3]) + gzip.compress(data[3:])),
    ("deflate", zlib.compress),
    ("deflate", _raw_deflate),
    (" BR ", brotli.compress),
]


def _decode(coding: str, chunks: list[bytes]) -> list[bytes]:
    return _run(decoder_of(coding), chunks)


def _run(decoder: Decoder, chunks: list[bytes], *, is_whole: bool = False) -> list[bytes]:
    try:
        return [piece for chunk in chunks for piece in decoder.feed(chunk)] + list(decoder.finish(is_whole=is_whole))
    finally:
        decoder.close()


def _cut_up(wire: bytes, seed: int) -> list[list[bytes]]:
    """The same bytes in one chunk, in chunks of one byte, and in random chunks."""
    rng = random.Random(seed)
    cuts = sorted({0, len(wire), *(rng.randrange(len(wire)) for _ in range(5))})
    pieces = [wire[a:b] for a, b in itertools.pairwise(cuts)]
    return [[wire], pieces, [wire[n : n + 1] for n in range(len(wire))]]


@pytest.mark.parametrize(("coding", "encode"), ENCODERS)
@settings(max_examples=30, deadline=None)
@given(
    body=st.one_of(st.binary(max_size=5_000), st.integers(0, 400_000).map(lambda n: b"ab" * n)),
    seed=st.integers(0, 1000),
)
def test_any_chunks_decode_to_the_same_body(
    coding: str, encode: Callable[[bytes], bytes], body: bytes, seed: int
) -> None:
    wire, rng = encode(body), random.Random(seed)
    cuts = sorted(rng.choices(range(len(wire) + 1), k=5))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert b"".join(_decode(coding, [chunk for chunk in chunks if chunk])) == body


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
def test_a_bomb_is_decoded_in_small_pieces(coding: str, encode: Callable[[bytes], bytes]) -> None:
    pieces = _decode(coding, [encode(bytes(10_000_000))])
    assert sum(map(len, pieces)) == 10_000_000
    assert max(map(len, pieces)) <= 1 << 18


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
def test_a_truncated_body_is_an_error(coding: str, encode: Callable[[bytes], bytes]) -> None:
    wire = encode(b"some words " * 50)
    for end in (1, len(wire) // 2, len(wire) - 1):
        with pytest.raises(DecodeError):
            _decode(coding, [wire[:end]])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_broken_body_is_an_error(coding: str) -> None:
    with pytest.raises(DecodeError, match="broken"):
        _decode(coding, [b"\xff\xff this is not compressed"])
    assert _decode(coding, []) == []  # an empty body stays empty


TAILS = [
    b"\0",
    b"\r\n",
    bytes(1_000),
    b"\n<!-- made in 0.2 s -->",
    b"\x1f",
    b"\x1f\x8b",
    b"\x1f\x8b\x07 no member",
    b"\xff" * 99,
]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
@pytest.mark.parametrize("body", [b"", b"<p>words", PROSE], ids=["empty", "short", "long"])
def test_bytes_after_the_end_are_ignored_in_any_chunks(
    coding: str, encode: Callable[[bytes], bytes], body: bytes, tail: bytes
) -> None:
    whole = encode(body)
    cases = [*_cut_up(whole + tail, 1), [whole, tail], [whole[:-1], whole[-1:] + tail], [whole + tail[:1], tail[1:]]]
    for chunks in cases:
        assert b"".join(_decode(coding, [chunk for chunk in chunks if chunk])) == body


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
def test_bytes_after_the_end_have_a_limit_in_any_chunks(coding: str, encode: Callable[[bytes], bytes]) -> None:
    whole = encode(b"<p>words")
    for extra in (0, 1):
        wire = whole + b"\r" * (MAX_TAIL_BYTES + extra)
        for chunks in ([wire], [whole, wire[len(whole) :]], [wire[n : n + 1_000] for n in range(0, len(wire), 1_000)]):
            if extra:
                with pytest.raises(DecodeError, match="65536 bytes after the compressed data"):
                    _decode(coding, chunks)
            else:
                assert b"".join(_decode(coding, chunks)) == b"<p>words"


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
@settings(max_examples=150, deadline=None)
@given(
    at=st.floats(0, 1),
    put=st.binary(max_size=12),
    cut=st.integers(0, 12),
    tail=st.binary(max_size=30),
    seed=st.integers(),
)
def test_damaged_data_have_one_outcome_in_any_chunks(
    coding: str, encode: Callable[[bytes], bytes], at: float, put: bytes, cut: int, tail: bytes, seed: int
) -> None:
    wire = encode(PROSE[:3_000])
    position = int(at * len(wire))
    damaged = wire[:position] + put + wire[position + cut :] + tail
    outcomes = set()
    for chunks in _cut_up(damaged, seed):
        try:
            outcomes.add(b"".join(_run(decoder_of(coding), chunks, is_whole=True)))
        except DecodeError as error:
            outcomes.add(str(error).encode())
    assert len(outcomes) == 1


def test_a_long_brotli_stream_keeps_its_input_in_a_file(tmp_path: Path) -> None:
    """It goes over KEPT_BYTES, and bytes follow its end in the same chunk, far into the chunk or near to its start."""
    body = random.Random(3).randbytes(KEPT_BYTES + 100_000) + bytes(300_000)
    wire = brotli.compress(body, quality=1) + b"\r\n"
    for n_first in (1, KEPT_BYTES + 1, len(wire) - 3, len(wire) - 2_000):
        decoder = decoder_of("br", scratch=tmp_path)
        assert b"".join(_run(decoder, [wire[:n_first], wire[n_first:]])) == body


def test_a_brotli_stream_that_breaks_after_much_output_is_an_error() -> None:
    whole = brotli.compress(PROSE)
    for broken in (whole[: len(whole) // 2] + b"\xff" * 500, b"\r\n" + whole):
        for chunks in _cut_up(broken, 2):
            with pytest.raises(DecodeError):
                _decode("br", chunks)


def test_a_member_of_gzip_after_another_is_decoded_and_must_be_whole() -> None:
    first, second = gzip.compress(b"<p>one"), gzip.compress(b" two")
    for chunks in _cut_up(first + second + b"\0\0", 5):
        assert b"".join(_decode("gzip", chunks)) == b"<p>one two"
    for chunks in _cut_up(first + second[:-8] + b"12345678", 5):
        with pytest.raises(DecodeError, match="broken gzip data"):
            _decode("gzip", chunks)
    for chunks in _cut_up(first + second[:-9], 5):
        with pytest.raises(DecodeError, match="cut off"):
            _run(decoder_of("gzip"), chunks, is_whole=True)


@pytest.mark.parametrize("body", [b"", b"<p>words", PROSE], ids=["empty", "short", "long"])
@pytest.mark.parametrize(
    ("coding", "encode", "trailer"), [("gzip", gzip.compress, 8), ("deflate", zlib.compress, 4)], ids=["gzip", "zlib"]
)
def test_a_missing_trailer_is_accepted_only_for_a_whole_message(
    coding: str, encode: Callable[[bytes], bytes], trailer: int, body: bytes
) -> None:
    wire = encode(body)
    for n_missing in range(1, trailer + 1):
        for chunks in _cut_up(wire[:-n_missing], n_missing):
            assert b"".join(_run(decoder_of(coding), chunks, is_whole=True)) == body
            with pytest.raises(DecodeError, match="cut off"):
                _run(decoder_of(coding), chunks, is_whole=False)


def _flushed(coding: str, body: bytes) -> bytes:
    """A stream that was flushed but not ended."""
    if coding == "br":
        compressor = brotli.Compressor()
        return bytes(compressor.process(body) + compressor.flush())
    deflate = zlib.compressobj(wbits={"gzip": 31, "zlib": 15, "raw": -15}[coding])
    return deflate.compress(body) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize("body", [b"<p>words", PROSE], ids=["short", "long"])
@pytest.mark.parametrize("coding", ["gzip", "zlib", "raw", "br"])
def test_a_stream_that_ends_with_a_flush_is_accepted_only_for_a_whole_message(coding: str, body: bytes) -> None:
    wire = _flushed(coding, body)
    name = "deflate" if coding in ("zlib", "raw") else coding
    for chunks in _cut_up(wire, 3):
        assert b"".join(_run(decoder_of(name), chunks, is_whole=True)) == body
        with pytest.raises(DecodeError, match="cut off"):
            _run(decoder_of(name), chunks, is_whole=False)
    for n_cut in range(2, min(len(wire) - 10, 40)):
        with pytest.raises(DecodeError, match="cut off"):
            _run(decoder_of(name), [wire[:-n_cut]], is_whole=True)


@pytest.mark.parametrize(("coding", "trailer"), [("gzip", 8), ("deflate", 4)])
def test_a_wrong_checksum_is_an_error_even_if_part_of_it_is_missing(coding: str, trailer: int) -> None:
    whole = (gzip.compress if coding == "gzip" else zlib.compress)(PROSE)
    for n_left in range(1, trailer + 1):
        wire = bytearray(whole[: len(whole) - trailer + n_left])
        wire[-1] ^= 0x10
        with pytest.raises(DecodeError):
            _run(decoder_of(coding), [bytes(wire)], is_whole=True)


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
def test_data_that_end_before_the_trailer_are_cut_off_in_a_whole_message_too(
    coding: str, encode: Callable[[bytes], bytes]
) -> None:
    wire = encode(PROSE)
    for end in (1, 2, 10, 12, len(wire) // 2, len(wire) - 13):
        with pytest.raises(DecodeError):
            _run(decoder_of(coding), [wire[:end]], is_whole=True)


def test_only_encodings_with_bounded_memory_are_decoded() -> None:
    for coding in ACCEPT_ENCODING.split(","):
        assert decoder_of(coding)
    for coding in ("zstd", "compress", "gzip, gzip", "gzip,br", "utf-8, zstd", "SDCH", "base64", "aws-chunked,dcb"):
        with pytest.raises(DecodeError, match="a content encoding that was not asked for"):
            decoder_of(coding)
    for coding in ("zstd", "compress", "gzip, gzip", "chunked"):
        with pytest.raises(DecodeError, match="a transfer encoding that was not asked for"):
            decoder_of("", coding)


@pytest.mark.parametrize(
    "coding", ["utf-8", "none", "7bit", "text/html", "aws-chunked", ",", "x-magic", "utf-8, binary"]
)
def test_a_content_encoding_that_is_no_coding_is_ignored(coding: str) -> None:
    for body in (b"", b"a", b"<p>words", "<p>w\u00f6rter".encode(), "<p>words".encode("utf-16"), bytes(range(256))):
        for chunks in _cut_up(body, 7) if body else [[]]:
            assert b"".join(_decode(coding, chunks)) == body


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
@pytest.mark.parametrize("form", ["{},", ", {}", "utf-8, {}", "aws-chunked,{}", "{};q=1, none"])
def test_a_coding_beside_a_name_that_is_none_applies_if_the_body_begins_like_it(
    coding: str, encode: Callable[[bytes], bytes], form: str
) -> None:
    header = form.format(coding)
    for body in (b"a", b"<p>words", b"\xef\xbb\xbfUser-agent: *\nDisallow: /", PROSE):
        for wire in (encode(body), body):
            for chunks in _cut_up(wire, 7) if wire else [[]]:
                assert b"".join(_decode(header, [chunk for chunk in chunks if chunk])) == body
    if coding != "deflate":  # both kinds of deflate begin like data of the other, or of none
        with pytest.raises(DecodeError, match="cut off"):
            _decode(header, [encode(PROSE)[:-20]])


@pytest.mark.parametrize(("coding", "encode"), ENCODERS[1:])
@pytest.mark.parametrize(("inner", "encode_inner"), ENCODERS)
def test_a_transfer_coding_is_removed_before_the_content_coding(
    coding: str, encode: Callable[[bytes], bytes], inner: str, encode_inner: Callable[[bytes], bytes]
) -> None:
    """Servers that name one layer twice, or a layer that is not there, are understood if its beginning tells."""
    only_inner = [encode_inner(PROSE)] if "gzip" in coding else []
    for wire in (encode(encode_inner(PROSE)), encode(PROSE), *only_inner, PROSE):
        for chunks in _cut_up(wire + (b"\r\n" if wire != PROSE else b""), 9)[:2]:
            assert b"".join(_run(decoder_of(inner, coding), chunks)) == PROSE


@pytest.mark.timeout(20)
def test_layers_that_expand_without_end_are_refused() -> None:
    """Two layers could make a thousand times a thousand: 10 kB would keep the inner decoder busy for minutes."""
    wire = gzip.compress(gzip.compress(b"") * 2_000_000, 9)
    assert len(wire) < 200_000
    with pytest.raises(DecodeError, match="compresses further"):
        _run(decoder_of("gzip", "gzip"), [wire])


def test_compressed_data_are_told_from_text() -> None:
    for data in (gzip.compress(PROSE), zlib.compress(PROSE), zlib.compress(PROSE, 0), bz2.compress(PROSE),
                 lzma.compress(PROSE), zstandard.compress(PROSE)):  # fmt: skip
        assert begins_as_compressed(data)
    for text in (b"", b"<p>", b"x^2 is a square of a number", b"BZh", b"\xfd7z", PROSE, bytes(20), b"User-agent: *"):
        assert not begins_as_compressed(text)
