"""Text: every fetched page becomes one row with its main text, its language and its signals; nothing is judged here.

Extraction meets whatever the web holds: pages that take minutes, exhaust memory or crash a parser. So it runs in child
processes, one page at a time each. A child that takes longer than ``timeout_s`` is killed and its page is ``timeout``;
a child that dies takes one page with it, which is ``crashed``; memory is limited by the kernel. Children are forked
from a server that has imported the extractor, so a new one costs milliseconds, and they end with the process that
started the stage, whatever ends it.

A part reads its pages in the order in which they lie in the WARC file and keeps at most ``QUEUED`` of them per child
in memory, besides the part's rows. Its rows are those of the pages part with status ``ok``, in the same order. A row's
``url`` is the link's canonical URL, its ``domain`` that of the URL where the page was found in the end.

About 25-35 pages a second and core (extraction with metadata, language, signals).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pebble import ProcessExpired, ProcessPool

from data.config import TextConfig
from data.lake.manifest import Part
from data.lake.store import Lake, base_snapshot, write_parquet
from data.process import die_with_main_process, die_with_parent
from data.schema import TEXT, PageStatus, TextStatus
from data.stage import Mapper, StageResult, in_turn, run_stage
from data.text import language
from data.text.extract import Extracted, extract
from data.text.signals import Signals
from data.urls.canonical import domain_of
from data.warc import read_payload

QUEUED = 4  # pages in memory per child, so that none waits for the WARC file

Page = dict[str, Any]


def run(lake: Lake, snapshot: str, config: TextConfig, mapper: Mapper = in_turn) -> StageResult:
    """Extract the text of ``pages/<snapshot>``. One part keeps ``config.workers`` cores busy: map them one at a time.

    Raises InputError when pages is not published or a WARC file is damaged.
    """
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
    """16 bytes that name a text at a URL, the same in every snapshot. A page without text has the empty text's."""
    return hashlib.sha256(f"{canonical_url}\n{text}".encode()).digest()[:16]


def make_part(lake_root: str, snapshot: str, config: TextConfig, name: str) -> Part:
    """Make and seal one part."""
    lake = Lake(lake_root)
    table = lake.dataset("pages", snapshot).read(f"{name}.parquet")
    pages: list[Page] = table.filter(pc.equal(table.column("status"), str(PageStatus.OK))).to_pylist()
    by_offset = sorted(range(len(pages)), key=lambda k: (pages[k]["warc_file"], pages[k]["warc_offset"]))
    rows: list[Page | None] = [None] * len(pages)
    jobs = _jobs(lake, snapshot, [pages[k] for k in by_offset], config)
    for k, extracted in zip(by_offset, extract_all(jobs, config), strict=True):
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


Job = Callable[[], Extracted] | Extracted
"""A page to extract in a child, or the outcome it has already."""


def extract_all(jobs: Iterable[Job], config: TextConfig) -> Iterator[Extracted]:
    """The outcomes of the jobs, in their order; at most ``QUEUED`` jobs per child are taken and not done.

    A slow page delays what is yielded, not the children: outcomes of later pages wait for it.
    """
    n_workers = config.workers or os.cpu_count() or 1
    slots = threading.BoundedSemaphore(QUEUED * n_workers)
    waiting: deque[Future[Extracted]] = deque()
    with _children(n_workers, config) as pool:
        for job in jobs:
            slots.acquire()
            future: Future[Extracted]
            if isinstance(job, Extracted):
                future = Future()
                future.set_result(job)
            else:
                future = pool.schedule(job, timeout=config.timeout_s)
            future.add_done_callback(lambda _: slots.release())
            waiting.append(future)
            while waiting and waiting[0].done():
                yield _outcome(waiting.popleft(), config)
        while waiting:
            yield _outcome(waiting.popleft(), config)


def _jobs(lake: Lake, snapshot: str, pages: list[Page], config: TextConfig) -> Iterator[Job]:
    """A job a page. Pages come in the order of their files, so one is open at a time."""
    with contextlib.ExitStack() as stack:
        name = file = None
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
            yield functools.partial(extract, body, page["content_type"], page["final_url"], config.favor)


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
        "language": extracted.language,
        "language_score": extracted.language_score,
        "status": str(extracted.status),
        "reason": extracted.reason,
        "text": extracted.text,
        **signals,
    }


@contextlib.contextmanager
def _children(n_workers: int, config: TextConfig) -> Iterator[ProcessPool]:
    context = multiprocessing.get_context("forkserver")
    # __main__ too: each child would import the caller's script anew otherwise
    context.set_forkserver_preload(["__main__", "data.text.stage"])
    pool = ProcessPool(
        max_workers=n_workers,
        max_tasks=config.pages_per_child,
        initializer=_start_child,
        initargs=(config.worker_memory_bytes,),
        context=context,
    )
    try:
        yield pool
        pool.close()
    except BaseException:
        pool.stop()
        raise
    finally:
        pool.join()


def _outcome(future: Future[Extracted], config: TextConfig) -> Extracted:
    try:
        return future.result()
    except TimeoutError:
        return Extracted(TextStatus.TIMEOUT, f"more than {config.timeout_s:g} s")
    except ProcessExpired as error:
        code = error.exitcode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return Extracted(TextStatus.CRASHED, f"the extracting process ended {how}")


def _start_child(memory_bytes: int) -> None:
    """What a child does before its first page."""
    die_with_parent()  # with the fork server
    die_with_main_process()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once, even inside a parser; pebble's handler would wait for it
    for name in ("trafilatura", "htmldate", "charset_normalizer"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they have to say of a page is in its row
    language.identify("")  # loads the model, which is not any page's time or memory
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
