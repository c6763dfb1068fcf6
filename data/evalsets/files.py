"""Find the file of a benchmark by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError

PATTERNS: dict[str, tuple[str, ...]] = {
    "lambada": ("lambada_test*.jsonl",),
    "lambada_plain": ("lambada_test_plain_text*.txt",),
    "cbt_cn_valid": ("cbtest_CN_valid_2000ex*.txt",),
    "cbt_ne_valid": ("cbtest_NE_valid_2000ex*.txt",),
    "cbt_cn_test": ("cbtest_CN_test_2500ex*.txt",),
    "cbt_ne_test": ("cbtest_NE_test_2500ex*.txt",),
    "winograd": ("wsc273*.txt",),
    # WikiText-103 uses the same file names, so a bare name counts in --eval-data itself or in a WikiText-2 folder only.
    "wikitext2_test": ("wiki.test.tokens", "wikitext-2*/wiki.test.tokens", "wikitext-2.test.tokens*"),
    "wikitext2_valid": ("wiki.valid.tokens", "wikitext-2*/wiki.valid.tokens", "wikitext-2.valid.tokens*"),
    "wikitext103_test": ("wikitext-103*/wiki.test.tokens", "wikitext-103.test.tokens*"),
    "ptb_test": ("ptb.test.txt*",),
    "1bw": ("news.en.heldout-00000-of-00050*", "1bw_heldout*"),
    "enwik8": ("enwik8",),
    "text8": ("text8",),
    "coqa": ("coqa-dev-v1.0.json", "coqa_dev*.jsonl"),
    "cnndm": ("cnndm_test*.jsonl", "cnndm_article_reference*.json"),
    "wmt14": ("newstest2014-fren-src.en*",),  # the French file lies beside it
    "nq_open": ("NQ-open.dev*.jsonl",),
    "nq_open_train": ("NQ-open.train*.jsonl",),  # the examples in the context of nq_open
    "hellaswag": ("hellaswag_val*.jsonl",),
    "arc_challenge": ("ARC-Challenge-Test.jsonl", "arc_challenge_*.jsonl"),
    "piqa": ("physicaliqa-train-dev/dev.jsonl", "piqa_val*.jsonl"),
    "winogrande": ("winogrande_1.1/dev.jsonl", "winogrande_val*.jsonl"),
}
"""File names of each set, as glob patterns. Patterns with a ``*`` and no folder also match one level down."""

TRAINING: dict[str, tuple[str, ...]] = {
    "wikitext2_train": ("wiki.train.tokens", "wikitext-2*/wiki.train.tokens", "wikitext-2.train.tokens*"),
}
"""File names of training parts, which nothing is scored on."""

TRAINING_OF = {"wikitext2_test": "wikitext2_train", "wikitext2_valid": "wikitext2_train"}
"""The training part that belongs to a set."""


@dataclass(frozen=True)
class EvalFile:
    """A benchmark file that was found."""

    evalset: str
    path: Path
    sha256: str


def find(folder: Path, known: Mapping[str, tuple[str, ...]] = PATTERNS) -> dict[str, EvalFile]:
    """The files of the ``known`` sets in ``folder`` or one level below, by set.

    Raises InputError if there is no such directory, or if two files match the same set.
    """
    if not folder.is_dir():
        raise InputError(f"--eval-data {folder}: no such directory")
    found = {}
    for evalset, patterns in known.items():
        paths = sorted({path for pattern in patterns for path in _matches(folder, pattern) if path.is_file()})
        if len(paths) > 1:
            raise InputError(f"--eval-data {folder}: {paths[0]} and {paths[1]} are both {evalset}; leave one there")
        if paths:
            found[evalset] = EvalFile(evalset, paths[0], sha256_of(paths[0]))
    return found


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matches(folder: Path, pattern: str) -> list[Path]:
    below = [f"*/{pattern}"] if "*" in pattern and "/" not in pattern else []
    return [path for one in (pattern, *below) for path in folder.glob(one)]
