"""Link sources as files: which they are, and their lines as a stream.

A source is a dump (``.zst .xz .bz2 .gz`` or plain, one JSON object a line) or ``urls:FILE`` (one URL a line, compressed
or not). The compression is read from the first bytes; a name that says otherwise is an error, so that a web page
saved as ``dump.zst`` is not taken for a dump full of malformed lines.

Memory: one block of at most 1 MiB (zstd: what 4 KiB decompress to, at most 128 MiB for a bomb), one line of at most
``MAX_LINE_BYTES``, and the decompressor's window (2 GiB for Pushshift's later months, as far as data fill it).
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import hashlib
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from data.errors import InputError

MAX_LINE_BYTES = 16 * 2**20
MAX_WINDOW_BYTES = 2**31  # Pushshift compressed with zstd --long=31

_BLOCK_BYTES = 2**20
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
_BROKEN = (EOFError, OSError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


@dataclass(frozen=True)
class Source:
    """A link source. ``label`` names it in rows and digests: the file's name without its directory."""

    path: str
    is_url_list: bool
    label: str
    sha256: str


class Line(NamedTuple):
    """``body`` is None for a line longer than ``MAX_LINE_BYTES``. ``number`` counts from 1, blank lines included."""

    number: int
    body: bytes | None


def find_sources(specs: Sequence[str]) -> list[Source]:
    """The sources in the order of their labels, whatever the order they are given in.

    Every file is hashed (sha256). Files of the same name in different directories are told apart by their hash. Raises
    InputError for a source that is missing, empty, no file, of a compression that is not read, or given twice.
    """
    if not specs:
        raise InputError("no link source given: name a dump file or urls:FILE with --links")
    found: dict[tuple[str, str], Source] = {}
    for spec in specs:
        is_url_list = spec.startswith("urls:")
        path = _existing(spec, Path(spec.removeprefix("urls:")))
        with path.open("rb") as file:
            _compression(path, file)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        label = f"urls:{path.name}" if is_url_list else path.name
        if (label, digest) in found:
            raise InputError(f"{spec}: the same file is among the link sources twice; name it once")
        found[label, digest] = Source(str(path), is_url_list, label, digest)
    names = Counter(label for label, _ in found)
    sources = [
        source if names[label] == 1 else Source(source.path, source.is_url_list, f"{label}@{digest[:12]}", digest)
        for (label, digest), source in found.items()
    ]
    return sorted(sources, key=lambda source: source.label)


def read_lines(source: Source) -> Iterator[Line]:
    """The lines of a source, without their line ends.

    Raises InputError, with the number of lines read before, if the file is cut off or damaged, or if it is not the file
    that was hashed any more.
    """
    number = 0
    try:
        with Path(source.path).open("rb") as file:
            for body in _split(_blocks(Path(source.path), file)):
                number += 1
                yield Line(number, body)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except _BROKEN as error:
        raise InputError(
            f"{source.path}: damaged or cut off after {number:,} lines ({str(error) or type(error).__name__}); "
            "nothing of it was kept: download it again and run again"
        ) from error
    if digest != source.sha256:
        raise InputError(f"{source.path}: changed while it was read; wait until it is complete and run again")
    if number == 0:
        raise InputError(f"{source.path}: holds no lines; remove it from the link sources or download it again")


def _existing(spec: str, path: Path) -> Path:
    if "://" in spec or spec.startswith("hn:"):
        raise InputError(f"{spec}: link sources are read from disk; download the dump and name the file")
    if not path.is_file():
        what = "is a directory; name the files in it" if path.is_dir() else "no such file; check the path"
        raise InputError(f"link source {spec}: {what}")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"link source {spec}: the file is empty; download it again")
    except OSError as error:
        raise InputError(f"link source {spec}: cannot be read ({error.strerror})") from error
    return path


def _compression(path: Path, file: BinaryIO) -> str:
    """zstd, xz, bzip2, gzip or plain, by the first bytes; the file is left at its start."""
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


def _blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    compression = _compression(path, file)
    if compression == "zstd":
        yield from _zstd_blocks(file)
        return
    with _OPENERS[compression](file) as reader:
        while block := reader.read1(_BLOCK_BYTES):  # read() would lose what stands before the place of damage
            yield block


def _zstd_blocks(file: BinaryIO) -> Iterator[bytes]:
    """All frames of a file. Not with zstandard's ``stream_reader``, which ends at a cut-off frame without an error."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    frame = decompressor.decompressobj()
    while data := file.read(_ZSTD_INPUT_BYTES):
        while data:
            if frame.eof:
                frame = decompressor.decompressobj()
            block = frame.decompress(data)
            if block:
                yield block
            data = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the last zstd frame is not complete")


def _split(blocks: Iterator[bytes]) -> Iterator[bytes | None]:
    """Lines of the blocks; None for one that is too long, of which no more than that is held."""
    tail: list[bytes] = []
    held = 0
    is_first = True
    for block in blocks:
        lines = (block.removeprefix(codecs.BOM_UTF8) if is_first else block).split(b"\n")
        is_first = False
        for piece in lines[:-1]:
            yield _joined(tail, held, piece)
            tail, held = [], 0
        held += len(lines[-1])
        tail = [*tail, lines[-1]] if held <= MAX_LINE_BYTES else []
    if held:
        yield _joined(tail, held, b"")


def _joined(tail: list[bytes], held: int, piece: bytes) -> bytes | None:
    if held + len(piece) > MAX_LINE_BYTES:
        return None
    return b"".join((*tail, piece)) if held else piece
