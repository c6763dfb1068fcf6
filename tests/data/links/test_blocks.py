"""Blocks hold every line of a file once, in bounded memory, and a truncated file is an error."""

import gzip
import itertools
import random
import resource
from pathlib import Path

import orjson
import pytest
import zstandard

from data.errors import InputError
from data.lake.store import Lake
from data.links import blocks
from tests.data.links.dumps import COMPRESSORS, build, dump, ndjson, post


def test_an_endless_line_is_malformed_and_not_held_in_memory(tmp_path: Path) -> None:
    """1 GB in one line, compressed to a few kB: memory holds at most one block plus the limit."""
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(ndjson([post(1)]) + b'{"id": "')
        for _ in range(1_000):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + ndjson([post(2)]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = build(tmp_path / "lake", [path])
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert manifest.counts == {"malformed_line": 1, "merged": 0, "ok": 2}
    report = Lake(tmp_path / "lake").read_json("links", "demo", "source-00000.malformed.json")
    assert report["first"] == [{"line": 2, "reason": "longer than 16,777,216 bytes"}]
    assert grown_kib < 200_000


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_on_line_length_is_exact(extra: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = orjson.dumps(post(1))
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", len(line) - extra)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "READ_BYTES", 7)
    path = Path(dump(tmp_path / "a.ndjson", [line, b"{}", line]))
    assert lines_of(path) == ([None, b"{}\n", None] if extra else [line + b"\n", b"{}\n", line + b"\n"])


def lines_of(path: Path) -> list[bytes | None]:
    """All lines in the blocks, None for one that is too long."""
    found: list[bytes | None] = []
    memory = bytearray(2 * blocks.buffer_bytes())
    with path.open("rb") as file:
        reader = blocks.BlockReader(path, file)
        starts = itertools.cycle((0, blocks.buffer_bytes()))
        while block := reader.fill(blocks.Buffer(memory, next(starts))):
            lines = bytes(memory[block.start : block.end])
            assert len(lines) < blocks.BLOCK_BYTES + blocks.MAX_LINE_BYTES + blocks.READ_BYTES
            found += [None] if block.is_too_long else lines.splitlines(keepends=True)
        assert reader.fill(blocks.Buffer(memory, 0)) is None
    return found


@pytest.mark.parametrize(("block", "size"), [(1, 4), (1, 8), (2, 5), (3, 6), (4, 5), (5, 4)])
def test_blocks_hold_every_line_once(block: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "READ_BYTES", size)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 9)
    lines = [b"one", b"", b"1234567890", b"two", b"123456789", b"x" * 30, b"x" * 30, b"", b"three", b"y" * 40]
    for last in (3, 6, 9, 10):
        for end in (b"", b"\n", b"\n\n"):
            path = tmp_path / "a.ndjson"
            path.write_bytes(b"\n".join(lines[:last]) + end)
            every = path.read_bytes().splitlines(keepends=True)
            assert lines_of(path) == [None if len(line.removesuffix(b"\n")) > 9 else line for line in every]


@pytest.mark.parametrize("text", [b"\xef\xbb\xbf", b"\xef\xbb\xbfa\n", b"\xef\xbb", b"a", b"ab\n", b"abc\n", b"abcd"])
def test_a_byte_order_mark_is_not_part_of_a_line(text: bytes, tmp_path: Path) -> None:
    for suffix in COMPRESSORS:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(COMPRESSORS[suffix](text))
        assert lines_of(path) == text.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)


def test_a_zstd_file_truncated_anywhere_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block stored uncompressed would swallow the bytes after it."""
    for name, size in (("READ_BYTES", 2**11), ("BLOCK_BYTES", 2**11), ("MAX_LINE_BYTES", 2**12)):
        monkeypatch.setattr(blocks, name, size)  # small buffers
    random_ = random.Random(7)
    bodies = [random_.randbytes(300).hex().encode(), bytes(random_.choices(range(32, 127), k=300)), b"a" * 300]
    for checksum in (True, False):
        compressor = zstandard.ZstdCompressor(write_checksum=checksum)
        frames = [compressor.compress(body + b"\n") for body in bodies]
        whole = b"".join(frames)
        ends = set(itertools.accumulate(map(len, frames)))
        path = tmp_path / "a.zst"
        for length in range(4, len(whole)):
            path.write_bytes(whole[:length])
            if length in ends:
                assert len(lines_of(path)) == sorted(ends).index(length) + 1
                continue
            with pytest.raises(InputError, match=r"a\.zst: damaged or cut off after [\d,]+ bytes"):
                lines_of(path)
