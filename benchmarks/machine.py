"""What the numbers of a benchmark were measured on, and what this process held."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The system, its cores and the interpreter, for the JSON line."""
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def peak_rss_mb() -> float:
    """The high-water mark since the program was loaded; ru_maxrss would hold that of the process it came from too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)
