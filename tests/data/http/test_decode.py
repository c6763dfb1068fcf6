"""Bounded streaming decompression."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.http.decode import ACCEPT_ENCODING, DecodeError, decoder_of


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
    decoder = decoder_of(coding)
    return [piece for chunk in chunks for piece in decoder.feed(chunk)] + list(decoder.finish())


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


def test_data_after_the_end_of_deflate_is_an_error() -> None:
    with pytest.raises(DecodeError, match="broken deflate"):
        _decode("deflate", [zlib.compress(b"x") + b"more"])
    with pytest.raises(DecodeError, match="broken deflate"):
        _decode("deflate", [zlib.compress(b"x"), b"more"])


def test_only_encodings_with_bounded_memory_are_decoded() -> None:
    for coding in ACCEPT_ENCODING.split(","):
        assert decoder_of(coding)
    for coding in ("zstd", "compress", "gzip, gzip", "gzip,br", "none"):
        with pytest.raises(DecodeError, match="not asked for"):
            decoder_of(coding)
