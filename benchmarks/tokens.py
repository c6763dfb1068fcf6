"""The tokens stage beside tiktoken's own batch encoding of the same texts, with one thread per core.

    python -m benchmarks.tokens [--documents 8000] [--words 700] [--repeats 3] [--threads N] [--quick]

Ours is the whole stage, a thread per core: text and verdicts are read from Parquet, encoded, cut into pieces, put into
shards in the order of hashes, written, hashed and synchronised to disk. The peer is ``encode_ordinary_batch`` with as
many threads on texts that are in memory already, and its lists of integers are thrown away. The two take turns. A ratio
is the peer's time divided by ours: above 1, ours is faster. CPU time is that of all threads. The texts are cut out of
Python's help topics. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.machine import machine, peak_rss_mb
from data import bpe
from data.config import TokensConfig
from data.lake.store import Lake, write_parquet
from data.schema import SELECT, TEXT
from data.stage import MakePart
from data.tokens import stage

PART_DOCUMENTS = 2_000  # selected documents of a text part


def documents(count: int, n_words: int) -> list[str]:
    """Texts of ``n_words`` words each, cut out of the help topics of Python at different places."""
    words = " ".join(topics.values()).split(" ")
    words += words[:n_words]
    starts = np.random.default_rng(0).integers(len(words) - n_words, size=count)
    return [" ".join(words[start : start + n_words]) for start in starts]


def publish(lake: Lake, snapshot: str, texts: list[str]) -> None:
    """The datasets that the stage reads, all documents selected."""
    names = []
    for stage_name, schema in (("text", TEXT), ("select", SELECT)):
        dataset = lake.dataset(stage_name, snapshot)
        dataset.begin({}, {})
        names = []
        for start in range(0, len(texts), PART_DOCUMENTS):
            some = texts[start : start + PART_DOCUMENTS]
            ids = [hashlib.sha256(f"{start + n}".encode()).digest()[:16] for n in range(len(some))]
            known = {"doc_id": ids, "status": ["ok"] * len(some), "text": some}
            columns = [known.get(name, [None] * len(some)) for name in schema.names]
            table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
            name = f"part-{len(names):05d}"
            with lake.scratch() as folder:
                write_parquet(table, folder / name)
                dataset.seal(name, {f"{name}.parquet": folder / name}, table, counts={"ok": len(some)})
            names.append(name)
        dataset.finish(names, {}, 0.0)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(n_documents: int, n_words: int, repeats: int, threads: int) -> dict[str, Any]:
    texts = documents(n_documents, n_words)
    encoding = bpe.encoding()
    n_tokens = sum(len(bpe.encode(text)) for text in texts)
    print(f"  {n_documents} documents, {n_tokens} tokens, {threads} threads", flush=True)

    def mapper(make_part: MakePart, names: Sequence[str]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(make_part, names))

    times: dict[str, list[tuple[float, float]]] = {"ours": [], "tiktoken": []}
    config = TokensConfig(shard_documents=max(1, n_documents // 4))
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        publish(lake, "bench", texts)
        for _ in range(repeats):
            times["tiktoken"].append(timed(lambda: encoding.encode_ordinary_batch(texts, num_threads=threads)))
            times["ours"].append(timed(lambda: stage.run(lake, "bench", config, mapper)))
            lake.remove("tokens", "bench")
    found = {
        name: {
            "wall_s": round(median(wall for wall, _ in some), 3),
            "cpu_s": round(median(cpu for _, cpu in some), 3),
            "tokens_per_s": round(n_tokens / median(wall for wall, _ in some)),
        }
        for name, some in times.items()
    }
    for name, one in found.items():
        print(f"  {name:10} {one['wall_s']:7.2f} s wall {one['cpu_s']:7.2f} s CPU {one['tokens_per_s']:>10,} tokens/s")
    ours = found.pop("ours")
    peer = found["tiktoken"]
    return {
        "bench": "tokens",
        "ratios": {name: round(peer[f"{name}_s"] / ours[f"{name}_s"], 2) for name in ("wall", "cpu")},
        "ours": ours,
        "peers": found,
        "peak_rss_mb": peak_rss_mb(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--documents", type=int, default=8_000)
    parser.add_argument("--words", type=int, default=700, help="per document")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it works, not how fast it is")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.documents = 60
        arguments.words = 100
        arguments.repeats = 1
    print(json.dumps(measure(arguments.documents, arguments.words, arguments.repeats, arguments.threads)))


if __name__ == "__main__":
    main()
