"""datatrove from WARC files to token shards, with two workers. Runs in datatrove's own virtual environment.

    python -m benchmarks.data_peers.datatrove_pipeline WARC_FOLDER OUT TOKENIZER '{"include_comments": false, ...}'

The pipeline of its examples: WarcReader, Trafilatura, the Gopher filters, MinHash in four steps, DocumentTokenizer.
Where datatrove leaves a choice, it is the faster one: signatures in the first step, uncompressed JSONL between the
steps, workers made by fork. MinHash has 112 permutations in 14 bands of 8, on 5-grams, as ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.readers import JsonlReader, WarcReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter

from data.process import die_with_parent

WORKERS = 2
TIMEOUT_S = 30.0  # as ours; its own default of one second drops slow pages


class SameOptions(Trafilatura):
    """Extracts metadata as ours does. datatrove's own would print them above the text, where they spoil the filters."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(timeout=TIMEOUT_S, options=options)

    def extract(self, text: str) -> str:
        from trafilatura import bare_extraction

        document = bare_extraction(text, **self.kwargs["options"])
        return (document.text or "") if document is not None else ""


def main() -> None:
    die_with_parent()
    warcs, out, tokenizer = sys.argv[1:4]
    options: dict[str, Any] = json.loads(sys.argv[4])
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    texts, signed, pairs, dropped = (f"{out}/{name}" for name in ("texts", "signatures", "pairs", "dropped"))
    steps = [
        (
            WORKERS,
            [
                WarcReader(warcs, glob_pattern="*.warc.gz"),
                SameOptions(options=options),
                GopherRepetitionFilter(),
                GopherQualityFilter(),
                JsonlWriter(texts, compression=None),
                MinhashDedupSignature(signed, config),
            ],
        ),
        (config.num_buckets, [MinhashDedupBuckets(signed, pairs, config=config)]),
        (1, [MinhashDedupCluster(pairs, dropped, config=config)]),
        (
            WORKERS,
            [
                JsonlReader(texts, compression=None),
                MinhashDedupFilter(dropped),
                DocumentTokenizer(f"{out}/tokens", tokenizer, eos_token="<|endoftext|>", seed=0),
            ],
        ),
    ]
    for number, (tasks, pipeline) in enumerate(steps):
        LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=min(tasks, WORKERS), logging_dir=f"{out}/log{number}", start_method="fork"
        ).run()
    stats = [json.loads(Path(out, f"log{number}", "stats.json").read_text()) for number in range(len(steps))]
    index = [path.stat().st_size // 8 for path in Path(out, "tokens").glob("*.index")]
    shards = [path.stat().st_size // 2 for path in Path(out, "tokens").glob("*.ds")]
    read = stats[0][0]["stats"]["documents"]
    result = {
        "pages": read["total"] if isinstance(read, dict) else read,
        "steps": {step["name"]: step["stats"] for several in stats for step in several},
        "documents": sum(index),
        "tokens": sum(shards),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
