"""Child processes that extract pages, and what the end of a child says about its page.

A child has one page at a time and a pipe of its own, so a child that is killed spoils nothing for the others. The
kernel limits its memory (RLIMIT_AS) and the CPU time of each page (ITIMER_PROF). Time during which the child was
stopped, the machine slept or other programs had the cores is no CPU time.

A page is tried twice before its row says that it was too slow or crashed the extractor. The second try has a fresh
child, so it does not depend on the pages before. After a crash no other page is extracted beside it, so it has the
machine's memory.

=============================  ==========================================================================
the child ends by              it says
=============================  ==========================================================================
SIGPROF                        the page used up its CPU time
SIGSEGV, SIGABRT .., exit      the page crashed the extractor, or exceeded the memory limit
SIGKILL, SIGTERM ..            nothing about the page: someone killed it, or the kernel when memory ran out
the end of the fork server     nothing about the page
=============================  ==========================================================================

A page whose second child is ended from outside too fails the part: KilledError. The same is true of children that stop
making progress.

Children are forked from a server that has imported the extractor (data/text/preload.py), so a new child costs
milliseconds. They end with the process that started them, even if it is killed.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from data.config import TextConfig
from data.errors import KilledError, refuse_when_stopping
from data.process import die_with_main_process, die_with_parent
from data.schema import TextStatus
from data.text.extract import Extracted

STILL_S = 30.0  # a child with a page that uses no CPU time for this long, at most twice this long, is replaced
START_TRIES = 3  # a fork server that was just killed refuses a child before it is seen to be dead

# What parsers die of. Any other signal comes from outside.
_OWN = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP}
_NO_SERVER = 255  # multiprocessing's exit code of a child whose fork server is gone

_start_or_reap = threading.Lock()
"""multiprocessing misreports an exit code that two threads read at once, and starting a child reads all of them."""

Work = Callable[[], Extracted]


class Extractors:
    """At most ``config.workers`` children. A context manager; leaving it ends the children and what waits for them."""

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self.n_workers = config.workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self.n_workers, thread_name_prefix="extractor")
        self._slots = threading.Semaphore(self.n_workers)
        self._alone_lock = threading.Lock()
        self._mutex = threading.Lock()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="extractors", daemon=True)

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with self._mutex:
            for child in self._children:
                child.kill()  # which ends the thread that waits for it
        self._threads.shutdown(cancel_futures=True)
        self._watchdog.join()
        for child in self._children:
            child.end()

    def submit(self, work: Work) -> Future[Extracted]:
        """The result to come. It raises KilledError if the page's children were ended from outside."""
        return self._threads.submit(self._extract, work)

    def _extract(self, work: Work) -> Extracted:
        with self._slots:
            first = self._try(work, is_second=False)
        if isinstance(first, Extracted) and first.status != TextStatus.CRASHED:
            return first
        with self._slots if first == -signal.SIGPROF else self._alone():
            second = self._try(work, is_second=True)
        if isinstance(second, Extracted):
            return second
        if second == -signal.SIGPROF:
            return Extracted(TextStatus.TIMEOUT, f"more than {self.config.timeout_s:g} s")
        if _is_own(second):
            return Extracted(TextStatus.CRASHED, f"the extracting process ended {_how(second)}")
        raise KilledError(
            f"the process that extracts a page ended {_how(second)}, twice in a row (out of memory?): free memory or "
            "lower `workers`, and run the same command again to go on from there"
        )

    def _try(self, work: Work, *, is_second: bool) -> Extracted | int:
        """The result, or the exit code of the child that died. A second try has a fresh child."""
        child = self._take(fresh=is_second)
        outcome = child.extract(work)
        is_done = outcome is not None and outcome.status != TextStatus.CRASHED
        if is_done and not is_second and child.n_pages < self.config.pages_per_child:
            with self._mutex:
                self._idle.append(child)
        else:
            code = child.end()
            with self._mutex:
                self._children.discard(child)
        if outcome is not None:
            return outcome
        self._check_open()
        return code

    def _take(self, *, fresh: bool) -> _Child:
        self._check_open()
        with self._mutex:
            if self._idle and not fresh:
                return self._idle.pop()
            spare, self._idle = self._idle, []  # they keep memory, and one more child would be one too many
            self._children.difference_update(spare)
        for one in spare:
            one.end()
        child = self._start()
        with self._mutex:
            self._children.add(child)
        self._check_open()  # __exit__ may have missed it
        return child

    def _start(self) -> _Child:
        for n_left in reversed(range(START_TRIES)):
            self._check_open()
            try:
                return _Child(self.config)
            except (OSError, EOFError) as error:
                if not n_left:
                    raise KilledError(
                        "a process that extracts pages was killed while it started (out of memory?): run the same "
                        "command again to go on from there"
                    ) from error
            self._closed.wait(0.2)
        raise AssertionError("unreachable")

    def _check_open(self) -> None:
        refuse_when_stopping()
        if self._closed.is_set():
            raise KilledError("extraction was abandoned")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, no other page is being extracted."""
        with self._alone_lock, contextlib.ExitStack() as stack:
            for _ in range(self.n_workers):
                stack.enter_context(self._slots)
            yield

    def _watch(self) -> None:
        """Kill children that make no progress: someone has stopped them, or they wait for what never comes."""
        before: dict[_Child, tuple[int, float]] = {}
        while not self._closed.wait(STILL_S):
            with self._mutex:
                children = list(self._children)
            now = {child: progress for child in children if (progress := child.progress())}
            for child, progress in now.items():
                if before.get(child) == progress:
                    child.kill()
            before = now


class _Child:
    """A child process that waits for pages. Raises OSError or EOFError if it does not start."""

    def __init__(self, config: TextConfig) -> None:
        context = multiprocessing.get_context("forkserver")
        # Without __main__ each child would import the caller's script again.
        context.set_forkserver_preload(["__main__", "data.text.preload"])
        self.n_pages = 0
        self.is_busy = False
        self._pipe, its_pipe = context.Pipe()
        arguments = (its_pipe, config.timeout_s, config.worker_memory_bytes)
        self._process = context.Process(target=_serve, args=arguments, name="extractor", daemon=True)
        try:
            with its_pipe, _start_or_reap:
                self._process.start()
            self._pipe.recv()
        except BaseException:
            self.end()
            raise

    def extract(self, work: Work) -> Extracted | None:
        """The result of the work; None if the child died."""
        self.n_pages += 1
        self.is_busy = True
        try:
            self._pipe.send(work)
            result: Extracted = self._pipe.recv()
            return result
        except (OSError, EOFError):
            return None
        finally:
            self.is_busy = False

    def progress(self) -> tuple[int, float] | None:
        """The number of the page and the CPU time used, in seconds; None if the child has nothing to do."""
        try:
            used = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return None
        return (self.n_pages, used.user + used.system) if self.is_busy else None

    def kill(self) -> None:
        if self._process.pid is not None:
            self._process.kill()

    def end(self) -> int:
        """Kill the child if it still lives; returns its exit code."""
        with _start_or_reap:
            if self._process.pid is not None:
                self._process.kill()
                self._process.join()
        self._pipe.close()
        return _NO_SERVER if self._process.exitcode is None else self._process.exitcode


def _is_own(code: int) -> bool:
    """Whether a child with this exit code died of its page."""
    return code != _NO_SERVER if code >= 0 else -code in _OWN


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _serve(pipe: Connection, timeout_s: float, memory_bytes: int) -> None:
    """What a child does: extract one page after the other until the pipe is closed."""
    _prepare(memory_bytes)
    pipe.send(None)
    try:
        while True:
            work: Work = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, timeout_s)
            extracted = work()
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(extracted)
    except EOFError:
        return
    except MemoryError:  # there may be no memory left to report it
        os._exit(1)


def _prepare(memory_bytes: int) -> None:
    """Make the child ready for its first page."""
    die_with_parent()  # the fork server
    die_with_main_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for name in ("trafilatura", "htmldate", "charset_normalizer"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the page's row reports its errors
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
