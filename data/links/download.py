"""A dump that --links names by URL: downloaded whole and sealed in the lake before it is read.

data/http/download.py resumes it after a kill. The unfinished file is in the ``tmp`` folder of the lake or, for a lake
in an object store, in the temporary directory of the machine.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from data.http.download import download
from data.lake.manifest import Part
from data.lake.store import Lake
from data.links.records import LinkRecords
from data.links.sources import Reading, lines_of

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True)
class UrlSource:
    """A dump by its http(s) URL. Its label is the last segment of the path."""

    url: str

    @property
    def label(self) -> str:
        return _UNSAFE.sub("_", Path(unquote(urlsplit(self.url).path)).name) or "download"

    @property
    def inputs(self) -> tuple[str, str]:
        return f"url:{self.url}", "whole"

    mark = None
    n_slices = 1

    def make_slice(self, reading: Reading, part: str, index: int) -> Part:  # noqa: ARG002
        """Raises InputError if the download fails."""
        folder = self._folder(reading.dataset.lake)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "file"
        download(self.url, path, reading.network, reading.config.max_download_bytes)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sealed = reading.dataset.seal(
            part, {self._file(part): path}, pa.table({"sha256": [digest]}), counts={}, extra={"requests": 1}
        )
        shutil.rmtree(folder)
        return sealed

    def records(self, reading: Reading, slices: list[str]) -> Iterator[LinkRecords]:
        """The records of the sealed dump. Raises InputError as ``lines_of`` does."""
        (part,) = slices
        with reading.dataset.lake.open(*reading.dataset.names(self._file(part))) as file:
            yield from lines_of(Path(self.label), file, reading, label=self.label)

    def _file(self, part: str) -> str:
        return f"{part}.{self.label}"

    def _folder(self, lake: Lake) -> Path:
        parent = Path(lake.base) / "tmp" if lake.is_local else Path(tempfile.gettempdir())
        return parent / f"download-{hashlib.sha256(self.url.encode()).hexdigest()[:32]}"
