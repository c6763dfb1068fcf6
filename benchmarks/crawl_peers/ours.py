"""Our complete pages stage on an existing links dataset: robots.txt, limits, WARC files, rows, manifests.

    python -m benchmarks.crawl_peers.ours LAKE '{"host_delay_s": 0, ...}'     the fields of PagesConfig

``python -m benchmarks.crawl_peers.ours LAKE --links URLS`` makes that dataset with one part, so it is one crawl task.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas  # noqa: F401  # pyarrow imports it at its first comparison; not a cost of a page
import tldextract  # noqa: F401  # data.urls imports it at the first URL

from benchmarks.crawl_peers.stopwatch import Stopwatch
from data.config import LinksConfig, PagesConfig
from data.lake.store import Lake
from data.links import stage as links
from data.pages import stage as pages
from data.process import die_with_parent

SNAPSHOT = "bench"


def main() -> None:
    die_with_parent()
    lake = Lake(sys.argv[1])
    if sys.argv[2] == "--links":
        config = LinksConfig(part_links=1 << 30)
        with Stopwatch() as stopwatch:
            outcome = links.run(lake, SNAPSHOT, [f"urls:{sys.argv[3]}"], config)
    else:
        settings = json.loads(sys.argv[2])
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        with Stopwatch() as stopwatch:
            outcome = pages.run(lake, SNAPSHOT, PagesConfig(**settings))
    counts = outcome.manifest.counts
    size = sum(path.stat().st_size for path in Path(sys.argv[1], "pages").rglob("*.warc.gz"))
    stopwatch.print_result(counts.get("ok", 0), counts=counts, digest=outcome.manifest.digest, warc_bytes=size)


if __name__ == "__main__":
    main()
