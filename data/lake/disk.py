"""What a lake needs from a file system: scratch folders, and files that survive a crash once they have a name."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())


def new_scratch(parent: Path | None) -> Path:
    """A new folder, named after this process. Without ``parent`` it lies where the system keeps temporary files."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{_HOST}-{os.getpid()}-", dir=parent))


def sweep_scratch(parent: Path) -> None:
    """Remove the scratch folders that killed processes of this host left behind. Other hosts may share the lake."""
    for folder in parent.glob(f"{_HOST}-*"):
        if not _is_alive(int(folder.name.removeprefix(f"{_HOST}-").partition("-")[0])):
            shutil.rmtree(folder, ignore_errors=True)


def move_file(local: Path, target: Path) -> None:
    """Make the file durable, then give it its name."""
    _sync_files([local])
    target.parent.mkdir(parents=True, exist_ok=True)
    local.replace(target)
    _sync_folder(target.parent)


def move_folder(local: Path, target: Path, files: Iterable[Path]) -> None:
    """Make the folder and its ``files`` durable, then give the folder its name. It replaces one of the same name."""
    _sync_files(files)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync_folder(local)
    if target.exists():
        shutil.rmtree(target)
    local.replace(target)
    _sync_folder(target.parent)


def move_new_folder(local: Path, target: Path) -> None:
    """Make the folder and everything in it durable, then give it its name. Only an empty folder may have that name."""
    inside = [*local.rglob("*")]
    _sync_files(path for path in inside if path.is_file())
    for folder in (local, *(path for path in inside if path.is_dir())):
        _sync_folder(folder)
    local.rename(target)
    _sync_folder(target.parent)


def _sync_files(paths: Iterable[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
