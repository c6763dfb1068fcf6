"""CNN/DailyMail's test set (Hermann et al., 2015; Nallapati et al., 2016; See et al., 2017): articles with highlights.

The authors publish the stories as archives, one file each, and lists of the URLs of each split. What everybody passes
on is the table made of them, version 3.0.0 (names not replaced), whose test split has 11,490 rows. So the file is JSONL
with ``id``, ``article`` and ``highlights``, one sentence per line or in a list.

A JSON list of ``{"src": [[token, ...], ...], "tgt": ...}`` is read too: tokenized sentences, joined by spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError
from data.evalsets.jsonl import read_jsonl, strings


@dataclass(frozen=True)
class Article:
    name: str
    text: str
    sentences: tuple[str, ...] | None  # where the file has them apart
    highlights: tuple[str, ...]


def read_cnndm(path: Path) -> list[Article]:
    """The articles of a file. Raises InputError naming the line, or the article, that is none."""
    if path.suffix == ".jsonl":
        return [_article(value, where, number) for number, (where, value) in enumerate(read_jsonl(path), start=1)]
    try:
        pairs = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); get the file again") from error
    if not isinstance(pairs, list) or not pairs:
        raise InputError(f"{path}: not a list of articles; get the file again")
    articles = []
    for number, pair in enumerate(pairs, start=1):
        try:
            source, target = (tuple(" ".join(sentence) for sentence in pair[side]) for side in ("src", "tgt"))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} article {number}: needs src and tgt, lists of sentences ({error!r})") from error
        if not source or not target:
            raise InputError(f"{path} article {number}: an article needs a sentence and a highlight")
        articles.append(Article(str(number), " ".join(source), source, target))
    return articles


def _article(value: dict[str, Any], where: str, number: int) -> Article:
    text, highlights = value.get("article"), value.get("highlights")
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{where}: a line needs {{"article": ..., "highlights": ...}}')
    lines = highlights.split("\n") if isinstance(highlights, str) else list(strings(highlights, where, "highlights"))
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise InputError(f"{where}: an article needs a highlight")
    return Article(str(value.get("id", number)), text.strip(), None, found)
