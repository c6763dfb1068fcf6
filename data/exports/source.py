"""The shards and texts of a published snapshot, each file compared with its sha256 before it is read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.config import TokensConfig
from data.errors import InputError
from data.lake.manifest import File, Manifest
from data.lake.names import base_snapshot
from data.lake.store import Dataset, Lake
from data.schema import SelectStatus


@dataclass(frozen=True)
class Written:
    """What became of one part: documents and tokens by split; empty for a part that only prepares others."""

    documents: dict[str, int]
    tokens: dict[str, int]


@dataclass(frozen=True)
class Snapshot:
    """A published tokens dataset."""

    lake: Lake
    name: str
    manifest: Manifest

    @classmethod
    def open(cls, lake: Lake, name: str) -> Self:
        """Raises InputError if the snapshot has no published tokens."""
        return cls(lake, name, lake.dataset("tokens", name).require())

    @property
    def config(self) -> TokensConfig:
        """The settings that the dataset was made with; those that it does not know have their defaults."""
        known = TokensConfig.__dataclass_fields__
        return TokensConfig(**{name: value for name, value in self.manifest.settings.items() if name in known})

    @property
    def n_shards(self) -> int:
        return len(self.manifest.parts)

    def n_steps(self, *, reads_texts: bool) -> int:
        """How many parts an export works through."""
        texts = len(self.text().require().parts) if reads_texts else 0
        return self.n_shards + texts

    def shards(self, split: str, columns: list[str]) -> Iterator[pa.Table]:
        """The shards of a split, in order."""
        dataset = self.lake.dataset("tokens", self.name)
        for file in self.manifest.files_in(split):
            yield read(dataset, file, columns)

    def text(self) -> Dataset:
        return self.lake.dataset("text", base_snapshot(self.name))

    def select(self) -> Dataset:
        return self.lake.dataset("select", self.name)

    def documents(self, columns: list[str]) -> Iterator[pa.Table]:
        """``doc_id`` and columns of the selected documents of each text part, in its order.

        Raises InputError if text or select is not what the tokens were made from, or if a file is damaged.
        """
        if "shard_documents" not in self.manifest.settings:
            raise InputError(f"tokens/{self.name} was made by an earlier version: remove it and make it again")
        manifests = {"text": self.text().require(), "select": self.select().require()}
        for stage, manifest in manifests.items():
            if manifest.digest != self.manifest.inputs[stage]:
                raise InputError(
                    f"tokens/{self.name} was made from another {stage}/{manifest.snapshot} (digest "
                    f"{self.manifest.inputs[stage][:16]}.., now {manifest.digest[:16]}..); remove tokens/{self.name} "
                    "and make it again"
                )
        for part in manifests["text"].parts:
            texts = read(self.text(), _file(manifests["text"], part.name), ["doc_id", *columns])
            verdicts = read(self.select(), _file(manifests["select"], part.name), ["status"])
            yield texts.filter(pc.equal(verdicts.column("status"), str(SelectStatus.OK)))


def _file(manifest: Manifest, part: str) -> File:
    wanted = f"{part}.parquet"
    return next(file for one in manifest.parts if one.name == part for file in one.files if file.path == wanted)


def read(dataset: Dataset, file: File, columns: list[str]) -> pa.Table:
    """The table in a Parquet file that is compared with its record first."""
    content: Any = io.BytesIO(dataset.read_verified(file))
    return pq.read_table(content, columns=columns, use_threads=False)
