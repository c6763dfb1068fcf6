"""Blocks of lines judged by several processes, their records in the order of the lines.

This process decompresses, which only one can, into slots of a file that is mapped into its children too, so a block is
written once and read where it lies; records come back as Arrow columns. When the children are busy, or not up yet, it
judges a block itself. At most ``_SLOTS`` slots a child are full, so memory is bounded by the number of children and not
by how far reading is ahead. Small files get no children.
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

from data.links.blocks import MAX_LINE_BYTES, Block, BlockReader, Buffer, buffer_bytes
from data.links.records import LinkRecords, judge_dump, judge_urls, too_long
from data.process import die_with_main_process, die_with_parent

MAX_WORKERS = 4  # as many as one that decompresses keeps busy
FEW_BLOCKS = 8  # up to so many no children are started
_SLOTS = 4  # blocks that wait for a child: with 2 it is idle while this process judges one


T = TypeVar("T")
Work = Callable[[bytes | None], T]
"""What is done with the lines of a block; None stands for one line that was too long to keep. Picklable."""


def judge_blocks(
    reader: BlockReader, *, is_url_list: bool, label: str, scratch: Path, workers: int = 0
) -> Iterator[LinkRecords]:
    """The records of each block; ``workers`` as for ``map_blocks``."""
    n_before = 0
    for records in map_blocks(reader, functools.partial(_judge, is_url_list, label), scratch, workers):
        yield records.after(n_before)
        n_before += records.n_read


def map_blocks(reader: BlockReader, work: Work[T], scratch: Path, workers: int = 0) -> Iterator[T]:
    """``work`` of each block, in their order.

    ``workers`` processes, this one among them; 0: one a core, up to MAX_WORKERS. ``scratch`` is a directory.
    """
    n_children = (workers or min(os.cpu_count() or 1, MAX_WORKERS)) - 1
    buffer = Buffer(bytearray(buffer_bytes()), 0)
    for n_blocks in itertools.count():
        block = reader.fill(buffer)
        if block is None:
            return
        yield work(_lines(buffer, block))
        if n_children and n_blocks + 1 == FEW_BLOCKS:
            break
    yield from _map_in_children(reader, work, scratch, n_children)


def _judge(is_url_list: bool, label: str, lines: bytes | None) -> LinkRecords:
    if lines is None:
        return too_long(MAX_LINE_BYTES, label)
    return judge_urls(lines, label) if is_url_list else judge_dump(lines, label)


def _map_in_children(reader: BlockReader, work: Work[T], scratch: Path, n_children: int) -> Iterator[T]:
    path, size, n_slots = scratch / "blocks", buffer_bytes(), _SLOTS * n_children + 1
    with path.open("w+b") as file:
        file.truncate(n_slots * size)  # as sparse as lines are short
        memory = mmap.mmap(file.fileno(), 0)
    # Spawned, not forked from the fork server, which has the text stage's libraries to import first.
    pool = ProcessPoolExecutor(n_children, multiprocessing.get_context("spawn"), _start_child, (str(path),))
    waiting: deque[tuple[Future[T], int | None]] = deque()  # in the order of the blocks, with the slot they are in
    free = list(range(n_slots))
    try:
        ready = [pool.submit(os.getpid) for _ in range(n_children)]
        while True:
            while waiting and (waiting[0][0].done() or not free or len(waiting) > 2 * n_slots):
                yield _next(waiting, free)
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
        raise RuntimeError("a process that judges lines was killed (out of memory?)") from error
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


def _lines(buffer: Buffer, block: Block) -> bytes | None:
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


def _work_on_slot(work: Work[T], block: Block) -> T:
    assert _memory is not None, "runs in a child only"
    return work(_memory[block.start : block.end])
