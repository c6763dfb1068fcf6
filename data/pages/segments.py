"""Makes what a crawl task has settled durable, piece by piece.

    part-00007-00003.warc.gz             the pages of a segment, for good
    segments/part-00007-00003.parquet    its rows, until the part is sealed
    segments/part-00007-00003.handoff.parquet    its links that were redirected to another domain
    _parts/segment-part-00007-00003.json its record, written last

A segment is sealed at a size, a number of links or an age. A killed task resumes after its last sealed segment. When
all links are settled, the rows of all segments are sorted into ``part-00007.parquet``, and the segments' records are
removed. The result does not depend on the order or the segments in which links were settled.

Memory: the rows of one segment; at the end the rows of the part as Arrow tables.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from data.archives.lookup import Capture
from data.config import PagesConfig
from data.errors import refuse_when_stopping
from data.lake.manifest import Part
from data.lake.store import Dataset, code_version, write_parquet
from data.pages.frontier import Link
from data.schema import PAGES
from data.warc import IDENTICAL_PAYLOAD, HeaderList, WarcWriter

HANDOFF = pa.schema(
    [
        ("canonical_url", pa.string()),
        ("target_url", pa.string()),
        ("karma", pa.int64()),
        ("seen", pa.list_(pa.string())),  # the URLs that led to target_url, oldest first; one per redirect
    ]
)
PREFIX = "segment-"
PAYLOADS = 50_000  # remembered payloads of a task; one that comes again is written as a revisit
_BUFFER_BYTES = 1 << 20  # for a WARC file: one write for some 60 pages
_COUNTERS = ("requests", "wire_bytes")

PageRow = dict[str, Any]
"""A row of the pages table."""


class PageRecord(NamedTuple):
    """A page as the WARC file holds it: first lines and headers as sent and received, the body decoded."""

    url: str
    at: datetime
    request: tuple[bytes, HeaderList]
    response: tuple[bytes, HeaderList]
    body: bytes
    sha1: bytes


class Payload(NamedTuple):
    """Where a payload is stored, and the URL and time it came from."""

    warc_file: str
    offset: int
    url: str
    at: datetime


@dataclass
class _Open:
    """The segment that is open."""

    name: str
    path: Path
    file: BinaryIO
    warc: WarcWriter
    began: float
    rows: list[PageRow] = field(default_factory=list)
    handoffs: list[Link] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)


class Segments:
    """The segments of one part. Use it as a context manager; ``finish`` seals the part."""

    def __init__(self, dataset: Dataset, part: str, scratch: Path, config: PagesConfig) -> None:
        self.dataset = dataset
        self.part = part
        self.scratch = scratch
        self.config = config
        self.sealed, self._n_begun = _whole(dataset, part)
        self.payloads: OrderedDict[bytes, Payload] = OrderedDict()
        self._open: _Open | None = None
        self._sealing: list[asyncio.Task[Part]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open is not None:
            self._open.file.close()

    @property
    def wire_bytes(self) -> int:
        """Bytes received for the sealed segments, including those of earlier runs of this task."""
        return sum(part.extra["wire_bytes"] for part in self.sealed)

    def settled_urls(self) -> set[str]:
        """Canonical URLs that earlier runs of this task have settled or handed off."""
        found: set[str] = set()
        for part in self.sealed:
            for table in (self._pages(part), self._handoffs(part)):
                found.update(table["canonical_url"].to_pylist())
        return found

    def page(self, page: PageRecord) -> tuple[str, int]:
        """Write a page. Returns the WARC file and the offset of its payload, which may be in an earlier record."""
        segment = self._segment()
        known = self.payloads.get(page.sha1)
        if known is not None:
            self.payloads.move_to_end(page.sha1)
            self.revisit(page, known.url, known.at, IDENTICAL_PAYLOAD)
            return known.warc_file, known.offset
        offset = segment.warc.write_page(page.url, page.at, page.request, page.response, page.body, page.sha1)
        self.payloads[page.sha1] = Payload(segment.path.name, offset, page.url, page.at)
        if len(self.payloads) > PAYLOADS:
            self.payloads.popitem(last=False)
        return segment.path.name, offset

    def revisit(self, page: PageRecord, refers_to_url: str, refers_to_date: datetime, profile: str) -> None:
        """Write a record that says that a page is the same as before."""
        self._segment().warc.write_revisit(
            page.url,
            page.at,
            page.request,
            page.response,
            page.sha1,
            refers_to_url=refers_to_url,
            refers_to_date=refers_to_date,
            profile=profile,
        )

    def capture(self, capture: Capture, taken_at: datetime) -> tuple[str, int]:
        """Write a page from a web archive, like ``page``, but never as a revisit."""
        segment = self._segment()
        return segment.path.name, capture.write(segment.warc, taken_at)

    def settle(self, row: PageRow) -> None:
        self._segment().rows.append(row)

    def hand_off(self, link: Link) -> None:
        self._segment().handoffs.append(link)

    def count(self, requests: int, wire_bytes: int) -> None:
        self._segment().counters.update(requests=requests, wire_bytes=wire_bytes)

    def is_due(self) -> bool:
        """Whether the open segment has reached its size, number of links or age."""
        segment = self._open
        config = self.config
        return segment is not None and (
            segment.warc.size >= config.segment_bytes
            or len(segment.rows) + len(segment.handoffs) >= config.segment_rows
            or (bool(segment.rows) and time.monotonic() - segment.began >= config.segment_s)
        )

    def rotate(self) -> str | None:
        """Close the open segment and seal it in a thread. Returns its name. Call it inside the event loop."""
        segment = self._open
        self._open = None
        if segment is None:
            return None
        before = self._sealing[-1] if self._sealing else None
        task = asyncio.create_task(self._seal_after(before, segment))
        task.add_done_callback(_look_at)  # check() raises the first failure; later ones have the same cause
        self._sealing.append(task)
        return segment.name

    async def _seal_after(self, before: asyncio.Task[Part] | None, segment: _Open) -> Part:
        """Seal a segment after the ones before it, because it may refer to their payloads."""
        if before is not None:
            await asyncio.shield(before)
        return await asyncio.to_thread(self._seal, segment)

    async def settle_all(self) -> None:
        """Seal the open segment. Returns when everything is durable. Raises errors from sealing."""
        self.rotate()
        await self.check(wait=True)

    async def check(self, *, wait: bool = False) -> None:
        """Raise the first error of the seals that have ended; with ``wait``, of all.

        Raises KilledError if this process was asked to stop, which ends the crawl.
        """
        refuse_when_stopping()
        for task in [task for task in self._sealing if wait or task.done()]:
            self.sealed.append(await task)
            self._sealing.remove(task)

    def finish(self, dead: frozenset[str] = frozenset()) -> Part:
        """Sort all rows into the part and seal it. Rows with a status in ``dead`` go to a file for a later round."""
        self.sealed.sort(key=lambda part: part.name)
        handoffs = _sorted(map(self._handoffs, self.sealed), HANDOFF)
        pages = _sorted(map(self._pages, self.sealed), PAGES)
        lost = PAGES.empty_table()
        if dead:
            is_dead = pc.is_in(pages["status"], value_set=pa.array(sorted(dead), pa.string()))
            lost = pages.filter(is_dead)
            pages = pages.filter(pc.invert(is_dead))
        written = {
            f"handoff/{self.part}.parquet": handoffs,
            f"dead/{self.part}.parquet": lost,
            f"{self.part}.parquet": pages,
        }
        files = {name: self.scratch / f"table-{number}" for number, name in enumerate(written)}
        for name, table in written.items():
            write_parquet(table, files[name])
        part = self.dataset.seal(
            self.part,
            files,
            [pages, handoffs, lost],
            counts=dict(Counter(pages["status"].to_pylist())),
            rows={name: len(table) for name, table in written.items()},
            extra={"handed_off": len(handoffs), "dead": len(lost)}
            | {name: sum(part.extra[name] for part in self.sealed) for name in _COUNTERS},
            published=[file for part in self.sealed for file in part.files if file.path.endswith(".warc.gz")],
        )
        remove_segments(self.dataset, self.sealed)
        return part

    def _segment(self) -> _Open:
        if self._open is None:
            name = f"{self.part}-{self._n_begun:05d}"
            self._n_begun += 1
            path = self.scratch / f"{name}.warc.gz"
            file = path.open("wb", buffering=_BUFFER_BYTES)
            fields = {"software": f"webtext/{code_version()}", "format": "WARC File Format 1.1", "robots": "obey"}
            self._open = _Open(name, path, file, WarcWriter(file, path.name, fields), time.monotonic())
        return self._open

    def _seal(self, segment: _Open) -> Part:
        segment.file.close()
        pages = pa.Table.from_pylist(segment.rows, schema=PAGES)
        handoffs = pa.Table.from_pylist([_handoff_row(link) for link in segment.handoffs], schema=HANDOFF)
        paths = {
            f"{segment.name}.warc.gz": segment.path,
            _rows_file(segment.name): self.scratch / f"{segment.name}.parquet",
            _handoff_file(segment.name): self.scratch / f"{segment.name}.handoff.parquet",
        }
        write_parquet(pages, paths[_rows_file(segment.name)])
        write_parquet(handoffs, paths[_handoff_file(segment.name)])
        return self.dataset.seal(
            f"{PREFIX}{segment.name}",
            paths,
            [pages, handoffs],
            counts=dict(Counter(pages["status"].to_pylist())),
            rows={_rows_file(segment.name): len(pages), _handoff_file(segment.name): len(handoffs)},
            extra={"handed_off": len(handoffs)} | {name: segment.counters[name] for name in _COUNTERS},
        )

    def _pages(self, part: Part) -> pa.Table:
        return self.dataset.read(_rows_file(part.name.removeprefix(PREFIX)))

    def _handoffs(self, part: Part) -> pa.Table:
        return self.dataset.read(_handoff_file(part.name.removeprefix(PREFIX)))


def _whole(dataset: Dataset, part: str) -> tuple[list[Part], int]:
    """The sealed segments of a part, and the first unused number.

    A damaged segment is removed, and with it those whose rows refer to its payloads.
    """
    prefix = f"{PREFIX}{part}-"
    records = dict(sorted(dataset.sealed(lambda name: name.startswith(prefix)).items()))
    kept: list[Part] = []
    files: set[str] = set()
    for name, record in records.items():
        own = {file.path for file in record.files if file.path.endswith(".warc.gz")}
        used = dataset.read(_rows_file(name.removeprefix(PREFIX)), ["warc_file"])["warc_file"].unique().to_pylist()
        if {file for file in used if file is not None and "/" not in file} <= files | own:
            kept.append(record)
            files |= own
    lost = [record for record in records.values() if record not in kept]
    if lost:
        remove_segments(dataset, lost)
    names = [name.removesuffix(".json") for name in dataset.lake.names(*dataset.names("_parts"))]
    numbers = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
    return kept, 1 + max([*numbers, *(int(name.removeprefix(prefix)) for name in records)], default=-1)


def remove_segments(dataset: Dataset, segments: list[Part]) -> None:
    """Remove records and rows of segments. Their WARC files stay, because they belong to the part."""
    for part in segments:
        dataset.lake.remove(*dataset.names("_parts", f"{part.name}.json"))
        for file in part.files:
            if not file.path.endswith(".warc.gz"):
                dataset.lake.remove(*dataset.names(*file.path.split("/")))


def _look_at(task: asyncio.Task[Part]) -> None:
    if not task.cancelled():
        task.exception()


def _rows_file(name: str) -> str:
    return f"segments/{name}.parquet"


def _handoff_file(name: str) -> str:
    return f"segments/{name}.handoff.parquet"


def _handoff_row(link: Link) -> dict[str, Any]:
    return {"canonical_url": link.canonical_url, "target_url": link.url, "karma": link.karma, "seen": link.seen}


def _sorted(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    table = pa.concat_tables([schema.empty_table(), *tables])
    return table.sort_by("canonical_url").combine_chunks()
