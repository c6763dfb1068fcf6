"""Train the model that decides which blocks of a page are its text (data/text/choice.py).

    python -m benchmarks.blocks --to data/text/blocks.npz     train on all pages and write the model
    python -m benchmarks.blocks --folds 5                     score each page by a model that has not seen its domain

Both take minutes. Training is deterministic. The examples are pages whose main text people have marked. A block counts
as main text if its words are in the marked text; a short one also has to stand near such blocks, or to be a line of the
marked text. Each page weighs the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from benchmarks import gold
from benchmarks.machine import machine
from data.text import choice
from data.text.charset import decode
from data.text.extract import Proposals, main_text, parse, propose
from data.text.features import Ints, key_of, summarise, word_counts
from data.text.trees import Trees

Floats = npt.NDArray[np.float64]

BLOCKS = {
    "objective": "binary",
    "num_leaves": 24,
    "max_depth": 8,
    "learning_rate": 0.08,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "min_data_in_leaf": 60,
    "lambda_l2": 1.0,
    "max_bin": 63,
}
FIRST_ROUNDS = 150
SECOND_ROUNDS = 100
KIND = {**BLOCKS, "num_leaves": 6, "min_data_in_leaf": 8, "max_depth": 4}
KIND_ROUNDS = 40
INNER_FOLDS = 4  # the second model learns from judgements of pages that the first one has not seen
UNIT = 1_000  # leaves are log odds in thousandths


@dataclass(frozen=True)
class Example:
    """A page with what the model knows of it, and which of its blocks are main text."""

    page: gold.Page
    proposals: Proposals
    is_main: npt.NDArray[np.bool_]

    @property
    def rows(self) -> Ints:
        assert self.proposals.rows is not None
        return self.proposals.rows


def example(page: gold.Page) -> Example:
    html, _ = decode(page.body(), None)
    tree = None if html is None else parse(html)[0]
    proposals = Proposals([], [], None, "") if html is None or tree is None else propose(html, tree, page.url)
    return Example(page, proposals, labels(proposals, page.gold))


def labels(proposals: Proposals, marked: str) -> npt.NDArray[np.bool_]:
    """Which blocks are main text. Words that the marked text has once are claimed by one block only."""
    words = [gold.words(block.text) for block in proposals.blocks]
    marked_words = gold.words(marked)
    rest = Counter(marked_words)
    trigrams = set(zip(marked_words, marked_words[1:], marked_words[2:], strict=False))
    whole = key_of(marked)
    is_main = np.zeros(len(words), np.bool_)
    for k in sorted(range(len(words)), key=lambda k: -len(words[k])):
        own = words[k]
        if len(own) < 4:
            break
        inside = [trigram in trigrams for trigram in zip(own, own[1:], own[2:], strict=False)]
        counts = Counter(own)
        if (proposals.keys[k] in whole or sum(inside) > 0.6 * len(inside)) and (counts & rest).total() >= 0.6 * len(
            own
        ):
            is_main[k] = True
            rest -= counts
    lines = {key_of(line) for line in marked.split("\n")}
    main = np.flatnonzero(is_main)

    def distance(k: int) -> int:
        return int(np.abs(main - k).min()) if len(main) else k

    short = [k for k, own in enumerate(words) if own and len(own) < 6 and not is_main[k]]
    for k in sorted(short, key=lambda k: (proposals.keys[k] not in lines, distance(k))):
        counts = Counter(words[k])
        is_line = proposals.keys[k] in lines
        if proposals.keys[k] in whole and counts <= rest and (is_line or distance(k) <= 6):
            is_main[k] = True
            rest -= counts
    return is_main


def _weights(one: Example) -> Floats:
    words = word_counts(one.proposals.blocks) + 1.0
    weights: Floats = words / max(50.0, float((words * one.is_main).sum()))
    return weights


def _fit(
    rows: Sequence[Ints], targets: Sequence[Any], weights: Sequence[Any], settings: dict[str, Any], rounds: int
) -> Any:
    every = np.concatenate(list(weights))
    data = lightgbm.Dataset(
        np.concatenate(list(rows)).astype(np.float32),
        np.concatenate(list(targets)).astype(int),
        weight=every / every.mean(),
    )
    fixed = {"seed": 0, "deterministic": True, "force_row_wise": True, "num_threads": 2, "verbose": -1}
    return lightgbm.train({**settings, **fixed}, data, rounds)


def _folds(examples: Sequence[Example], n: int) -> npt.NDArray[np.int64]:
    """The fold of each page. Pages of one domain are in one fold; the folds have about the same number of pages."""
    sizes = Counter(one.page.domain for one in examples)
    filled = [0] * n
    of_domain = {}
    for domain in sorted(sizes, key=lambda domain: (-sizes[domain], hashlib.sha256(domain.encode()).digest())):
        of_domain[domain] = min(range(n), key=lambda k: (filled[k], k))
        filled[of_domain[domain]] += sizes[domain]
    return np.array([of_domain[one.page.domain] for one in examples], np.int64)


def train(examples: Sequence[Example]) -> dict[str, Any]:
    """The arrays of a model (``choice.Model.read``)."""
    examples = [one for one in examples if one.proposals.rows is not None]
    first = _first(examples)
    folds = _folds(examples, INNER_FOLDS)
    chances: dict[int, Ints] = {}
    for fold in range(INNER_FOLDS):
        inner = _trees(_first([one for one, f in zip(examples, folds, strict=True) if f != fold]))
        for k in np.flatnonzero(folds == fold):
            chances[int(k)] = np.searchsorted(steps(), inner.sums(examples[k].rows), side="right")
    second_rows = []
    for k, one in enumerate(examples):
        words = word_counts(one.proposals.blocks)
        around = summarise(one.proposals.blocks, words, chances[k], choice.best(words, chances[k]))
        second_rows.append(np.concatenate([one.rows, around], axis=1))
    targets, weights = [one.is_main for one in examples], [_weights(one) for one in examples]
    second = _fit(second_rows, targets, weights, BLOCKS, SECOND_ROUNDS)
    arrays = {"steps": steps(), **_arrays("first", first), **_arrays("second", second)}
    labelled = [one for one in examples if one.page.kind != "news"]
    for kind in choice.KINDS:
        is_kind = [np.array([one.page.kind == kind]) for one in labelled]
        model = _fit([one.rows[:1] for one in labelled], is_kind, [np.ones(1)] * len(labelled), KIND, KIND_ROUNDS)
        arrays |= _arrays(f"kind.{kind}", model)
    return arrays


def _first(examples: Sequence[Example]) -> Any:
    targets, weights = [one.is_main for one in examples], [_weights(one) for one in examples]
    return _fit([one.rows for one in examples], targets, weights, BLOCKS, FIRST_ROUNDS)


def steps() -> Ints:
    """The lowest sum of leaves for each chance of 1 to 999 per mille."""
    chances = np.arange(1, 1_000) / 1_000
    limits: Ints = np.ceil(np.log(chances / (1 - chances)) * UNIT).astype(np.int64)
    return limits


def _trees(model: Any) -> Trees:
    return Trees.read(_arrays("x", model), "x")


def _arrays(name: str, model: Any) -> dict[str, Any]:
    """The trees of LightGBM as arrays. LightGBM goes left if a value is at most the threshold."""
    every = [_nodes(tree["tree_structure"]) for tree in model.dump_model()["tree_info"]]
    n_nodes = max(map(len, every))
    arrays = {field: np.zeros((len(every), n_nodes), np.int32) for field in _FIELDS}
    for t, nodes in enumerate(every):
        for k, node in enumerate(nodes):
            for field, value in zip(_FIELDS, node, strict=True):
                arrays[field][t, k] = value
    depth = max(_depth(tree["tree_structure"]) for tree in model.dump_model()["tree_info"])
    for field in ("feature", "left", "right"):
        arrays[field] = arrays[field].astype(np.int16)
    return {**{f"{name}.{field}": values for field, values in arrays.items()}, f"{name}.depth": np.int32(depth)}


_FIELDS = ("feature", "threshold", "left", "right", "leaf")


def _nodes(root: dict[str, Any]) -> list[list[int]]:
    nodes: list[list[int]] = []

    def add(node: dict[str, Any]) -> int:
        at = len(nodes)
        if "split_feature" not in node:
            nodes.append([0, 0, at, at, round(UNIT * node["leaf_value"])])
            return at
        nodes.append([])
        threshold = min(int(np.floor(node["threshold"])), 2**31 - 1)  # values are whole numbers
        left, right = add(node["left_child"]), add(node["right_child"])
        nodes[at] = [node["split_feature"], threshold, left, right, 0]
        return at

    add(root)
    return nodes


def _depth(node: dict[str, Any]) -> int:
    return 1 + max(_depth(node["left_child"]), _depth(node["right_child"])) if "split_feature" in node else 0


def cross_validate(examples: Sequence[Example], n_folds: int) -> dict[str, Any]:
    """Mean F1 by kind and the kinds' accuracy, each page by a model that has not seen its domain."""
    folds = _folds(examples, n_folds)
    f1: defaultdict[str, list[float]] = defaultdict(list)
    right = []
    for fold in range(n_folds):
        arrays = train([one for one, f in zip(examples, folds, strict=True) if f != fold])
        kinds = [Trees.read(arrays, f"kind.{kind}") for kind in choice.KINDS]
        model = choice.Model(Trees.read(arrays, "first"), Trees.read(arrays, "second"), kinds, arrays["steps"])
        for k in np.flatnonzero(folds == fold):
            one = examples[k]
            text, kind, _ = main_text(one.proposals, model)
            f1[one.page.kind].append(gold.score(text, one.page.gold)[2])
            right.append((one.page.kind, kind))
        print(f"fold {fold + 1} of {n_folds} done", flush=True)
    wcxb = [value for kind, values in f1.items() if kind != "news" for value in values]
    named = [(true, found) for true, found in right if true != "news"]
    return {
        **{kind: round(float(np.mean(f1[kind])), 4) for kind in gold.KINDS if f1[kind]},
        "wcxb": round(float(np.mean(wcxb)), 4),
        "kind_accuracy": round(sum(true == found for true, found in named) / max(1, len(named)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shared", type=Path, default=gold.SHARED, help="folder with wcxb/ and pages/")
    parser.add_argument("--to", type=Path, help="write a model that is trained on all pages to this file")
    parser.add_argument("--folds", type=int, default=0, help="cross-validate with as many folds")
    arguments = parser.parse_args()
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    chosen = gold.pages(arguments.shared)
    with multiprocessing.Pool() as pool:
        examples = list(pool.imap(example, chosen, chunksize=8))
    result: dict[str, Any] = {"bench": "blocks", "gold": gold.digest(chosen), "machine": machine()}
    if arguments.folds:
        result["ours"] = cross_validate(examples, arguments.folds)
    if arguments.to:
        np.savez_compressed(arguments.to, **train(examples))
        named = hashlib.sha256(arguments.to.read_bytes()).hexdigest()[:16]
        print(f"{arguments.to}: {arguments.to.stat().st_size:,} bytes")
        print(f"set EXTRACTOR in data/config.py to 'blocks {named}'")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
