"""A lake of made-up signatures for benchmarks/dedup.py: what the stage would have written, without texts.

The signatures are random rows, so unlike documents agree in no row. Planted among the new documents, by place:

    pairs        every 20th is a near-copy of a document of the history, every 20th of another new document,
                 every 20th an exact copy of another new document
    chains       every 100th begins a chain of four: each resembles the one before it, and not the one before that
    copies       near-copies of one document that is not there
    boilerplate  unlike documents that agree in band 0

A near-copy keeps each row with probability 0.9, as at Jaccard 0.9. In a chain, one has 0.82 of the rows of the one
before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.config import SelectConfig, content_settings
from data.lake.manifest import Part
from data.lake.store import Dataset, Lake
from data.schema import TEXT
from data.select import minhash
from data.select.plan import band_names, seal

CONFIG = SelectConfig()
FILE = 50_000  # documents per file
NEAR = 0.9
LINK = 0.82
CHAIN = 29  # of 100
NOTHING, HISTORY, PAIR, EXACT, LINK_OF, COPY, BOILERPLATE = "nothing history pair exact chain copy boilerplate".split()

U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Size:
    """Numbers of documents."""

    kept: int
    new: int
    copies: int
    boilerplate: int


def write_history(lake: Lake, n: int) -> None:
    """``select/history``: n kept documents, and a text dataset of that many rows without content."""
    _text(lake, "history", n)
    text = lake.dataset("text", "history").require()
    dataset = lake.dataset("select", "history")
    if dataset.begin(content_settings(CONFIG), {"text": text.digest}) is not None:
        return
    for number, start in enumerate(range(0, n, FILE)):
        count = min(FILE, n - start)
        signatures = history_signatures(number, count)
        name = f"part-{number:05d}"
        ids = _ids(start, count, b"h")
        columns = _columns(signatures, ids, ids)
        columns["rank"] = pa.array(np.arange(start, start + count, dtype=np.uint32))
        table = pa.table(columns)
        tables = {
            f"sig/{name}.parquet": table.select(["doc_id", "row", "karma", "exact_hash", "signature"]),
            f"bands/{name}.parquet": table.select(["doc_id", "rank", *band_names(CONFIG)]),
        }
        seal(dataset, name, tables, extra={"candidates": count})
    dataset.finish([f"part-{k:05d}" for k in range(-(-n // FILE))], {}, 0.0)


def history_signatures(number: int, count: int) -> U32:
    return np.random.default_rng([1, number]).integers(0, 2**32, (count, CONFIG.permutations), dtype=np.uint32)


def write_candidates(lake: Lake, snapshot: str, size: Size, history: list[str]) -> None:
    """The text dataset of ``snapshot``, and the first round of its select dataset."""
    _text(lake, snapshot, size.new)
    digest = lake.dataset("text", snapshot).require().digest
    earlier = {f"history:{name}": lake.dataset("select", name).require().digest for name in history}
    dataset = lake.dataset("select", snapshot)
    dataset.begin(content_settings(CONFIG), {"text": digest, **earlier})
    rng = np.random.default_rng(2)
    original = rng.integers(0, 2**32, CONFIG.permutations, dtype=np.uint32)
    common = rng.integers(0, 2**32, CONFIG.rows, dtype=np.uint32)
    for number, start in enumerate(range(0, size.new, FILE)):
        count = min(FILE, size.new - start)
        place = np.arange(start, start + count)
        rng = np.random.default_rng([3, number])
        signatures = rng.integers(0, 2**32, (count, CONFIG.permutations), dtype=np.uint32)
        kinds = planted(place, size)
        if size.kept:
            of = history_signatures(int(rng.integers(0, size.kept // FILE)), FILE)
            mine = np.flatnonzero(kinds == HISTORY)
            signatures[mine] = _near(rng, of[rng.integers(0, len(of), len(mine))], NEAR)
        mine = np.flatnonzero(kinds == PAIR)
        signatures[mine] = _near(rng, signatures[mine - 1], NEAR)
        links = np.flatnonzero(place % 100 == CHAIN)
        for step in range(1, 4):
            signatures[links + step] = _near(rng, signatures[links + step - 1], LINK)
        mine = np.flatnonzero(kinds == BOILERPLATE)
        signatures[mine, : CONFIG.rows] = common
        mine = np.flatnonzero(kinds == COPY)
        signatures[mine] = _near(rng, np.broadcast_to(original, (len(mine), CONFIG.permutations)), NEAR)
        ids = _ids(start, count, b"n")
        exact = ids.copy()
        mine = np.flatnonzero(kinds == EXACT)
        signatures[mine] = signatures[mine - 1]
        exact[mine] = ids[mine - 1]
        name = f"part-{number:05d}"
        table = pa.table(_columns(signatures, ids, exact))
        seal(dataset, f"sig-{name}", {f"candidates/{name}.parquet": table})


def planted(place: npt.NDArray[np.integer], size: Size) -> npt.NDArray[np.str_]:
    """What the new documents at these places are."""
    of_20, of_100 = place % 20, place % 100
    kinds = np.full(len(place), NOTHING, dtype="U11")
    kinds[of_20 == 3] = HISTORY if size.kept else NOTHING
    kinds[of_20 == 6] = PAIR
    kinds[of_20 == 8] = EXACT
    kinds[(of_100 > CHAIN) & (of_100 < CHAIN + 4)] = LINK_OF
    kinds[(of_20 > 11) & (place < 20 * size.copies // 8)] = COPY  # 8 of 20
    kinds[(of_20 < 3) & (place < 20 * size.boilerplate // 3)] = BOILERPLATE  # 3 of 20
    return kinds


def _near(rng: np.random.Generator, signatures: U32, share: float) -> U32:
    own = rng.integers(0, 2**32, signatures.shape, dtype=np.uint32)
    return np.where(rng.random(signatures.shape, dtype=np.float32) < share, signatures, own)


def _ids(start: int, count: int, kind: bytes) -> npt.NDArray[np.void]:
    """16 bytes per document that look random and depend on its place alone."""
    names = (kind + (start + k).to_bytes(8, "little") for k in range(count))
    return np.frombuffer(b"".join(hashlib.blake2b(name, digest_size=16).digest() for name in names), "V16")


def _columns(signatures: U32, ids: npt.NDArray[np.void], exact: npt.NDArray[np.void]) -> dict[str, Any]:
    n = len(ids)
    hashes = minhash.band_hashes(signatures, CONFIG.bands)
    karma = ids.view(np.uint8).reshape(n, 16)[:, 0].astype(np.int64) // 16
    return {
        "row": pa.array(np.arange(n, dtype=np.int32)),
        "doc_id": _binary(ids, 16),
        "karma": pa.array(karma),
        "exact_hash": _binary(exact, 16),
        "signature": _binary(signatures, 4 * CONFIG.permutations),
        **{band: pa.array(hashes[:, k]) for k, band in enumerate(band_names(CONFIG))},
    }


def _binary(values: npt.NDArray[Any], width: int) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), buffer.size // width, [None, buffer])


def _text(lake: Lake, snapshot: str, n: int) -> None:
    """A text dataset that has the right parts and no rows."""
    dataset: Dataset = lake.dataset("text", snapshot)
    if dataset.begin({}, {"made": f"{snapshot} {n}"}) is not None:
        return
    empty = pa.Table.from_pylist([], TEXT)
    names = [f"part-{number:05d}" for number in range(-(-n // FILE))]
    for name in names:
        made: Part = seal(dataset, name, {f"{name}.parquet": empty})
        assert made.rows_in == 0
    dataset.finish(names, {}, 0.0)
