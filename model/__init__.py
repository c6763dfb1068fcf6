"""GPT-2: training, evaluation, tracking.

Importing the package limits how long torch's threads spin, if other programs keep half of the cores busy. libgomp reads
the limit when torch loads it, so it must be in the environment by then, and child processes inherit it. By default a
thread that waits for another one spins 300,000 times, about 20 ms. On a shared core the other thread cannot run
meanwhile, and training becomes several times slower than its share of the cores. On idle cores the long spin is up to a
sixth faster, so there it stays (docs/benchmarks.md).
"""

import os
from pathlib import Path

SPIN_COUNT = 1_000  # less than 0.1 ms; libgomp's own choice when it has more threads than cores


def others_are_busy(loadavg: str, cores: int) -> bool:
    """Whether as many other threads as half of the cores are runnable now. ``loadavg``: Linux's /proc/loadavg."""
    runnable = int(loadavg.split()[3].partition("/")[0])  # this thread is one of them
    return runnable - 1 >= cores / 2


_LOADAVG = Path("/proc/loadavg")
_IS_DECIDED = bool({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys())  # by the user, or by a parent process
if not _IS_DECIDED and _LOADAVG.exists() and others_are_busy(_LOADAVG.read_text(), os.cpu_count() or 1):
    os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
