"""How much of the evaluation sets is in a corpus (Radford et al. 2019, section 4 and table 6).

The paper puts the 8-grams of the corpus into Bloom filters and looks up those of the sets. Here it is the other way
round: the sets' 8-grams are in the filter, and the training documents of the corpus stream past it. The answer is the
same, and the filter stays small however large the corpus is. What the filter finds is compared as strings, so every
number is exact; false positives are counted.

    SNAPSHOT-part-00000   per text part: documents with 8-grams of a set -> SNAPSHOT-part-00000.parquet (DOCUMENTS)
    summary               per set: its 8-grams and the found ones        -> summary.parquet (SUMMARY)

A dataset ``overlap/<name>`` belongs to one corpus and one choice of files; its name is a digest of both.

Cost: about 35 us of CPU per document of 700 words, and reading the texts. Memory: 150 bytes per 8-gram of the sets, and
one text part.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.config import OverlapConfig
from data.errors import InputError
from data.evalsets import files as evalsets
from data.evalsets import texts
from data.lake.manifest import Manifest, Part, json_digest
from data.lake.names import base_snapshot
from data.lake.store import Dataset, Lake, write_parquet
from data.overlap import grams as grams_of
from data.stage import Mapper, StageResult, in_turn, run_stage
from data.tokens import shards
from data.tokens.stage import selected

STAGE = "overlap"
SUMMARY_PART = "summary"
BATCH_DOCUMENTS = 64  # larger batches leave the processor's cache

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.binary(16)),
        ("evalset", pa.string()),
        ("n_grams", pa.int32()),  # 8-grams of the document that are in the set
        ("longest_words", pa.int32()),  # words of the longest string in which every 8-gram is in the set
        ("grams", pa.list_(pa.int32())),  # which 8-grams of the set: numbers in the order of first occurrence
    ]
)
SUMMARY = pa.schema(
    [
        ("evalset", pa.string()),
        ("file", pa.string()),
        ("file_sha256", pa.string()),
        ("n_grams", pa.int64()),  # 8-grams of the set, repeated ones counted each time
        ("in_corpus", pa.int64()),  # those of them that are in a training document of the corpus
        ("in_training_set", pa.int64()),  # in the set's own training part; null if its file was not there
        ("documents", pa.int64()),  # training documents with at least one
    ]
)


@dataclass(frozen=True)
class EvalGrams:
    """The 8-grams of one set: ``numbers`` of each in turn, in the order of first occurrence."""

    file: evalsets.EvalFile
    known: dict[bytes, int]
    numbers: npt.NDArray[np.int32]
    hashes: grams_of.U64


def run(lake: Lake, snapshots: Sequence[str], eval_data: Path, mapper: Mapper = in_turn) -> StageResult:
    """Find the sets in ``eval_data`` and their 8-grams in the training documents of ``tokens/<snapshot>``.

    Raises InputError if there is no known set, if a snapshot has no tokens, or for a damaged file.
    """
    manifests = {name: lake.dataset("tokens", name).require() for name in snapshots}
    if len(manifests) != len(snapshots):
        raise InputError(f"--corpus {','.join(snapshots)}: names a snapshot twice")
    found = evalsets.find(eval_data)
    if not found:
        known = ", ".join(pattern for patterns in evalsets.PATTERNS.values() for pattern in patterns[:1])
        raise InputError(f"--eval-data {eval_data}: no evaluation set found; it needs a file such as {known}")
    files = [*found.values(), *evalsets.find(eval_data, evalsets.TRAINING).values()]
    config = OverlapConfig(
        corpus=tuple(snapshots),
        evalsets=tuple(f"{file.evalset}:{file.sha256}" for file in files),
        files=tuple(str(file.path) for file in files),
    )
    inputs = {f"tokens:{name}": manifest.digest for name, manifest in manifests.items()}
    name = json_digest([config.corpus, config.evalsets, inputs])[:16]
    parts = [f"{one}-{part.name}" for one in snapshots for part in _text(lake, one).require().parts]
    return run_stage(
        lake.dataset(STAGE, name),
        config,
        inputs,
        lambda: [parts, [SUMMARY_PART]],
        functools.partial(make_part, lake.root, name, config),
        mapper,
    )


def make_part(lake_root: str, dataset: str, config: OverlapConfig, name: str) -> Part:
    """Make and seal the part with the given name, in either round."""
    lake = Lake(lake_root)
    if name == SUMMARY_PART:
        return _summarise(lake.dataset(STAGE, dataset), config)
    snapshot, _, number = name.rpartition("-part-")
    return _search(lake, lake.dataset(STAGE, dataset), name, config, snapshot, f"part-{number}")


def _text(lake: Lake, snapshot: str) -> Dataset:
    return lake.dataset("text", base_snapshot(snapshot))


@functools.lru_cache(maxsize=1)
def _load(config: OverlapConfig) -> tuple[list[EvalGrams], grams_of.BloomFilter]:
    """The 8-grams of the sets that are scored, and a filter of them all."""
    loaded = [load(file) for file in _files(config) if file.evalset in evalsets.PATTERNS]
    return loaded, grams_of.BloomFilter(np.unique(np.concatenate([one.hashes for one in loaded])))


def _files(config: OverlapConfig) -> Iterator[evalsets.EvalFile]:
    for key, path in zip(config.evalsets, config.files, strict=True):
        name, _, sha256 = key.partition(":")
        yield evalsets.EvalFile(name, Path(path), sha256)


def load(file: evalsets.EvalFile) -> EvalGrams:
    known: dict[bytes, int] = {}
    numbers: list[int] = []
    hashes: list[grams_of.U64] = []
    for found, inside in _batches(texts.documents(file)):
        numbers += [known.setdefault(found.string(gram), len(known)) for gram in inside.tolist()]
        hashes.append(found.hashes[inside])
    joined = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    return EvalGrams(file, known, np.array(numbers, dtype=np.int32), joined)


def _batches(texts: Sequence[str]) -> Iterator[tuple[grams_of.Grams, grams_of.Indices]]:
    """The 8-grams of texts, and which of them lie inside one text."""
    for start in range(0, len(texts), BATCH_DOCUMENTS):
        found = grams_of.grams(pa.array(texts[start : start + BATCH_DOCUMENTS], pa.string()))
        every = np.arange(len(found.hashes))
        yield found, every[found.documents(every) >= 0]


def training_texts(lake: Lake, snapshot: str, part: str) -> pa.Table:
    """``doc_id`` and ``text`` of the documents of a text part that are in the training split of tokens/<snapshot>."""
    settings = lake.dataset("tokens", snapshot).require().settings
    _text(lake, snapshot).verify([one for one in _text(lake, snapshot).require().parts if one.name == part])
    doc_ids, texts = selected(lake, snapshot, part, ["doc_id", "text"])
    held_out = shards.in_val(shards.hashes(doc_ids, settings["split_seed"]), settings["val_share"])
    return texts.filter(pa.array(~held_out))


def _search(lake: Lake, dataset: Dataset, name: str, config: OverlapConfig, snapshot: str, part: str) -> Part:
    """Round 1: which documents of a text part hold 8-grams of which set."""
    loaded, bloom = _load(config)
    table = training_texts(lake, snapshot, part)
    texts = table.column("text").combine_chunks()
    rows: list[dict[str, object]] = []
    extra = {"filter_hits": 0, "false_hits": 0, "documents_with_overlap": 0}
    for start in range(0, len(texts), BATCH_DOCUMENTS):
        found = grams_of.grams(texts.slice(start, BATCH_DOCUMENTS))
        hits = bloom.find(found.hashes)
        if not len(hits):
            continue
        documents = found.documents(hits)
        hits = hits[documents >= 0]
        strings = [found.string(gram) for gram in hits.tolist()]
        is_true = np.zeros(len(hits), dtype=bool)
        for evalgrams in loaded:
            numbers = np.array([evalgrams.known.get(string, -1) for string in strings], dtype=np.int32)
            is_true |= numbers >= 0
            rows += _rows(found, hits, numbers, evalgrams.file.evalset, table.column("doc_id"), start)
        extra["filter_hits"] += len(hits)
        extra["false_hits"] += int((~is_true).sum())
        extra["documents_with_overlap"] += len(np.unique(found.documents(hits[is_true])))
    found_rows = pa.Table.from_pylist(rows, schema=DOCUMENTS)
    with lake.scratch() as folder:
        write_parquet(found_rows, folder / "rows")
        file = f"{name}.parquet"
        return dataset.seal(
            name, {file: folder / "rows"}, found_rows, counts={"ok": len(table)}, rows={file: len(rows)}, extra=extra
        )


def _rows(
    found: grams_of.Grams,
    hits: grams_of.Indices,
    numbers: npt.NDArray[np.int32],
    evalset: str,
    doc_ids: pa.ChunkedArray,
    start: int,
) -> Iterator[dict[str, object]]:
    """One row for each document with 8-grams of the set."""
    at = hits[numbers >= 0]
    numbers = numbers[numbers >= 0]
    documents = found.documents(at)
    for document in np.unique(documents).tolist():
        mine = documents == document
        places = at[mine]
        runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
        yield {
            "doc_id": doc_ids[start + document].as_py(),
            "evalset": evalset,
            "n_grams": len(places),
            "longest_words": max(map(len, runs)) + grams_of.GRAM_WORDS - 1,
            "grams": np.unique(numbers[mine]).tolist(),
        }


def _summarise(dataset: Dataset, config: OverlapConfig) -> Part:
    """Round 2: the share of each set that was found."""
    loaded, _ = _load(config)
    training = {file.evalset: file for file in _files(config) if file.evalset in evalsets.TRAINING}
    is_found = {one.file.evalset: np.zeros(len(one.known), dtype=bool) for one in loaded}
    n_documents = dict.fromkeys(is_found, 0)
    for part in dataset.sealed(lambda name: not name.startswith(SUMMARY_PART)).values():
        table = dataset.read(f"{part.name}.parquet", ["evalset", "grams"])
        for evalset in is_found:
            mine = table.filter(pc.equal(table.column("evalset"), evalset)).column("grams")
            n_documents[evalset] += len(mine)
            is_found[evalset][pc.list_flatten(mine).to_numpy()] = True
    rows = []
    for one in loaded:
        name = one.file.evalset
        own = training.get(evalsets.TRAINING_OF.get(name, ""))
        rows.append(
            {
                "evalset": name,
                "file": one.file.path.name,
                "file_sha256": one.file.sha256,
                "n_grams": len(one.numbers),
                "in_corpus": int(is_found[name][one.numbers].sum()),
                "in_training_set": None if own is None else _in_text(one, own),
                "documents": n_documents[name],
            }
        )
    table = pa.Table.from_pylist(rows, schema=SUMMARY)
    with dataset.lake.scratch() as folder:
        write_parquet(table, folder / "rows")
        file = f"{SUMMARY_PART}.parquet"
        return dataset.seal(SUMMARY_PART, {file: folder / "rows"}, table, counts={}, rows={file: len(rows)})


def _in_text(one: EvalGrams, training: evalsets.EvalFile) -> int:
    """How many 8-grams of a set are in its own training part."""
    is_found = np.zeros(len(one.known), dtype=bool)
    bloom = grams_of.BloomFilter(np.unique(one.hashes))
    for found, inside in _batches(texts.documents(training)):
        for gram in np.intersect1d(bloom.find(found.hashes), inside).tolist():
            number = one.known.get(found.string(gram))
            if number is not None:
                is_found[number] = True
    return int(is_found[one.numbers].sum())


def summary(lake: Lake, manifest: Manifest) -> list[dict[str, Any]]:
    """The rows of SUMMARY of a published dataset."""
    rows: list[dict[str, Any]] = lake.dataset(STAGE, manifest.snapshot).read(f"{SUMMARY_PART}.parquet").to_pylist()
    return rows


def results(lake: Lake, snapshot: str) -> list[Manifest]:
    """The published datasets about a corpus with this snapshot as it is now, oldest first."""
    tokens = lake.dataset("tokens", snapshot).manifest()
    found = [lake.dataset(STAGE, name).require() for name in lake.snapshots(STAGE)]
    mine = [one for one in found if tokens and one.inputs.get(f"tokens:{snapshot}") == tokens.digest]
    return sorted(mine, key=lambda one: (one.finished_at, one.snapshot))
