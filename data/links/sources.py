"""Link sources: what every adapter does, and the adapter of files.

data/links/plan.py lists what ``--links`` takes. One source is implicit: the links that earlier snapshots deferred
(data/links/deferred.py).

Every adapter yields LinkRecords. It names its input before it reads: ``inputs`` has the sha256 of a file and the window
of time of a live source. Both are recorded when the dataset is begun, so a killed run resumes with the same files and
the same window.

A live source is read in slices. Each slice is a sealed part, made in an earlier round than the source's part, which
reads the slices and not the network. So no request is repeated once its slice is sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import zstandard

from data.config import LinksConfig, PagesConfig
from data.errors import InputError
from data.lake.manifest import Part
from data.lake.store import Dataset
from data.links.blocks import BlockReader, compression, head
from data.links.guess import guess
from data.links.records import LinkRecords, classify_dump
from data.links.workers import classify_blocks
from data.schema import LinkStatus


@dataclass(frozen=True)
class Reading:
    """What an adapter needs to read. ``clock`` returns seconds since 1970."""

    dataset: Dataset
    scratch: Path
    config: LinksConfig
    network: PagesConfig
    clock: Callable[[], float]


class LinkSource(Protocol):
    """An adapter; picklable. ``label`` names it in rows, ``inputs`` is its entry in the inputs of the dataset."""

    @property
    def label(self) -> str: ...

    @property
    def inputs(self) -> tuple[str, str]: ...

    @property
    def mark(self) -> int | None:
        """The watermark to set under the label once the links are published; None: the source has none."""
        ...

    @property
    def n_slices(self) -> int:
        """How many slices have to be sealed before the records can be read."""
        ...

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:
        """Read a slice from the network and seal it as the part of that name."""
        ...

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:
        """The records; a source with slices reads them from the sealed parts named ``slices``."""
        ...


class Unsliced:
    """A source that is read in one go."""

    mark = None
    n_slices = 0

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:  # noqa: ARG002
        raise AssertionError(f"{part}: this source has no slices")


@dataclass(frozen=True)
class FileSource(Unsliced):
    """A dump or a URL list on disk. Its label is the file's name without its directory."""

    path: str
    is_url_list: bool
    label: str
    sha256: str

    @property
    def inputs(self) -> tuple[str, str]:
        return f"source:{self.label}", self.sha256

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:  # noqa: ARG002
        """Raises InputError if the file is damaged or has changed since it was hashed."""
        path = Path(self.path)
        with path.open("rb") as file:
            yield from lines_of(path, file, reading, label=self.label, is_url_list=self.is_url_list)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                raise InputError(f"{path}: changed while it was read; wait until it is complete and run again")


def file_source(spec: str) -> FileSource:
    """The source of ``PATH`` or ``urls:PATH``, hashed.

    Raises InputError if it is missing, empty, a directory, or of an unknown compression.
    """
    is_url_list = spec.startswith("urls:")
    path = _existing(spec, Path(spec.removeprefix("urls:")))
    with path.open("rb") as file:
        compression(path, file)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSource(str(path), is_url_list, f"urls:{path.name}" if is_url_list else path.name, digest)


def lines_of(
    path: Path, file: BinaryIO, reading: Reading, *, label: str, is_url_list: bool = False
) -> Iterator[LinkRecords]:
    """The records of an opened file of lines.

    Raises InputError if it is damaged or holds no lines, and, at its end, if no line was a submission. The last element
    of a JSON array may be a whole line, and so may a few others.
    """
    n_read = n_submissions = n_malformed = 0
    for records in classify_blocks(
        BlockReader(path, file),
        is_url_list=is_url_list,
        label=label,
        scratch=reading.scratch,
        workers=reading.config.workers,
    ):
        n_read += records.n_read
        n_submissions += records.n_submissions
        n_malformed += records.counts[LinkStatus.MALFORMED_LINE]
        yield records
    if n_read == 0:
        raise InputError(f"{path}: holds no lines; remove it from the link sources or download it again")
    if n_submissions <= n_malformed:
        begin = head(path, file)
        if n_submissions == 0 or begin.lstrip().startswith(b"["):
            wanted = "a URL" if is_url_list else "a submission"
            found = f"only {n_submissions:,}" if n_submissions else "none"
            raise InputError(f"{path}: {found} of its {n_read:,} lines is {wanted}; {guess(begin, is_url_list)}")


def sealed_records(reading: Reading, label: str, files: list[str]) -> Iterator[LinkRecords]:
    """The records of a live source, from the files of its sealed slices: small files of compressed JSON lines."""
    n_before = 0
    for name in files:
        with reading.dataset.lake.open(*reading.dataset.names(name)) as file:
            lines = zstandard.ZstdDecompressor().decompress(file.read())
        if lines:
            records = classify_dump(lines, label)
            yield records.after(n_before)
            n_before += records.n_read


def _existing(spec: str, path: Path) -> Path:
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
