"""``webtext eval --fetch``: download the official benchmark files that are missing, verify them, publish them.

A download goes to ``.fetch/`` in the directory of --eval-data, where data/http/download.py resumes it after a kill. Its
digest is compared with the registry's; a member of an archive is unpacked beside it and compared too. Only then is the
file renamed to its own name, so a file under its own name is whole. If one mirror fails, or gives another file, the
next one is tried. An archive that several sets need is downloaded once, and removed when all of them have been tried.

A file that is already there is never overwritten. If it is not the official one, that is reported.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from data.config import PagesConfig
from data.errors import InputError
from data.evalsets import files as evalsets
from data.evalsets import official
from data.evalsets.registry import BenchmarkSet, Download, OfficialFile
from data.http.download import download
from data.lake.disk import move_file

MAX_BYTES = 4_000_000_000  # of one download, and of one file of an archive; the largest has 1.8 GB
FOLDER = ".fetch"  # two levels above what is being downloaded, so that files.find does not see it
_BLOCK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)

OnBytes = Callable[[str, int, int], None]
"""Gets what is being downloaded, the bytes that are there, and those of the whole download."""

Outcome = Literal["there", "fetched", "by_hand", "failed"]


@dataclass(frozen=True)
class FetchedSet:
    """What became of a set. ``detail`` says what to do if it is not there now."""

    evalset: str
    outcome: Outcome
    detail: str


def fetch(
    folder: Path, sets: Sequence[BenchmarkSet], config: PagesConfig, on_bytes: OnBytes = lambda _name, _have, _all: None
) -> list[FetchedSet]:
    """Bring the sets into ``folder``; what happened to each, in their order. A set that fails stops no other one.

    Raises InputError if the folder cannot be made.
    """
    try:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--eval-data {folder}: {error.strerror}; name a directory that can be written") from error
    finished: set[Path] = set()  # downloads that may be removed at the end
    found = [_fetch_set(folder, one, config, on_bytes, finished) for one in sets]
    for download_folder in finished:
        shutil.rmtree(download_folder, ignore_errors=True)  # a later mirror may have removed it
    if not any((folder / FOLDER).iterdir()):
        (folder / FOLDER).rmdir()
    return found


def _fetch_set(
    folder: Path, one: BenchmarkSet, config: PagesConfig, on_bytes: OnBytes, finished: set[Path]
) -> FetchedSet:
    try:
        present = _present(folder, one)
        if present is not None:
            return present
        missing = [file for file in one.files if not (folder / file.path).exists()]
        if not all(file.downloads for file in missing):
            return FetchedSet(one.name, "by_hand", official.how_to_get(one.name))
        for file in missing:
            _fetch_file(folder, file, config, on_bytes, finished)
    except InputError as error:
        return FetchedSet(one.name, "failed", str(error))
    known = one.files[0]
    checked = "verified" if known.sha256 or known.sha1 else "its hash is not known, so only the archive was verified"
    if not any((known.sha256, known.sha1, *(one.sha256 for one in known.downloads))):
        checked = "its hash is not known, so it was not verified"
    return FetchedSet(one.name, "fetched", f"{', '.join(file.path for file in one.files)}: {checked}")


def _present(folder: Path, one: BenchmarkSet) -> FetchedSet | None:
    """The set if the directory has it, under the name of --fetch or another one that is recognised."""
    patterns = evalsets.PATTERNS.get(one.name, ())
    found = evalsets.find(folder, {one.name: patterns}).get(one.name)
    others_are_there = all((folder / file.path).exists() for file in one.files[1:])
    if found is None:
        path = folder / one.files[0].path
        if not path.exists() or not others_are_there:
            return None
        found = evalsets.EvalFile(one.name, path, official.digest(path, "sha256"))
    elif found.path == folder / one.files[0].path and not others_are_there:
        return None
    if official.verdict(found) == official.OTHER:
        detail = f"{found.path} is not the official file; remove it, and --fetch downloads the official one"
        return FetchedSet(one.name, "failed", detail)
    return FetchedSet(one.name, "there", str(found.path.relative_to(folder)))


def _fetch_file(folder: Path, file: OfficialFile, config: PagesConfig, on_bytes: OnBytes, finished: set[Path]) -> None:
    """Download, verify and publish one file. Raises InputError with what each mirror said."""
    said = []
    for mirror in file.downloads:
        place = folder / FOLDER / hashlib.sha256(mirror.url.encode()).hexdigest()[:32]
        try:
            _download(mirror, place, config, on_bytes)
            _publish(mirror, place, file, folder / file.path)
        except InputError as error:
            said.append(str(error))
            continue
        finished.add(place)
        return
    raise InputError("; ".join(said))


def _download(mirror: Download, place: Path, config: PagesConfig, on_bytes: OnBytes) -> None:
    place.mkdir(parents=True, exist_ok=True)
    name = mirror.url.rpartition("/")[2]
    download(mirror.url, place / "file", config, MAX_BYTES, lambda have, every: on_bytes(name, have, every))
    _require(place, mirror.url, official.digest(place / "file", "sha256"), mirror.sha256)


def _publish(mirror: Download, place: Path, file: OfficialFile, path: Path) -> None:
    """Verify the file and give it its name."""
    whole = place / "file"
    if mirror.member is not None:
        whole = place / "member"
        try:
            _unpack(mirror, place / "file", whole)
        except _DAMAGED as error:
            shutil.rmtree(place)
            raise InputError(f"{mirror.url}: not an archive that can be read ({error}); run again") from error
    _require(place, mirror.url, official.digest(whole, "sha256"), file.sha256)
    if file.sha256 is None:
        _require(place, mirror.url, official.digest(whole, "sha1"), file.sha1)
    move_file(whole, path)


def _require(place: Path, url: str, digest: str, known: str | None) -> None:
    """Remove the download and raise InputError if its digest is known and another one."""
    if known is not None and digest != known:
        shutil.rmtree(place)
        raise InputError(f"{url}: the official file has the digest {known}, this one {digest}; it was removed")


def _unpack(mirror: Download, archive: Path, to: Path) -> None:
    """Write the mirror's member to ``to``. Raises InputError if there is none, and what the archive modules raise."""
    member = str(mirror.member)
    if mirror.url.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            if member not in opened.namelist():
                raise InputError(f"{mirror.url}: no {member} in it")
            with opened.open(member) as source:
                _copy(source, to, mirror)
        return
    with tarfile.open(archive) as tar:
        for entry in tar:  # one pass: a compressed archive has no index
            if entry.name.removeprefix("./") == member.removeprefix("./") and entry.isfile():
                extracted = tar.extractfile(entry)
                assert extracted is not None
                with extracted:
                    _copy(extracted, to, mirror)
                return
    raise InputError(f"{mirror.url}: no {member} in it")


def _copy(source: IO[bytes], to: Path, mirror: Download) -> None:
    n_bytes = 0
    with to.open("wb") as file:
        while block := source.read(_BLOCK):
            n_bytes += len(block)
            if n_bytes > MAX_BYTES:
                raise InputError(f"{mirror.url}: {mirror.member} has more than {MAX_BYTES:,} bytes")
            file.write(block)
