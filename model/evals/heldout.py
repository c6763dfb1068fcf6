"""The corpus's own held-out documents, and how often each token occurs in its training documents.

Examples come from the ``val`` split only. None of its documents may be in the training split of this corpus or of the
corpus that the model was trained on: every evaluation compares all document ids.

The ``MAX_DOCUMENTS`` held-out documents with the smallest hashes are kept, so memory does not grow with the corpus; the
number of all is reported. Counting takes one pass over the training tokens, about 4 s per gigabyte.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.bpe import END_OF_TEXT, TOKENIZER_ID, VOCAB_SIZE, decode
from data.errors import InputError
from data.lake.manifest import Manifest
from data.lake.store import Lake

SEED = 0  # of every choice among documents and examples
MAX_DOCUMENTS = 2_000

Tokens = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HeldOutDocument:
    """A document of the val split: its tokens with end-of-text, its text without."""

    doc_id: bytes
    tokens: Tokens
    text: str


@dataclass(frozen=True)
class HeldOut:
    """Held-out documents in the order of their hashes, and the training split's token counts ``[V]``."""

    documents: tuple[HeldOutDocument, ...]
    available: int  # documents in the split
    counts: Counts

    def log_probs(self) -> npt.NDArray[np.float64]:
        """The unigram model with add-one smoothing, nats ``[V]``: the best model that ignores context."""
        smoothed = self.counts + 1
        log_probs: npt.NDArray[np.float64] = np.log(smoothed / smoothed.sum())
        return log_probs


def load(lake: Lake, snapshots: Sequence[str], trained_on: Sequence[str] = ()) -> HeldOut:
    """The held-out documents of ``snapshots``; ``trained_on`` are the snapshots that the model was trained on.

    Raises InputError if a held-out document is in a training split, if a file is damaged, or if there is no held-out
    document.
    """
    manifests = {name: lake.dataset("tokens", name).require() for name in dict.fromkeys([*snapshots, *trained_on])}
    for name, manifest in manifests.items():
        if manifest.settings.get("tokenizer") != TOKENIZER_ID:
            found = manifest.settings.get("tokenizer")
            raise InputError(f"tokens/{name}: made with tokenizer {found!r}; held-out tasks need {TOKENIZER_ID!r}")
    kept: dict[bytes, Tokens] = {}
    ids: set[bytes] = set()
    for name in snapshots:
        for table in _tables(lake, name, manifests[name], "val", ["doc_id", "tokens"]):
            ids.update(table.column("doc_id").to_pylist())
            kept |= _rows(table)
            kept = {key: kept[key] for key in sorted(kept, key=_order)[:MAX_DOCUMENTS]}
    if not ids:
        raise InputError(f"--corpus {','.join(snapshots)}: no held-out document; add a snapshot or raise val_share")
    counts = np.zeros(VOCAB_SIZE, dtype=np.int64)
    held_out = pa.array(sorted(ids), pa.binary(16))
    for name, manifest in manifests.items():
        for table in _tables(lake, name, manifest, "train", ["doc_id", "tokens"]):
            _refuse_leak(table.column("doc_id"), held_out, name)
            if name in snapshots:
                tokens = table.column("tokens").combine_chunks().flatten().to_numpy()
                counts += np.bincount(tokens, minlength=VOCAB_SIZE)
    documents = [HeldOutDocument(key, tokens, _text(tokens)) for key, tokens in kept.items()]
    return HeldOut(tuple(documents), len(ids), counts)


def choose(keys: Sequence[str], limit: int) -> list[int]:
    """The indices of at most ``limit`` keys, those with the smallest hashes, in that order."""
    order = sorted(range(len(keys)), key=lambda index: hash_of(keys[index]))
    return order[:limit]


def hash_of(key: str) -> bytes:
    return hashlib.sha256(f"{SEED}/{key}".encode()).digest()


def _order(doc_id: bytes) -> bytes:
    return hash_of(doc_id.hex())


def _text(tokens: Tokens) -> str:
    body = tokens[:-1] if len(tokens) and tokens[-1] == END_OF_TEXT else tokens
    return decode(body)


def _rows(table: pa.Table) -> dict[bytes, Tokens]:
    lists = table.column("tokens").combine_chunks()
    offsets = lists.offsets.to_numpy()
    values = lists.values.to_numpy()
    ids = table.column("doc_id").to_pylist()
    return {key: values[offsets[i] : offsets[i + 1]].copy() for i, key in enumerate(ids)}


def _tables(lake: Lake, snapshot: str, manifest: Manifest, split: str, columns: list[str]) -> Iterator[pa.Table]:
    """The tables of a split, one verified file at a time."""
    dataset = lake.dataset("tokens", snapshot)
    for file in manifest.files_in(split):
        yield pq.read_table(io.BytesIO(dataset.read_verified(file)), columns=columns)


def _refuse_leak(train_ids: pa.ChunkedArray, held_out: pa.Array, snapshot: str) -> None:
    leaked = train_ids.filter(pc.is_in(train_ids, value_set=held_out))
    if len(leaked):
        raise InputError(
            f"tokens/{snapshot}: document {leaked[0].as_py().hex()} is held out and in the training split too "
            f"({len(leaked)} in all), so scores would be worthless; make all snapshots with the same val_share and "
            "split_seed"
        )
