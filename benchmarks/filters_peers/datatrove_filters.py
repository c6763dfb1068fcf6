"""What datatrove's filters say about texts. Runs by itself, with an interpreter that has datatrove.

    python benchmarks/filters_peers/datatrove_filters.py < texts.json

Standard input is a JSON list of texts. The last line of standard output is JSON: for each filter the reasons, null
for a text that it keeps, and ``cpu_s``, with each text split into words once for all filters.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import split_into_words

FILTERS: dict[str, Any] = {
    "GopherQualityFilter": GopherQualityFilter(),
    "GopherRepetitionFilter": GopherRepetitionFilter(),
    "C4QualityFilter": C4QualityFilter(filter_no_terminal_punct=False),  # as FineWeb uses it
    "FineWebQualityFilter": FineWebQualityFilter(),
    "FineWebQualityFilter, paper's limit": FineWebQualityFilter(char_duplicates_ratio=0.1),
}


@functools.cache
def _words(text: str, language: str) -> list[str]:
    return split_into_words(text, language)


def main() -> None:
    texts = json.load(sys.stdin)
    for judge in FILTERS.values():
        judge.filter(Document(text="It loads its word splitter at the first call. It does.", id=""))
    for judge in FILTERS.values():  # each would split every text into words again, which takes most of the time
        module = sys.modules[type(judge).__module__]
        if hasattr(module, "split_into_words"):
            module.split_into_words = _words
    found: dict[str, Any] = {}
    started = time.process_time()
    for name, judge in FILTERS.items():
        found[name] = []
        for text in texts:
            answer = judge.filter(Document(text=text, id=""))
            found[name].append(None if answer is True else answer[1] if isinstance(answer, tuple) else "dropped")
    found["cpu_s"] = time.process_time() - started
    print(json.dumps(found))


if __name__ == "__main__":
    main()
