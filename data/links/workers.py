"""Several processes classify the lines of a file; their records come in the order of the lines.

Only one process can decompress a file. It writes each block once, into a slot of a file that its children map too, and
they read the block in place and send its records back as Arrow columns. While the children are busy or still starting,
this process classifies blocks itself. At most ``_SLOTS`` slots per child are full, so memory depends on the number of
children and not on how far reading is ahead. Small files get no children.
"""

from __future__ import annotations

import functools
import gc
import itertools
import mmap
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from data.errors import KilledError, refuse_when_stopping
from data.links.blocks import MAX_LINE_BYTES, BlockReader, Buffer, LineBlock, buffer_bytes
from data.links.records import LinkRecords, classify_dump, classify_urls, too_long
from data.process import die_with_main_process, die_with_parent

MAX_WORKERS = 4  # as many as one decompressing process keeps busy
FEW_BLOCKS = 8  # a file of at most this many starts no children
_SLOTS = 4  # blocks waiting per child; with 2, a child idles while this process classifies a block


T = TypeVar("T")
Work = Callable[[bytes | None], T]
"""A function of the lines of a block, or of None for one line that was too long to keep. Picklable."""


def classify_blocks(
    reader: BlockReader, *, is_url_list: bool, label: str, scratch: Path, workers: int = 0
) -> Iterator[LinkRecords]:
    """The records of each block; ``workers`` as for ``map_blocks``."""
    n_before = 0
    for records in map_blocks(reader, functools.partial(_classify, is_url_list, label), scratch, workers):
        yield records.after(n_before)
        n_before += records.n_read


def map_blocks(reader: BlockReader, work: Work[T], scratch: Path, workers: int = 0) -> Iterator[T]:
    """``work`` of each block, in the order of the blocks. Raises KilledError if a child was ended from outside.

    ``workers`` counts this process too; 0: one per core, up to MAX_WORKERS. ``scratch`` is a directory.
    """
    n_children = (workers or min(os.cpu_count() or 1, MAX_WORKERS)) - 1
    buffer = Buffer(bytearray(buffer_bytes()), 0)
    for n_blocks in itertools.count():
        refuse_when_stopping()
        block = reader.fill(buffer)
        if block is None:
            return
        yield work(_lines(buffer, block))
        if n_children and n_blocks + 1 == FEW_BLOCKS:
            break
    yield from _map_in_children(reader, work, scratch, n_children)


def _classify(is_url_list: bool, label: str, lines: bytes | None) -> LinkRecords:
    if lines is None:
        return too_long(MAX_LINE_BYTES, label)
    return classify_urls(lines, label) if is_url_list else classify_dump(lines, label)


def _map_in_children(reader: BlockReader, work: Work[T], scratch: Path, n_children: int) -> Iterator[T]:
    path = scratch / "blocks"
    size = buffer_bytes()
    n_slots = _SLOTS * n_children + 1
    with path.open("w+b") as file:
        file.truncate(n_slots * size)  # sparse: short lines take little of it
        memory = mmap.mmap(file.fileno(), 0)
    # Spawned: the fork server would import the libraries of the text stage first.
    pool = ProcessPoolExecutor(n_children, multiprocessing.get_context("spawn"), _start_child, (str(path),))
    waiting: deque[tuple[Future[T], int | None]] = deque()  # in the order of the blocks, with the slot they are in
    free = list(range(n_slots))
    try:
        ready = [pool.submit(os.getpid) for _ in range(n_children)]
        while True:
            while waiting and (waiting[0][0].done() or not free or len(waiting) > 2 * n_slots):
                yield _next(waiting, free)
            refuse_when_stopping()
            buffer = Buffer(memory, free[-1] * size)
            block = reader.fill(buffer)
            if block is None:
                break
            n_busy = sum(not future.done() for future, _ in waiting)
            if block.is_too_long or n_busy >= _SLOTS * n_children or not all(future.done() for future in ready):
                done: Future[T] = Future()
                done.set_result(work(_lines(buffer, block)))
                waiting.append((done, None))
            else:
                waiting.append((pool.submit(_work_on_slot, work, block), free.pop()))
        while waiting:
            yield _next(waiting, free)
    except BrokenProcessPool as error:
        raise KilledError(
            "a process that reads links was killed (out of memory?): run the same command again to go on from there"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
        memory.close()
        path.unlink()


def _next(waiting: deque[tuple[Future[T], int | None]], free: list[int]) -> T:
    future, slot = waiting.popleft()
    result = future.result()
    if slot is not None:
        free.append(slot)
    return result


def _lines(buffer: Buffer, block: LineBlock) -> bytes | None:
    return None if block.is_too_long else bytes(memoryview(buffer.memory)[block.start : block.end])


_memory: mmap.mmap | None = None
"""In a child: the slots."""


def _start_child(path: str) -> None:
    global _memory
    die_with_parent()
    die_with_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops, and ends its children
    gc.disable()  # rows hold no cycles
    with Path(path).open("rb") as file:
        _memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _work_on_slot(work: Work[T], block: LineBlock) -> T:
    assert _memory is not None, "runs in a child only"
    return work(_memory[block.start : block.end])
