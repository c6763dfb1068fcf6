"""Locks of the lake: one writer at a time, across processes and machines.

A lake on disk uses a file lock. The kernel releases it when its process ends, so a killed process blocks nobody.

An object store has no such lock, so there it is a lease: an object that names its owner and the time of its last
renewal. The owner renews it from a thread. Anyone may take over a lease that was not renewed for ``LEASE_S``, so after
a kill the next writer waits that long at most. An owner reads the lease before it writes it, and gives up once it
finds another owner there. On S3 the write also carries the ETag that was read, so the store refuses it if the lease
changed in between; elsewhere two processes that take over the same stale lease at the same instant may both succeed,
and the first one learns of it at its next renewal. A lease is never deleted, only marked as released.

Before a process writes or removes something, it checks the leases that it holds. If one was not renewed for half of
``LEASE_S``, because the store or the process was away, it is renewed first, or nothing is written.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import filelock
import fsspec
import orjson

from data.errors import InputError, StoreError
from data.lake import objects
from data.lake.manifest import canonical_json

LEASE_S = 60.0  # a lease that was not renewed for this long may be taken over


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
    """A lock in a folder of an object store. Raises InputError if another process holds it.

    Once another process took it over, ``check`` and the end of the ``with`` block raise InputError.
    """

    def __init__(self, fs: fsspec.AbstractFileSystem, folder: str, name: str) -> None:
        self.fs = fs
        self.folder = folder
        self.path = f"{folder}/{name}.json"
        self.url = fs.unstrip_protocol(self.path)
        self.name = name
        self.owner = uuid.uuid4().hex
        self.renewed = 0.0
        self.is_lost = False
        self.mutex = threading.Lock()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Self:
        objects.ask(lambda: _twice(self._take), self.url)
        self.thread.start()
        with _held_mutex:
            _held.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with _held_mutex:
            _held.remove(self)
        self.stop.set()
        self.thread.join()
        with contextlib.suppress(Exception):  # the work is done or has failed already; the lease expires by itself
            self._renew(0.0)
        if kind is None:
            self._refuse_lost()

    def check(self) -> None:
        """Raise InputError if another process took the lease. Asks the store only if a renewal is overdue.

        Raises StoreError if the store does not answer then.
        """
        if time.time() - self.renewed > LEASE_S / 2:  # the rest is for clocks that differ, and for the publication
            self._renew(time.time())
        self._refuse_lost()

    def _refuse_lost(self) -> None:
        if self.is_lost:
            raise InputError(
                f"{self.name}: this process lost its lock, because it could not renew it for {LEASE_S:.0f} s; another "
                "webtext process may be writing there: wait for it to end, then run the same command again"
            )

    def _take(self) -> None:
        now = time.time()
        found = self._read()
        if found is None:
            self._write(now, mode="create")
            return
        lease, condition = found
        age = now - float(lease["renewed"])
        if age < LEASE_S and lease["owner"] != self.owner:
            raise InputError(
                f"{self.name}: another webtext process is writing it (it renewed its lock {max(0.0, age):.0f} s ago); "
                f"wait for it or stop it; if it was killed, its lock ends in {LEASE_S - age:.0f} s"
            )
        self._write(now, **condition)

    def _keep(self) -> None:
        while not self.is_lost and not self.stop.wait(LEASE_S / 4):
            with contextlib.suppress(Exception):  # tried again; ``check`` raises what lasts
                self._renew(time.time())

    def _renew(self, time_: float) -> None:
        """Set the time of renewal (0 releases the lease), or find that it was lost."""
        with self.mutex:
            objects.ask(lambda: _twice(lambda: self._write_own(time_)), self.url, waits_s=())

    def _write_own(self, time_: float) -> None:
        found = self._read()
        if found is None or found[0]["owner"] != self.owner:
            self.is_lost = True
        else:
            self._write(time_, **found[1])

    def _read(self) -> tuple[dict[str, Any], dict[str, str]] | None:
        """The lease, and the condition under which a write replaces exactly this version; None if there is no lease."""
        self.fs.invalidate_cache(self.path)
        try:
            info = self.fs.info(self.path)
            lease = orjson.loads(self.fs.cat_file(self.path))
            float(lease["renewed"]), str(lease["owner"])
        except FileNotFoundError:
            return None
        except (orjson.JSONDecodeError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.url}: damaged; if no webtext process is writing this lake, remove this file and run again"
            ) from error
        return lease, {"IfMatch": info["ETag"]} if objects.is_s3(self.fs) else {}

    def _write(self, time_: float, **condition: str) -> None:
        self.fs.pipe_file(self.path, canonical_json({"owner": self.owner, "renewed": time_}), **condition)
        self.renewed = time_


_held: list[Lease] = []  # by this process: parts are made in threads, each with its own Lake
_held_mutex = threading.Lock()


def check_held(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Call ``check`` of every lease that this process holds in this folder."""
    with _held_mutex:
        held = [lease for lease in _held if lease.folder == folder and lease.fs.protocol == fs.protocol]
    for lease in held:
        lease.check()


def _twice(act: Callable[[], None]) -> None:
    """Read the lease and write it. If it changed in between, the write fails, and the second look finds out why."""
    try:
        act()
    except Exception as error:
        found = objects.store_error(error, "")
        if not isinstance(found, StoreError) or not found.is_conflict:
            raise
        act()
