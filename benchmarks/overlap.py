"""The search for 8-grams of evaluation sets in documents, beside a plain loop over the words.

    python -m benchmarks.overlap [--documents 2000] [--words 700] [--grams 600000] [--repeats 5] [--quick]

Ours is data/overlap/grams.py with a Bloom filter, on documents in Arrow's memory, in batches of 64. The peer splits a
document by a regular expression and looks every 8-gram up in a Python set. The filter holds as many 8-grams as LAMBADA
and WikiText-2 have together; none is in the documents. The two take turns; times are CPU time, the median of the
repeats and the least, because other programs on the machine slow the cache down. A ratio is the peer's time divided by
ours. Reading the texts from Parquet is measured apart. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import machine, peak_rss_mb
from benchmarks.tokens import documents
from data.lake.store import write_parquet
from data.overlap.grams import GRAM_WORDS, BloomFilter, grams
from data.overlap.stage import BATCH_DOCUMENTS

WORD = re.compile(r"[^\W_]+")


def ours(texts: pa.StringArray, bloom: BloomFilter) -> int:
    found = 0
    for start in range(0, len(texts), BATCH_DOCUMENTS):
        found += len(bloom.find(grams(texts.slice(start, BATCH_DOCUMENTS)).hashes))
    return found


def plain(texts: list[str], known: set[str]) -> int:
    found = 0
    for text in texts:
        words = WORD.findall(text.lower())
        found += sum(" ".join(words[n : n + GRAM_WORDS]) in known for n in range(len(words) - GRAM_WORDS + 1))
    return found


def cpu_us(call: Callable[[], int], n_documents: int) -> float:
    began = time.process_time()
    call()
    return (time.process_time() - began) / n_documents * 1e6


def measure(n_documents: int, n_words: int, n_grams: int, repeats: int) -> dict[str, Any]:
    texts = documents(n_documents, n_words)
    column = pa.array(texts, pa.string())
    random = np.random.default_rng(0)
    bloom = BloomFilter(random.integers(2**64 - 1, size=n_grams, dtype=np.uint64))
    known = {f"gram {n}" for n in range(n_grams)}
    grams(column[:1])  # makes the table of letters
    some = texts[: max(1, n_documents // 20)]
    times: dict[str, list[float]] = {"ours": [], "loop": [], "reading": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.parquet"
        write_parquet(pa.table({"text": column}), file)
        for _ in range(repeats):
            times["loop"].append(cpu_us(lambda: plain(some, known), len(some)))
            times["ours"].append(cpu_us(lambda: ours(column, bloom), n_documents))
            times["reading"].append(cpu_us(lambda: len(pq.read_table(file, use_threads=False)), n_documents))
    found = {
        name: {"us_per_document": round(median(some), 1), "least": round(min(some), 1)} for name, some in times.items()
    }
    for name, one in found.items():
        print(f"  {name:8} {one['us_per_document']:8.1f} us of CPU per document, {one['least']:.1f} at least")
    mine = {**found.pop("ours"), "reading": found.pop("reading")}
    ratio = found["loop"]["us_per_document"] / mine["us_per_document"]
    return {
        "bench": "overlap",
        "ratios": {"loop": round(ratio, 1)},
        "ours": mine,
        "peers": found,
        "peak_rss_mb": peak_rss_mb(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=2_000)
    parser.add_argument("--words", type=int, default=700, help="per document")
    parser.add_argument("--grams", type=int, default=600_000, help="8-grams in the filter")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, not how fast it is")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.documents = 40
        arguments.grams = 1_000
        arguments.repeats = 1
    print(json.dumps(measure(arguments.documents, arguments.words, arguments.grams, arguments.repeats)))


if __name__ == "__main__":
    main()
