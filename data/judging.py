"""Blocks of lines judged in child processes, their records in the order of the lines.

One process decompresses, which only one can; the children decode and judge. Lines pass through a file mapped into all
of them, cut into slots, so a block is written once and read where it lies; records come back as Arrow columns. At most
two slots a child are full, so memory is bounded by the number of children and not by how far reading is ahead. A file
of few blocks is judged in the process itself: children take half a second to start.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path

from data.blocks import BLOCK_BYTES, MAX_LINE_BYTES, Block
from data.process import die_with_main_process, die_with_parent
from data.records import LinkRecords, judge_dump, judge_urls, too_long

MAX_WORKERS = 3  # as many as one decompressing process keeps busy
FEW_BLOCKS = 16  # up to so many no children are started
_SLOT_BYTES = 2 * BLOCK_BYTES


def judge_blocks(
    blocks: Iterator[Block], *, is_url_list: bool, label: str, scratch: Path, workers: int = 0
) -> Iterator[LinkRecords]:
    """The records of each block. ``workers`` children at most; 0: one a core, up to MAX_WORKERS."""
    n_workers = workers or min(os.cpu_count() or 1, MAX_WORKERS)
    first = list(islice(blocks, FEW_BLOCKS)) if n_workers > 1 else []
    if len(first) < FEW_BLOCKS:
        for block in chain(first, blocks):
            yield _judge_here(block, is_url_list, label)
        return
    yield from _judge_in_children(chain(first, blocks), is_url_list, label, scratch, n_workers)


def _judge_in_children(
    blocks: Iterable[Block], is_url_list: bool, label: str, scratch: Path, n_workers: int
) -> Iterator[LinkRecords]:
    n_slots = 2 * n_workers
    path = scratch / "blocks"
    with path.open("w+b") as file:
        file.truncate(n_slots * _SLOT_BYTES)
        slots = mmap.mmap(file.fileno(), 0)
    # Spawned, not forked from the fork server, which has the text stage's libraries to import first.
    pool = ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn"), _start_child, (str(path),))
    waiting: deque[tuple[Future[LinkRecords], int | None]] = deque()
    free = list(range(n_slots))
    try:
        for block in blocks:
            while not free or len(waiting) > n_slots:
                yield _next(waiting, free)
            if block.pieces is None or block.n_bytes > _SLOT_BYTES:
                done: Future[LinkRecords] = Future()
                done.set_result(_judge_here(block, is_url_list, label))
                waiting.append((done, None))
                continue
            slot = free.pop()
            start = end = slot * _SLOT_BYTES
            for piece in block.pieces:
                slots[end : end + len(piece)] = piece
                end += len(piece)
            waiting.append((pool.submit(_judge_slot, start, end, block.first, is_url_list, label), slot))
        while waiting:
            yield _next(waiting, free)
    except BrokenProcessPool as error:
        raise RuntimeError(f"{label}: a process that judges its lines was killed (out of memory?)") from error
    finally:
        pool.shutdown(cancel_futures=True)
        slots.close()
        path.unlink()


def _next(waiting: deque[tuple[Future[LinkRecords], int | None]], free: list[int]) -> LinkRecords:
    future, slot = waiting.popleft()
    records = future.result()
    if slot is not None:
        free.append(slot)
    return records


def _judge_here(block: Block, is_url_list: bool, label: str) -> LinkRecords:
    if block.pieces is None:
        return too_long(block.first, MAX_LINE_BYTES, label)
    return (judge_urls if is_url_list else judge_dump)(b"".join(block.pieces), block.first, label)


_slots: mmap.mmap | None = None
"""In a child: the blocks."""


def _start_child(path: str) -> None:
    global _slots
    die_with_parent()
    die_with_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops, and ends its children
    gc.disable()  # rows hold no cycles
    with Path(path).open("rb") as file:
        _slots = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _judge_slot(start: int, end: int, first: int, is_url_list: bool, label: str) -> LinkRecords:
    assert _slots is not None, "runs in a child only"
    return (judge_urls if is_url_list else judge_dump)(_slots[start:end], first, label)
