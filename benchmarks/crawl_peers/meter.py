"""What a crawl cost the process that ran it: CPU and wall seconds of a block, and the peak memory of the process."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def cpu_s() -> float:
    """User and system seconds of this process and of its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def peak_rss_mb() -> float:
    """The high-water mark since the program was loaded; ru_maxrss would hold that of the process it came from too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


class Meter:
    """``with Meter() as meter: ...``; then ``print_result`` writes the one JSON line a peer ends with."""

    def __enter__(self) -> Self:
        self.cpu_s, self.wall_s = -cpu_s(), -time.monotonic()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.cpu_s += cpu_s()
        self.wall_s += time.monotonic()

    def print_result(self, pages: int, **more: Any) -> None:
        cost = {"cpu_s": round(self.cpu_s, 3), "wall_s": round(self.wall_s, 3), "peak_rss_mb": round(peak_rss_mb(), 1)}
        print(json.dumps({"pages": pages} | cost | more), flush=True)
