"""Locks of the lake: one writer at a time, whatever the process or the machine.

On disk a file lock, which the kernel releases with its process, so that one that was killed holds up nobody. An object
store has no such thing: there it is a lease, an object that is created only if it is absent, renewed from a thread, and
taken over when it was not renewed for ``LEASE_S``. After a kill the next writer there is refused for that long at most.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock
import fsspec
import orjson

from data.errors import InputError
from data.lake.manifest import canonical_json

LEASE_S = 60.0  # a lease that was not renewed for this long is taken over


@contextlib.contextmanager
def file_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock ``name`` of a folder on disk. Raises InputError if another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"{name}: another webtext process is writing it; wait for it or stop it") from error
    try:
        yield
    finally:
        lock.release()


class Lease:
    """As ``file_lock``, for a folder of an object store."""

    def __init__(self, fs: fsspec.AbstractFileSystem, folder: str, name: str) -> None:
        self.fs, self.path, self.name, self.owner = fs, f"{folder}/{name}.json", name, uuid.uuid4().hex

    def __enter__(self) -> None:
        for attempt in (0, 1):
            try:
                self.fs.pipe_file(self.path, self._body(), mode="create")
                break
            except FileExistsError as error:
                self.fs.invalidate_cache()
                age = time.time() - float(orjson.loads(self.fs.cat_file(self.path))["renewed"])
                if attempt or age < LEASE_S:
                    message = f"{self.name}: another webtext process is writing it (lease {age:.0f} s old)"
                    raise InputError(message) from error
                self.fs.rm_file(self.path)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._renew, daemon=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.fs.rm_file(self.path)

    def _renew(self) -> None:
        while not self.stop.wait(LEASE_S / 4):
            with contextlib.suppress(OSError):  # tried again: the lease outlives three failures
                self.fs.pipe_file(self.path, self._body())

    def _body(self) -> bytes:
        return canonical_json({"owner": self.owner, "renewed": time.time()})
