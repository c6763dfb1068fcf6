"""The text stage: each fetched page becomes one row with its main text, its language and its signals. It drops nothing.

Some pages take minutes, exhaust the memory or crash a parser. So extraction runs in child processes, each with one page
at a time (data/text/children.py). A page that uses more than ``timeout_s`` of CPU time is ``timeout``, one that ends
its child is ``crashed``. Both are tried twice. If someone else ends the children, the part fails and is made again.

A part reads its pages in the order of the WARC file. Besides the part's rows, at most ``QUEUED`` pages per child are in
memory. The rows are the ``ok`` rows of the pages part, in the same order. A row's ``url`` is the link's canonical URL;
its ``domain`` is taken from the page's URL after redirects.

Speed: 7 to 10 pages/s per core for pages of 130 kB (docs/benchmarks.md).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.config import TextConfig
from data.lake.manifest import Part
from data.lake.names import base_snapshot
from data.lake.store import Lake, write_parquet
from data.schema import TEXT, PageStatus, TextStatus
from data.stage import Mapper, StageResult, in_turn, run_stage
from data.text import choice
from data.text.children import Extractors, Work
from data.text.extract import Extracted, extract
from data.text.signals import Signals
from data.urls.canonical import domain_of
from data.warc import read_payload

QUEUED = 4  # pages in memory per child, so that no child waits for the WARC file

Page = dict[str, Any]


def run(lake: Lake, snapshot: str, config: TextConfig, mapper: Mapper = in_turn) -> StageResult:
    """Extract the text of ``pages/<snapshot>``. A part keeps ``config.workers`` cores busy: make one part at a time.

    Raises InputError if pages is not published, if a WARC file is damaged or (KilledError) if children were killed.
    """
    choice.model()  # raises InputError if its file is damaged, which each page would report otherwise
    snapshot = base_snapshot(snapshot)
    pages = lake.dataset("pages", snapshot).require()
    return run_stage(
        lake.dataset("text", snapshot),
        config,
        {"pages": pages.digest},
        lambda: [[part.name for part in pages.parts]],
        functools.partial(make_part, lake.root, snapshot, config),
        mapper,
    )


def document_id(canonical_url: str, text: str) -> bytes:
    """16 bytes that identify a text at a URL, the same in every snapshot. A page without text has the empty text."""
    return hashlib.sha256(f"{canonical_url}\n{text}".encode()).digest()[:16]


def make_part(lake_root: str, snapshot: str, config: TextConfig, name: str) -> Part:
    """Make and seal one part."""
    lake = Lake(lake_root)
    table = lake.dataset("pages", snapshot).read(f"{name}.parquet")
    pages: list[Page] = table.filter(pc.equal(table.column("status"), str(PageStatus.OK))).to_pylist()
    by_offset = sorted(range(len(pages)), key=lambda k: (pages[k]["warc_file"], pages[k]["warc_offset"]))
    rows: list[Page | None] = [None] * len(pages)
    extractions = _extractions(lake, snapshot, [pages[k] for k in by_offset], config)
    for k, extracted in zip(by_offset, extract_all(extractions, config), strict=True):
        rows[k] = _row(pages[k], extracted)
    result = pa.Table.from_pylist(rows, schema=TEXT)
    with lake.scratch() as folder:
        file = f"{name}.parquet"
        write_parquet(result, folder / file)
        return lake.dataset("text", snapshot).seal(
            name,
            {file: folder / file},
            result,
            counts=Counter(result.column("status").to_pylist()),
            rows={file: len(result)},
            extra={"chars": pc.sum(result.column("n_chars")).as_py() or 0},
        )


Extraction = Work | Extracted
"""A call for a child to make, or a result that is known without one."""


def extract_all(extractions: Iterable[Extraction], config: TextConfig) -> Iterator[Extracted]:
    """The results in order. At most ``QUEUED`` extractions per child are taken from the iterable before they are done.

    Raises KilledError if the children that extract a page were ended from outside.

    A slow page does not stop the other children; their results wait until its own is yielded.
    """
    waiting: deque[Future[Extracted]] = deque()
    with Extractors(config) as extractors:
        slots = threading.BoundedSemaphore(QUEUED * extractors.n_workers)
        for extraction in extractions:
            slots.acquire()
            future: Future[Extracted]
            if isinstance(extraction, Extracted):
                future = Future()
                future.set_result(extraction)
            else:
                future = extractors.submit(extraction)
            future.add_done_callback(lambda _: slots.release())
            waiting.append(future)
            while waiting and waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _extractions(lake: Lake, snapshot: str, pages: list[Page], config: TextConfig) -> Iterator[Extraction]:
    """One extraction per page. The pages are sorted by file, so only one file is open at a time."""
    with contextlib.ExitStack() as stack:
        name = None
        file = None
        for page in pages:
            if page["warc_file"] != name:
                stack.close()
                name = page["warc_file"]
                earlier, _, warc_file = name.rpartition("/")  # the payload may be an earlier snapshot's
                file = stack.enter_context(lake.open("pages", earlier or snapshot, warc_file))
            assert file is not None
            _, body = read_payload(file, page["warc_offset"])
            if len(body) > config.max_html_bytes:
                yield Extracted(
                    TextStatus.FAILED, f"{len(body)} bytes, more than max_html_bytes {config.max_html_bytes}"
                )
                continue
            yield functools.partial(extract, body, page["content_type"], page["final_url"])


def _row(page: Page, extracted: Extracted) -> Page:
    signals = extracted.signals._asdict() if extracted.signals else dict.fromkeys(Signals._fields)
    return {
        "doc_id": document_id(page["canonical_url"], extracted.text or ""),
        "url": page["canonical_url"],
        "domain": domain_of(page["final_url"]),
        "karma": page["karma"],
        "fetched_at": page["fetched_at"],
        "title": extracted.title,
        "date": extracted.date,
        "kind": extracted.kind,
        "extractor": extracted.extractor,
        "language": extracted.language,
        "language_score": extracted.language_score,
        "status": str(extracted.status),
        "reason": extracted.reason,
        "text": extracted.text,
        **signals,
    }
