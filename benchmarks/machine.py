"""The machine that a benchmark runs on, and the memory of this process."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The system, its cores and the interpreter, for the JSON line."""
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def peak_rss_mb() -> float:
    """The peak resident memory of this program. ru_maxrss would include the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)
