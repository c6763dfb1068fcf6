"""Child processes that never outlive the process that started them."""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(signal_number: int = signal.SIGKILL) -> None:
    """Ask the kernel to signal this process when the thread that started it ends (prctl(2)); Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)


def die_with_main_process() -> None:
    """Kill this child of multiprocessing (spawn or fork server) when the main process ends.

    The fork server's end cannot be the signal, since the server lives as long as its children. The pipe to the main
    process becomes readable when that process ends. The kernel then sends SIGIO, which kills by default.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child only"
    fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    if not parent.is_alive():
        os._exit(1)
