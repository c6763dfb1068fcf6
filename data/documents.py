"""Where a document's rows are: its text, the verdict on it, and the document that was kept in its place.

To find a row, one column of each file of a dataset is read, or less where the files' statistics exclude the value. A
document's rows in text and select have the same place. Cost: 0.1 s per million rows and column, and the text of one row
up to 0.1 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.config import SelectConfig
from data.lake.manifest import Manifest
from data.lake.names import base_snapshot
from data.lake.rows import read_row, rows_with
from data.lake.store import Dataset, Lake
from data.schema import SelectStatus
from data.select.shingles import U64, shingles, unique

SHINGLED = ("text", "language")
"""The columns of text that a document's shingles are made from."""


@dataclass(frozen=True)
class Place:
    """A row of a file of a dataset."""

    dataset: Dataset
    file: str
    row: int

    def read(self, *columns: str) -> dict[str, Any]:
        """The columns of the row; all of them if none is named."""
        return read_row(self.dataset, self.file, self.row, list(columns) or None)

    def of(self, stage: str, snapshot: str) -> Place:
        """The row of the same document in another dataset: select and text have the same rows."""
        return Place(self.dataset.lake.dataset(stage, snapshot), self.file, self.row)


def places(dataset: Dataset, column: str, value: str | bytes, within: str = "part-") -> Iterator[Place]:
    """The rows whose column has the value, among the Parquet files whose path starts with ``within``.

    None if the dataset is not published.
    """
    manifest = dataset.manifest()
    for part in manifest.parts if manifest else ():
        for file in part.files:
            if file.path.startswith(within) and file.path.endswith(".parquet") and file.rows:
                for row in rows_with(dataset, file.path, column, value):
                    yield Place(dataset, file.path, row)


def find(dataset: Dataset, column: str, value: str | bytes, within: str = "part-") -> Place | None:
    """The first of ``places``."""
    return next(places(dataset, column, value, within), None)


def judged_by(lake: Lake, snapshot: str) -> Manifest:
    """The select dataset that found a snapshot's duplicates: its own, or the one that it was decontaminated from."""
    manifest = lake.dataset("select", snapshot).require()
    origin = next((key.removeprefix("select:") for key in manifest.inputs if key.startswith("select:")), None)
    return judged_by(lake, origin) if origin else manifest


def compared_with(lake: Lake, snapshot: str) -> list[str]:
    """The snapshots that select compared a snapshot with, sorted."""
    inputs = judged_by(lake, snapshot).inputs
    return sorted(key.removeprefix("history:") for key in inputs if key.startswith("history:"))


def keeper_of(lake: Lake, snapshot: str, doc_id: bytes) -> tuple[str, Place] | None:
    """The select snapshot that kept a document, and the place of its text.

    Only this snapshot, the one that found its duplicates and those that it was compared with are searched, if the lake
    still has them. An unchanged page has the same identity in each snapshot, and only one of them keeps it.
    """
    published = lake.snapshots("select")
    names = dict.fromkeys([snapshot, judged_by(lake, snapshot).snapshot, *compared_with(lake, snapshot)])
    for name in (name for name in names if name in published):
        for place in places(lake.dataset("select", name), "doc_id", doc_id):
            if place.read("status")["status"] == SelectStatus.OK:
                return name, place.of("text", base_snapshot(name))
    return None


def shingle_set(document: dict[str, Any], settings: dict[str, Any]) -> U64:
    """The distinct shingles of a document, given its columns SHINGLED and the settings of ``judged_by``."""
    config = SelectConfig(**{name: settings[name] for name in ("ngram", "char_ngram") if name in settings})
    return unique(shingles(document["text"], document["language"], config))
