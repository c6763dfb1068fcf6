"""Whether a file is the official one of its set, and has as much in it.

``check_file`` decides whether a file may be scored, and ``check_count`` whether a reader found as much in it as the
official file has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from data.errors import InputError
from data.evalsets.files import EvalFile
from data.evalsets.registry import SETS

OFFICIAL = "official"
NOT_KNOWN = "hash not known"
OTHER = "not the official file"


def verdict(file: EvalFile) -> str:
    """``OFFICIAL``, ``NOT_KNOWN`` or ``OTHER``, by the digest of the file."""
    known = SETS[file.evalset].files[0]
    if known.sha256 is not None:
        return OFFICIAL if file.sha256 == known.sha256 else OTHER
    if known.sha1 is not None:
        return OFFICIAL if digest(file.path, "sha1") == known.sha1 else OTHER
    return NOT_KNOWN


def check_file(file: EvalFile, *, any_file: bool) -> str:
    """The file's ``verdict``. Raises InputError for another file than the official one, unless ``any_file``."""
    found = verdict(file)
    if found == OTHER and not any_file:
        one = SETS[file.evalset]
        known = one.files[0]
        expected = f"sha256 {known.sha256}" if known.sha256 else f"SHA-1 {known.sha1}"
        raise InputError(
            f"{file.path} is not the official file of {one.title}, which has {expected}; this one has sha256 "
            f"{file.sha256}; get it again with --fetch, or score it nevertheless with --any-file"
        )
    return found


def check_count(evalset: str, n: int, *, any_file: bool) -> None:
    """Compare what a reader counted with the official count. Raises InputError naming both, unless ``any_file``."""
    one = SETS[evalset]
    if one.n is not None and n != one.n and not any_file:
        raise InputError(
            f"{one.title}: the file has {n:,} {one.unit}, the official one {one.n:,} ({one.split}), so it was cut off "
            "or is another split; get it again with --fetch, or score it nevertheless with --any-file"
        )


def digest(path: Path, algorithm: str) -> str:
    """The file's digest in hexadecimal."""
    new: Callable[[], hashlib._Hash] = {"sha256": hashlib.sha256, "sha1": lambda: hashlib.sha1(usedforsecurity=False)}[
        algorithm
    ]
    with path.open("rb") as file:
        return hashlib.file_digest(file, new).hexdigest()


def how_to_get(evalset: str) -> str:
    """What a person does to get the set, for a message."""
    one = SETS[evalset]
    names = " and ".join(file.path for file in one.files)
    if all(file.downloads for file in one.files):
        return f"`webtext eval --fetch` downloads {names}"
    return f"put {names} there: {one.note}"
