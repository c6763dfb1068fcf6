"""The lake holds all datasets, on disk or in an object store. Only this module reads and writes them.

    <stage>/<snapshot>/_begun.json        settings and inputs of the run that began the dataset
                       part-00000.*       files of a part
                       _parts/part-00000.json   the record of the part, written after its files: the part is sealed
                       _manifest.json     written last: the dataset is published

A file is written to a scratch folder, made durable, and then given its name, so readers see either the whole file or
none. A writer that is killed loses at most the part that it was writing.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InputError, StoreError, refuse_when_stopping
from data.lake import disk, objects
from data.lake.locks import Lease, check_held, file_lock
from data.lake.manifest import (
    File,
    Manifest,
    Part,
    add_counts,
    canonical_json,
    dataset_digest,
    rows_digest,
    settings_diff,
)
from data.lake.names import BEGUN, MANIFEST, check_name, is_name, repair

T = TypeVar("T")

_CREATED = (BEGUN, MANIFEST)  # in an object store these are never overwritten, only removed


def code_version() -> str:
    try:
        return version("webtext")
    except PackageNotFoundError:
        return "unknown"


class Lake:
    """A directory or an object-store prefix such as ``s3://bucket/lake``."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root).rstrip("/") or "/"
        try:
            self.fs, self.base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise InputError(f"--lake {self.root}: {error}") from error
        self.is_local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        if self.is_local:
            try:
                Path(self.base).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"--lake {self.root}: {error.strerror}") from error

    def dataset(self, stage: str, snapshot: str) -> Dataset:
        """``stage`` is one of schema.DATASETS, ``checkpoints`` or ``scores``. Creates nothing."""
        return Dataset(self, stage, check_name("snapshot", snapshot))

    def snapshots(self, stage: str) -> list[str]:
        """Names of the published datasets of a stage, sorted."""
        return [name for name in self.datasets(stage) if self.exists(stage, name, MANIFEST)]

    def datasets(self, stage: str) -> list[str]:
        """Names of a stage's datasets, published or begun, sorted. Other files and folders are ignored."""
        return [name for name in self.names(stage) if is_name(name)]

    def path(self, *names: str) -> str:
        return "/".join((self.base, *names))

    def url(self, *names: str) -> str:
        """The path with its protocol; on disk, the path."""
        return self.path(*names) if self.is_local else str(self.fs.unstrip_protocol(self.path(*names)))

    def _ask(self, call: Callable[[], T], *names: str) -> T:
        """What ``call`` does at a path. Raises StoreError if an object store fails (objects.py)."""
        return call() if self.is_local else objects.ask(call, self.url(*names))

    def exists(self, *names: str) -> bool:
        return self._ask(lambda: bool(self.fs.exists(self.path(*names))), *names)

    def size(self, *names: str) -> int:
        """The file's size in bytes. Raises FileNotFoundError if it is missing."""
        return self._ask(lambda: int(self.fs.size(self.path(*names))), *names)

    def names(self, *folder: str) -> list[str]:
        """Names directly below a folder, sorted; empty if there is no such folder."""
        self.fs.invalidate_cache()
        if not self.exists(*folder):
            self._require_bucket()
            return []
        paths = self._ask(lambda: list(self.fs.ls(self.path(*folder), detail=False)), *folder)
        return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in paths)

    def _require_bucket(self) -> None:
        """Raise StoreError if the bucket is missing; S3 itself calls an object in it missing, too."""
        if objects.is_s3(self.fs):
            try:
                self._ask(lambda: self.fs.info(self.base.partition("/")[0]))
            except FileNotFoundError as error:
                raise objects.no_bucket(self.url()) from error

    def open(self, *names: str) -> BufferedReader:
        """Raises InputError if the file is missing."""
        try:
            if self.is_local:
                return self.fs.open(self.path(*names), "rb")  # type: ignore[no-any-return]
            return objects.open_object(self.fs, self.path(*names), self.url(*names))
        except FileNotFoundError as error:
            raise self._missing(*names) from error

    def read(self, *names: str, start: int | None = None, stop: int | None = None) -> bytes:
        """The content of a file, or these bytes of it, in one request. Raises InputError if it is missing."""
        try:
            return self._ask(lambda: bytes(self.fs.cat_file(self.path(*names), start, stop)), *names)
        except FileNotFoundError as error:
            raise self._missing(*names) from error

    def _missing(self, *names: str) -> InputError:
        return InputError(f"{self.path(*names)}: missing from the lake; {repair(names)}")

    def read_json(self, *names: str) -> Any:
        text = self.read(*names)
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InputError(f"{self.path(*names)}: not JSON ({error}), damaged; {repair(names)}") from error

    def remove(self, *names: str) -> None:
        """Remove a file or a folder and everything in it, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            self._change(lambda: self.fs.rm(self.path(*names), recursive=True), *names)

    def _change(self, call: Callable[[], T], *names: str) -> T:
        """``call`` writes or removes something. Raises InputError if another process took a lock that we hold."""

        def checked() -> T:
            check_held(self.fs, self.path("locks"))
            return call()

        return call() if self.is_local else self._ask(checked, *names)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local directory for files that are not published yet. It is removed at the end.

        If the lake is on disk, it lies in the lake, so publishing is a rename within one file system.
        """
        folder = disk.new_scratch(Path(self.base) / "tmp" if self.is_local else None)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the scratch directories that killed processes of this host left behind."""
        if self.is_local:
            disk.sweep_scratch(Path(self.base) / "tmp")

    def publish(self, local: Path, *names: str) -> None:
        """Make a local file durable and move it to its name in the lake, whole or not at all.

        Raises InputError if this lake held a lock that another process has taken over meanwhile.
        """
        target = self.path(*names)
        if self.is_local:
            disk.move_file(local, Path(target))
            return
        condition = {"mode": "create"} if names[-1] in _CREATED and objects.is_s3(self.fs) else {}
        try:
            self._change(lambda: self.fs.put_file(str(local), target, **condition), *names)
        except StoreError as error:
            # A put whose answer was lost is put again, and then meets itself.
            if not error.is_conflict or self.read(*names) != local.read_bytes():
                raise
        local.unlink()

    def fetch(self, local: Path, *names: str) -> None:
        """Copy a file of the lake to this machine. Raises InputError if it is missing."""
        try:
            self._ask(lambda: self.fs.get_file(self.path(*names), str(local)), *names)
        except FileNotFoundError as error:
            raise self._missing(*names) from error

    def publish_directory(self, local: Path, *names: str) -> None:
        """Publish a local directory. On disk it appears whole; in an object store its files appear one by one.

        Files go up in the order of their names, but those that begin with ``_`` (markers) come last.
        """
        files = sorted((p for p in local.rglob("*") if p.is_file()), key=lambda p: (p.name.startswith("_"), str(p)))
        if self.is_local:
            disk.move_folder(local, Path(self.path(*names)), files)
            return
        for file in files:
            self.publish(file, *names, *file.relative_to(local).parts)

    def publish_json(self, value: Any, *names: str) -> None:
        with self.scratch() as folder:
            path = folder / names[-1]
            path.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
            self.publish(path, *names)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """One writer at a time. Raises InputError if another process holds the lock, or took it over (locks.py)."""
        if self.is_local:
            with file_lock(Path(self.base) / "locks", name):
                yield
            return
        with Lease(self.fs, self.path("locks"), name):
            yield


@dataclass(frozen=True)
class Dataset:
    """One stage of one snapshot in the lake."""

    lake: Lake
    stage: str
    snapshot: str

    @property
    def label(self) -> str:
        return f"{self.stage}/{self.snapshot}"

    def names(self, *names: str) -> tuple[str, ...]:
        return (self.stage, self.snapshot, *names)

    def manifest(self) -> Manifest | None:
        """The manifest; None if the dataset is not published."""
        if not self.lake.exists(*self.names(MANIFEST)):
            return None
        where = self.lake.path(*self.names(MANIFEST))
        return Manifest.from_json(self.lake.read_json(*self.names(MANIFEST)), where)

    def require(self) -> Manifest:
        """The manifest; raises InputError if the dataset is not published."""
        manifest = self.manifest()
        if manifest is None:
            have = ", ".join(self.lake.snapshots(self.stage)) or "none"
            raise InputError(f"{self.label}: no such dataset in {self.lake.root} (published: {have})")
        return manifest

    def begin(self, settings: dict[str, Any], inputs: dict[str, str]) -> Manifest | None:
        """Start or continue the dataset. Returns its manifest if it is published already, else None.

        Raises InputError, with the difference, if it was begun with other content settings or other inputs: a dataset
        never mixes two configurations.
        """
        settings = orjson.loads(canonical_json(settings))
        inputs = dict(sorted(inputs.items()))
        if self.lake.exists(*self.names(BEGUN)):
            begun = self.lake.read_json(*self.names(BEGUN))
            for what, old, new in (("settings", begun["settings"], settings), ("inputs", begun["inputs"], inputs)):
                if old != new:
                    raise InputError(
                        f"{self.label} in {self.lake.root} was made with other {what} "
                        f"({settings_diff(old, new)}); choose another --snapshot, or remove {self.label} "
                        "and everything made from it to build it again"
                    )
            return self.manifest()
        body = {"settings": settings, "inputs": inputs, "begun_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.lake.publish_json(body, *self.names(BEGUN))
        return None

    def begun(self) -> dict[str, Any] | None:
        """The record of ``begin`` (settings, inputs, begun_at); None if the dataset was not begun."""
        if not self.lake.exists(*self.names(BEGUN)):
            return None
        value: dict[str, Any] = self.lake.read_json(*self.names(BEGUN))
        return value

    def sealed(self, is_wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Part]:
        """The sealed parts whose files exist in their full size, by name.

        Records of unwanted parts are not read, because another process may be removing them.
        """
        parts = {}
        for name in self.lake.names(*self.names("_parts")):
            if not is_wanted(name.removesuffix(".json")):
                continue
            part = self._record(name)
            if all(self._size(file.path) == file.bytes for file in part.files):
                parts[part.name] = part
        return parts

    def _record(self, name: str) -> Part:
        names = self.names("_parts", name)
        try:
            return Part.from_json(self.lake.read_json(*names))
        except (TypeError, KeyError, AssertionError) as error:
            raise InputError(f"{self.lake.path(*names)}: damaged record ({error}); {repair(names)}") from error

    def seal(
        self,
        name: str,
        files: Mapping[str, Path],
        table: pa.Table | list[pa.Table],
        *,
        counts: dict[str, int],
        rows: Mapping[str, int] | None = None,
        extra: dict[str, int] | None = None,
        published: Sequence[File] = (),
    ) -> Part:
        """Publish the local ``files`` (by their names in the dataset) as one part, and its record last.

        ``table`` holds the rows of the part, for the digest. ``rows`` is the number of rows by file. ``published``
        lists files of the part that are in the lake already. Raises KilledError if this process was asked to stop.
        """
        tables = table if isinstance(table, list) else [table]
        digests = [rows_digest(t) for t in tables]
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        entries = [*published]
        for relative, local in files.items():
            entry = File(relative, (rows or {}).get(relative, 0), local.stat().st_size, _sha256_of(local))
            self.lake.publish(local, *self.names(*relative.split("/")))
            entries.append(entry)
        counts = dict(sorted((str(key), value) for key, value in counts.items()))
        part = Part(name, sum(counts.values()), counts, digest, tuple(entries), extra or {})
        refuse_when_stopping()
        self.lake.publish_json(part.to_json(), *self.names("_parts", f"{name}.json"))
        return part

    def finish(self, part_names: list[str], operational: dict[str, Any], seconds: float) -> Manifest:
        """Publish the manifest of exactly these sealed parts."""
        begun = self.begun()
        assert begun is not None, f"{self.label}: finished before it was begun"
        sealed = self.sealed()
        missing = [name for name in part_names if name not in sealed]
        assert not missing, f"{self.label}: parts {missing} are not sealed"
        parts = tuple(sealed[name] for name in part_names)
        manifest = Manifest(
            stage=self.stage,
            snapshot=self.snapshot,
            settings=begun["settings"],
            operational=operational,
            inputs=begun["inputs"],
            parts=parts,
            rows_in=sum(part.rows_in for part in parts),
            counts=add_counts([part.counts for part in parts]),
            extra=add_counts([part.extra for part in parts]),
            digest=dataset_digest(self.stage, begun["settings"], begun["inputs"], parts),
            code_version=code_version(),
            seconds=round(seconds, 2),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        refuse_when_stopping()
        self.lake.publish_json(manifest.to_json(), *self.names(MANIFEST))
        return manifest

    def discard(self, kind: str) -> None:
        """Remove the parts named ``<kind>-...``, whose files are all in the folder ``kind``."""
        self.lake.remove(*self.names(kind))
        for name in self.lake.names(*self.names("_parts")):
            if name.startswith(f"{kind}-"):
                self.lake.remove(*self.names("_parts", name))

    def verify(self, parts: list[Part] | None = None) -> None:
        """Hash every file of the parts (by default the manifest's). Raises InputError naming the first that differs."""
        for part in self.require().parts if parts is None else parts:
            for file in part.files:
                with self._open(file.path) as opened:
                    self._compare(file, hashlib.file_digest(opened, "sha256").hexdigest())

    def read_verified(self, file: File) -> bytes:
        """The content of a file; raises InputError if its sha256 differs from its record."""
        with self._open(file.path) as opened:
            content = opened.read()
        self._compare(file, hashlib.sha256(content).hexdigest())
        return content

    def _compare(self, file: File, sha256: str) -> None:
        if sha256 != file.sha256:
            where = self.lake.path(*self.names(file.path))
            raise InputError(
                f"{where}: sha256 is {sha256[:16]}.., its record says {file.sha256[:16]}..: the file was damaged after "
                f"it was published; {repair(self.names(*file.path.split('/')))}"
            )

    def read(self, relative: str, columns: list[str] | None = None) -> pa.Table:
        """The table in a Parquet file of the dataset, without comparing its hash."""
        with self.parquet(relative) as file:
            return file.read(columns=columns, use_threads=False)

    @contextlib.contextmanager
    def parquet(self, relative: str) -> Iterator[pq.ParquetFile]:
        """An open Parquet file. Raises InputError if it is missing, or if it is damaged where the block reads it."""
        with self._open(relative) as file:
            try:
                # No read-ahead: if Arrow's threads still hold the file when a short command ends, the process aborts.
                yield pq.ParquetFile(file, pre_buffer=False)
            except StoreError:
                raise
            except (pa.ArrowInvalid, OSError) as error:
                names = self.names(*relative.split("/"))
                raise InputError(
                    f"{self.lake.path(*names)}: not readable as Parquet ({error}); {repair(names)}"
                ) from error

    def read_bytes(self, relative: str, start: int, stop: int) -> bytes:
        """Some bytes of a file of the dataset, without comparing its hash."""
        return self.lake.read(*self.names(*relative.split("/")), start=start, stop=stop)

    def _open(self, relative: str) -> BufferedReader:
        return self.lake.open(*self.names(*relative.split("/")))

    def _size(self, relative: str) -> int:
        try:
            return self.lake.size(*self.names(*relative.split("/")))
        except FileNotFoundError:
            return -1


def write_parquet(table: pa.Table, path: Path, rows_per_group: int = 10_000) -> None:
    """Write Zstandard Parquet, with the same settings for every table of the lake."""
    pq.write_table(table, path, compression="zstd", row_group_size=rows_per_group)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
