"""The records of a dataset: its files, counts, settings, and one digest.

A **part** is a few files and one record (``_parts/<name>.json``), which is written after the files and seals them. A
**manifest** (``_manifest.json``) sums up the records and is written when all parts are sealed. Each file has a sha256
for integrity. The digest of the rows does not depend on compression, row groups or volatile columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import InputError
from data.schema import VOLATILE

FORMAT = 1
"""Increase it when a field changes its meaning. A lake of another format is refused, and the message names both."""

SPLITS = ("train", "val")
"""The two halves of a tokens dataset, each a folder."""


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, the same bytes for the same value everywhere."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def json_digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def rows_digest(table: pa.Table) -> str:
    """sha256 over the rows in order, without volatile columns. Chunks and compression make no difference."""
    hasher = hashlib.sha256()
    hasher.update(len(table).to_bytes(8, "little"))
    for name in table.column_names:
        if name in VOLATILE:
            continue
        column = table.column(name)
        hasher.update(f"{name}:{_type_name(column.type)}\n".encode())
        _hash_array(hasher, column.combine_chunks() if column.num_chunks != 1 else column.chunk(0))
    return hasher.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """The type without the name of a list's inner field, which Parquet changes."""
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _hash_array(hasher: Any, array: pa.Array) -> None:
    hasher.update(np.asarray(array.is_valid()).tobytes())
    kind = array.type
    if pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), -1)
        hasher.update(np.asarray(lengths, dtype=np.int64).tobytes())
        _hash_array(hasher, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        values = array.cast(pa.binary()).fill_null(b"")
        hasher.update(np.asarray(pc.binary_length(values), dtype=np.int64).tobytes())
        for value in values:  # one by one, because the array's buffers may hold more than its slice
            hasher.update(value.as_buffer())
    elif pa.types.is_timestamp(kind):
        hasher.update(np.asarray(array.cast(pa.int64()).fill_null(0)).tobytes())
    elif pa.types.is_boolean(kind):
        hasher.update(np.asarray(array.fill_null(False)).tobytes())
    else:
        hasher.update(np.asarray(array.fill_null(0)).tobytes())


@dataclass(frozen=True)
class File:
    """A file of a dataset. The path is relative to the dataset."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A sealed part. ``counts`` has one number per status, which add up to ``rows_in``; ``extra`` has other sums."""

    name: str
    rows_in: int
    counts: dict[str, int]
    digest: str
    files: tuple[File, ...]
    extra: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.rows_in == sum(self.counts.values()), f"part {self.name}: {self.rows_in} rows in, {self.counts}"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "files": tuple(File(**f) for f in value["files"])})


@dataclass(frozen=True)
class Manifest:
    """A published dataset. The same web and the same settings give the same ``digest`` on any machine."""

    stage: str
    snapshot: str
    settings: dict[str, Any]
    operational: dict[str, Any]
    inputs: dict[str, str]
    parts: tuple[Part, ...]
    rows_in: int
    counts: dict[str, int]
    extra: dict[str, int]
    digest: str
    code_version: str
    seconds: float
    finished_at: str
    format: int = FORMAT

    @property
    def rows_out(self) -> int:
        return self.counts.get("ok", 0)

    def files_in(self, folder: str) -> list[File]:
        """The files in one folder of the dataset, such as a split, in the order of the parts."""
        return [file for part in self.parts for file in part.files if file.path.startswith(f"{folder}/")]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Self:
        """Raises InputError, with ``where``, if the manifest is damaged or of another format."""
        if value.get("format") != FORMAT:
            raise InputError(
                f"{where}: made in lake format {value.get('format')}, this program reads format {FORMAT}; "
                "use the version of webtext that made it, or another --lake"
            )
        try:
            return cls(**{**value, "parts": tuple(Part.from_json(p) for p in value["parts"])})
        except (TypeError, KeyError) as error:
            raise InputError(f"{where}: damaged manifest ({error}); remove this file and run again") from error


def dataset_digest(stage: str, settings: dict[str, Any], inputs: dict[str, str], parts: tuple[Part, ...]) -> str:
    """The digest over stage, content settings, input digests and the rows in the order of the parts."""
    rows = [[part.name, part.digest] for part in parts]
    return json_digest({"stage": stage, "settings": settings, "inputs": inputs, "rows": rows})


def corpus_digest(manifests: Iterable[Manifest]) -> str:
    """The digest of a corpus, given the manifests of its tokens datasets in order."""
    return json_digest([manifest.digest for manifest in manifests])


def add_counts(counts: list[dict[str, int]]) -> dict[str, int]:
    """Sums of the counts by key, sorted by key."""
    total: dict[str, int] = {}
    for some in counts:
        for key, value in some.items():
            total[key] = total.get(key, 0) + value
    return dict(sorted(total.items()))


def settings_diff(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings that differ, as ``name: old -> new``, separated by commas."""
    names = sorted(old.keys() | new.keys())
    missing = "(none)"
    return ", ".join(
        f"{name}: {old.get(name, missing)!r} -> {new.get(name, missing)!r}"
        for name in names
        if old.get(name, missing) != new.get(name, missing)
    )
