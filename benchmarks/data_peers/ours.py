"""Our stages on a prepared lake, two parts at once (text: two child processes), as a refresh runs them on two cores.

python -m benchmarks.data_peers.ours LAKE text,select,tokens
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.data_corpus import SNAPSHOT
from data.config import SelectConfig, TextConfig, TokensConfig
from data.lake.store import Lake
from data.process import die_with_parent
from data.select import stage as select
from data.stage import MakePart, StageResult
from data.text import stage as text
from data.tokens import stage as tokens

WORKERS = 2


def two_at_once(make_part: MakePart, names: Sequence[str]) -> None:
    """A mapper with the threads that a refresh has."""
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(make_part, names))


def main() -> None:
    die_with_parent()
    lake = Lake(sys.argv[1])
    stages: dict[str, Callable[[], StageResult]] = {
        "text": lambda: text.run(lake, SNAPSHOT, TextConfig(workers=WORKERS)),
        "select": lambda: select.run(lake, SNAPSHOT, None, SelectConfig(), two_at_once),
        "tokens": lambda: tokens.run(lake, SNAPSHOT, TokensConfig(), two_at_once),
    }
    result: dict[str, Any] = {"seconds": {}, "counts": {}}
    for name in sys.argv[2].split(","):
        started = time.monotonic()
        manifest = stages[name]().manifest
        result["seconds"][name] = round(time.monotonic() - started, 2)
        result["counts"][name] = manifest.counts
        result.setdefault("pages", manifest.rows_in)
    result["documents"] = manifest.rows_out
    result["tokens"] = manifest.extra["train_tokens"] + manifest.extra["val_tokens"]
    result["digest"] = manifest.digest
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
