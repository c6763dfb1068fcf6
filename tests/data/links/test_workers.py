"""The end of a process that reads lines costs no line: the file is read again."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.errors import KilledError, stopping
from data.links import blocks, workers

LINES = [f"line {n}\n".encode() for n in range(400)]


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocks, "READ_BYTES", 16)


def signalled(number: int, mark: Path, lines: bytes | None) -> list[bytes]:
    """The lines. The first child that works on a block sends itself the signal."""
    if multiprocessing.parent_process() is None:
        time.sleep(0.02)  # so that the child has something to do
    elif not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getpid(), number)
    assert lines is not None
    return lines.splitlines(keepends=True)


def read(folder: Path, number: int) -> Iterator[list[bytes]]:
    path = folder / "lines"
    path.write_bytes(b"".join(LINES))
    with path.open("rb") as file:
        reader = blocks.BlockReader(path, file)
        work = functools.partial(signalled, number, folder / "mark")
        yield from workers.map_blocks(reader, work, folder, workers=2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_reader_fails_the_source(short_blocks: None, tmp_path: Path, number: signal.Signals) -> None:
    with pytest.raises(KilledError, match="run the same command again"):
        list(read(tmp_path, number))
    assert (tmp_path / "mark").exists()


def test_ctrl_c_in_the_terminal_does_not_reach_a_reader(short_blocks: None, tmp_path: Path) -> None:
    assert [line for lines in read(tmp_path, signal.SIGINT) for line in lines] == LINES
    assert (tmp_path / "mark").exists()


def test_a_reader_that_is_stopped_for_a_while_loses_no_line(short_blocks: None, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.wait(1):
            if mark.exists() and (pid := mark.read_text()):
                os.kill(int(pid), signal.SIGCONT)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert [line for lines in read(tmp_path, signal.SIGSTOP) for line in lines] == LINES
    finally:
        is_over.set()
        thread.join()
    assert mark.exists()


def test_reading_ends_when_the_process_is_asked_to_stop(short_blocks: None, tmp_path: Path) -> None:
    blocks_of_lines = read(tmp_path, signal.SIGINT)
    next(blocks_of_lines)
    stopping.set()
    try:
        with pytest.raises(KilledError, match="asked to stop"):
            list(blocks_of_lines)
    finally:
        stopping.clear()
