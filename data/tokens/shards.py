"""Where a document lies in a corpus: a split and a place, both from a hash of (seed, doc_id) and nothing else.

A place is a number of 128 bits. Shards are equal ranges of places, and documents lie inside a shard in the order of
their places. So the whole corpus lies in the order of the places, a pseudo-random permutation, whatever the number of
shards. To remove or add a document changes one shard and moves no other document.

``scatter`` and ``gather`` sort by place in bounded memory: every part of a dataset is cut into one piece per shard, and
then the pieces of each shard are put in order. A piece is a record batch of an Arrow file, which is read without its
neighbours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

_WORDS = np.dtype("<u8")
_PIECES = ipc.IpcWriteOptions(compression="zstd")


def hashes(doc_ids: Iterable[bytes], seed: int) -> npt.NDArray[np.uint64]:
    """sha256 of (seed, doc_id) as four numbers a document, ``[n, 4]``: the split, the place (high, low), and one spare.

    About 1 us a document.
    """
    prefix = seed.to_bytes(8, "little", signed=True)
    joined = b"".join(hashlib.sha256(prefix + doc_id).digest() for doc_id in doc_ids)
    return np.frombuffer(joined, dtype=_WORDS).reshape(-1, 4)


def in_val(hashed: npt.NDArray[np.uint64], val_share: float) -> npt.NDArray[np.bool_]:
    """Which documents are held out: those whose first number, taken as a fraction of 2^64, is below ``val_share``."""
    return hashed[:, 0] < np.uint64(math.ceil(val_share * 2**64))


def shard_count(n_documents: int, shard_documents: int) -> int:
    """The smallest power of two with at most ``shard_documents`` a shard on average, and at least 1.

    A power of two, so that a corpus that grows past a bound has each of its shards cut in two.
    """
    return 1 << (max(1, -(-n_documents // shard_documents)) - 1).bit_length()


def shard_numbers(hashed: npt.NDArray[np.uint64], n_shards: int) -> npt.NDArray[np.int64]:
    """The shard of each document: the first bits of its place."""
    bits = n_shards.bit_length() - 1
    assert n_shards == 1 << bits, n_shards
    if not bits:
        return np.zeros(len(hashed), np.int64)
    return (hashed[:, 1] >> np.uint64(64 - bits)).astype(np.int64)


def scatter(table: pa.Table, hashed: npt.NDArray[np.uint64], n_shards: int, path: Path) -> None:
    """Write one piece per shard, in the order of the shards. ``hashed`` has one row per table row."""
    numbers = shard_numbers(hashed, n_shards)
    table = table.take(pa.array(np.argsort(numbers, kind="stable"))).combine_chunks()
    start = 0
    with ipc.new_file(path, table.schema, options=_PIECES) as writer:
        for count in np.bincount(numbers, minlength=n_shards).tolist():
            batches = table.slice(start, count).to_batches()
            writer.write_batch(batches[0] if batches else _empty(table.schema))
            start += count


def gather(pieces: Iterable[AbstractContextManager[Any]], shard: int, schema: pa.Schema, seed: int) -> pa.Table:
    """All documents of a shard, in order, from the opened files that ``scatter`` wrote. The table needs ``doc_id``."""
    found = []
    for opened in pieces:
        with opened as file:
            found.append(ipc.open_file(file).get_batch(shard))
    table = pa.Table.from_batches(found, schema)
    places = hashes(table.column("doc_id").to_pylist(), seed)
    return table.take(pa.array(np.lexsort((places[:, 2], places[:, 1]))))


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
