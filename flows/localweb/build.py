"""Builds the local web once per installation and keeps it: articles, plan and dump.

It is kept in ``<home>/localweb/<digest>``. The digest covers the versions of Python and of the packages it reads, and
the files of this program, so another version gets another folder. A complete folder is never built again. The bytes
are the same in any directory and process.

Cost: about 10 s on two cores the first time, 0.4 s later; 5 MB of disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import orjson
import zstandard

from data.process import die_with_parent
from flows.localweb import docs as localdocs
from flows.localweb.docs import Article
from flows.localweb.dump import DumpCounts, write_dump
from flows.localweb.plan import plan
from flows.localweb.site import Expected, Route, Site, SiteHost

DUMP_NAME = "RS_2026-10.zst"
_INDEX_NAME = "site.json.zst"


@dataclass(frozen=True)
class Built:
    """A site, and the dump of submissions that links to it."""

    site: Site
    dump: Path
    dump_counts: DumpCounts


def build(home: Path) -> Built:
    """The local web of this installation, built if it is absent or damaged. Several processes may call this at once.

    Raises InputError if a package is missing.
    """
    versions = localdocs.versions()
    folder = home / "localweb" / _digest(versions)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        built = _load(folder)
        if built is None:
            _make(folder)
            built = _load(folder)
    assert built is not None
    return built


@contextlib.contextmanager
def building(home: Path) -> Iterator[None]:
    """Build the local web in a child process while the block runs; the end of the block waits for it.

    An error of the child is not reported: ``build`` meets it again.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.localweb.build", str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    except BaseException:
        child.terminate()
        raise
    finally:
        child.wait()


def _digest(versions: dict[str, str]) -> str:
    digest = hashlib.sha256(orjson.dumps(versions, option=orjson.OPT_SORT_KEYS))
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.glob("templates/*")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _make(folder: Path) -> None:
    """Write the folder under another name, then rename it over a damaged one. The caller holds its lock."""
    scratch = folder.with_suffix(".building")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed build
    scratch.mkdir()
    site = plan(localdocs.choose_articles())
    counts = write_dump(site, scratch / DUMP_NAME)
    index = {
        "articles": site.articles,
        "hosts": site.hosts,
        "routes": site.routes,
        "expected": site.expected,
        "dump_counts": counts,
        "dump_sha256": _sha256(scratch / DUMP_NAME),
    }
    packed = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(orjson.dumps(index))
    (scratch / _INDEX_NAME).write_bytes(packed)
    for path in scratch.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _load(folder: Path) -> Built | None:
    """The site in a folder, or None if it is absent or damaged."""
    try:
        index = orjson.loads(zstandard.ZstdDecompressor().decompress((folder / _INDEX_NAME).read_bytes()))
        if _sha256(folder / DUMP_NAME) != index["dump_sha256"]:
            return None
    except (FileNotFoundError, zstandard.ZstdError, orjson.JSONDecodeError):
        return None
    site = Site(
        [Article(**article) for article in index["articles"]],
        {name: SiteHost(**host) for name, host in index["hosts"].items()},
        {url: Route(**route) for url, route in index["routes"].items()},
        {url: Expected(e["page"], tuple(e["select"])) for url, e in index["expected"].items()},
    )
    return Built(site, folder / DUMP_NAME, DumpCounts(**index["dump_counts"]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    die_with_parent(signal.SIGTERM)
    build(Path(sys.argv[1]))
