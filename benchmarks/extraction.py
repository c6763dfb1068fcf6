"""The quality of text extraction: word precision, recall and F1 against the hand-marked articles of 181 news pages.

    python benchmarks/extraction.py [--pages DIR] [--favor balanced|precision|recall]

A word is a run of ``\\w`` characters, case folded. For each page we compare the extracted words with the article's as
multisets. Precision is the share of the extracted words that are in the article, recall the share of the article's
words that were extracted, and F1 their harmonic mean (0 if no word is shared). The figures are means over the pages, so
long and short ones count the same. The child processes of the text stage extract the pages, as in a crawl. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import machine
from data.config import TextConfig
from data.text.extract import Extracted, extract
from data.text.stage import extract_all

PAGES = Path(__file__).parents[1].parent / "shared" / "data" / "pages"
_WORD = re.compile(r"\w+")


def score(extracted: str, gold: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the words on one page."""
    ours, theirs = (Counter(_WORD.findall(text.casefold())) for text in (extracted, gold))
    shared = (ours & theirs).total()
    if not shared:
        return 0.0, 0.0, 0.0
    precision, recall = shared / ours.total(), shared / theirs.total()
    return precision, recall, 2 * precision * recall / (precision + recall)


def run(pages: Path, config: TextConfig) -> dict[str, Any]:
    """Mean precision, recall and F1, the number of pages with and without text, pages/s, and peak memory."""
    gold = json.loads((pages / "ground-truth.json").read_text())
    peak_bytes = 0

    def jobs() -> Iterator[functools.partial[Extracted]]:
        nonlocal peak_bytes
        for name, page in gold.items():
            peak_bytes = max(peak_bytes, _resident_bytes())
            body = gzip.decompress((pages / "html" / f"{name}.html.gz").read_bytes())
            yield functools.partial(extract, body, None, page["url"], config.favor)

    started = time.monotonic()
    outcomes = list(extract_all(jobs(), config))
    seconds = time.monotonic() - started
    scores = [score(o.text or "", page["articleBody"]) for o, page in zip(outcomes, gold.values(), strict=True)]
    precision, recall, f1 = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(f1, 4),
        "pages": len(scores),
        "without_text": sum(outcome.text is None for outcome in outcomes),
        "pages_per_s": round(len(scores) / seconds, 1),
        "peak_rss_mb": round(peak_bytes / 2**20, 1),
    }


def _resident_bytes() -> int:
    """Resident memory of this process and its descendants. Counts shared pages once per process."""
    total = 0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", type=Path, default=PAGES, help="directory with ground-truth.json and html/*.html.gz")
    parser.add_argument("--favor", default=TextConfig().favor, choices=["balanced", "precision", "recall"])
    arguments = parser.parse_args()
    if not (arguments.pages / "ground-truth.json").is_file():
        parser.error(f"--pages {arguments.pages}: no ground-truth.json there; name the folder of the pages")
    ours = run(arguments.pages, TextConfig(favor=arguments.favor))
    print(
        f"extraction, favor {arguments.favor}: precision {ours['precision']:.4f} recall {ours['recall']:.4f} "
        f"F1 {ours['f1']:.4f} of words, {ours['pages']} pages ({ours['without_text']} without text), "
        f"{ours['pages_per_s']} pages/s"
    )
    result = {
        "bench": "extraction",
        "ratios": {},
        "ours": ours,
        "peers": {},
        "peak_rss_mb": ours.pop("peak_rss_mb"),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
