"""The peer reads a dump like the common scripts for Pushshift's dumps.

    python benchmarks/links_peers/pushshift.py DUMP.zst

It uses zstandard's stream reader, text lines and ``json.loads``, and keeps a few fields of link submissions with 3
points or more. It does not parse URLs. Prints one JSON line.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from pathlib import Path

import zstandard


def main(path: str) -> None:
    started, cpu_started = time.perf_counter(), time.process_time()
    n_lines, kept = 0, []
    with Path(path).open("rb") as file:
        reader = zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(file)
        for line in io.TextIOWrapper(reader, encoding="utf-8"):
            n_lines += 1
            item = json.loads(line)
            if item.get("is_self") or item["score"] < 3:
                continue
            kept.append((item["id"], item["url"], item["score"], item["subreddit"], item["created_utc"]))
    seconds = time.perf_counter() - started
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu_s = time.process_time() - cpu_started
    result = {"lines": n_lines, "kept": len(kept), "seconds": seconds, "cpu_s": cpu_s, "rss_mb": rss_mb}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
