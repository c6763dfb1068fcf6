"""The cost of a crawl to its process: CPU and wall seconds of a block, and the peak memory of the process."""

from __future__ import annotations

import json
import resource
import time
from types import TracebackType
from typing import Any, Self

from benchmarks.machine import peak_rss_mb


def cpu_s() -> float:
    """User and system seconds of this process and its ended children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


class Stopwatch:
    """``with Stopwatch() as stopwatch: ...``; then ``print_result`` prints the JSON line."""

    def __enter__(self) -> Self:
        self.cpu_s = -cpu_s()
        self.wall_s = -time.monotonic()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.cpu_s += cpu_s()
        self.wall_s += time.monotonic()

    def print_result(self, pages: int, **more: Any) -> None:
        cost = {"cpu_s": round(self.cpu_s, 3), "wall_s": round(self.wall_s, 3), "peak_rss_mb": peak_rss_mb()}
        print(json.dumps({"pages": pages} | cost | more), flush=True)
