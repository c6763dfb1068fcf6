"""Pages whose main text people have marked: the handed sets, their digest, and how a text is scored against one.

A word is a run of ``\\w`` characters, case folded. For each page the extracted words are compared with the marked ones
as multisets: precision is the share of the extracted words that are marked, recall the share of the marked words that
were extracted, and F1 their harmonic mean (0 if no word is shared).
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from data.urls.canonical import domain_of

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
KINDS = ("article", "service", "forum", "collection", "product", "listing", "documentation", "news")

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Page:
    """One page and its marked text. ``news`` is the kind of the set of news pages."""

    name: str
    kind: str
    url: str
    file: Path  # gzip
    gold: str

    @property
    def domain(self) -> str:
        """The registrable domain; the URL itself for the pages whose URL has no host."""
        try:
            return domain_of(self.url)
        except ValueError:
            return self.url

    def body(self) -> bytes:
        return gzip.decompress(self.file.read_bytes())


@functools.cache
def pages(folder: Path = SHARED) -> list[Page]:
    """The pages of ``wcxb/`` and ``pages/``. Raises FileNotFoundError if a set is not there."""
    found = []
    with gzip.open(folder / "wcxb" / "gold.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            file = folder / "wcxb" / "html" / f"{row['id']}.html.gz"
            found.append(Page(row["id"], row["type"], row["url"], file, row["text"]))
    for name, row in json.loads((folder / "pages" / "ground-truth.json").read_text()).items():
        found.append(Page(name, "news", row["url"], folder / "pages" / "html" / f"{name}.html.gz", row["articleBody"]))
    return found


def digest(chosen: list[Page]) -> str:
    """The sha256 of the pages and their marked texts."""
    hashed = hashlib.sha256()
    for page in chosen:
        for part in (page.name.encode(), page.kind.encode(), page.gold.encode(), page.body()):
            hashed.update(hashlib.sha256(part).digest())
    return hashed.hexdigest()


def words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def score(extracted: str, gold: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the words of one page."""
    ours, theirs = Counter(words(extracted)), Counter(words(gold))
    shared = (ours & theirs).total()
    if not shared:
        return 0.0, 0.0, 0.0
    precision, recall = shared / ours.total(), shared / theirs.total()
    return precision, recall, 2 * precision * recall / (precision + recall)
