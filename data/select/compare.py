"""Two rounds: which documents meet in a bucket (buckets.py), and which of them have similar signatures."""

from __future__ import annotations

import functools
import logging
import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.config import SelectConfig
from data.lake.manifest import Part
from data.select import buckets
from data.select.minhash import U32
from data.select.plan import BUCKETS, Plan
from data.select.shingles import U64, unique
from data.select.sources import Source, find, places

MARGIN = 0.08  # pairs whose signatures agree in threshold - MARGIN are verified: two standard deviations of 112 rows
MAX_EDGES = 8  # pairs of a document that are verified because their signatures agree most,
# and as many because they look alike and have the lowest ranks: those are most likely kept
MAX_WARNINGS = 3  # buckets that a part names, the worst first
_log = logging.getLogger(__name__)


def lowest_rows(config: SelectConfig) -> tuple[int, int]:
    """Equal rows of two signatures that make a pair worth verifying, and that make them look alike."""
    lowest, needed = (
        math.ceil(share * config.permutations - 1e-9) for share in (config.threshold - MARGIN, config.threshold)
    )
    return max(1, lowest), needed


def make_buckets(plan: Plan, name: str, number: int) -> Part:
    """The documents that meet in some bands and ranges of hashes."""
    pairs = []
    crowds = []
    members = []
    n_crowds = 0
    for band, range_ in plan.cells()[number :: plan.n_bucket_parts()]:
        in_range = functools.partial(_in_range, plan, range_)
        new = [in_range(*_originals(source, band)) for source in plan.new]
        ours = (
            np.concatenate([hashes for hashes, _ in new]) if new else np.empty(0, np.uint64),
            np.concatenate([ranks for _, ranks in new]) if new else np.empty(0, np.uint32),
        )
        del new
        theirs = (in_range(*source.columns(band, "rank")) for source in plan.kept)
        found = buckets.meetings(*buckets.shared_buckets(ours, theirs), plan.n_before)
        pairs.append(found.pairs)
        crowds.append(found.crowds + np.uint32(n_crowds))
        members.append(found.members)
        n_crowds += int(found.crowds[-1]) + 1 if len(found.crowds) else 0
    later, earlier = buckets.split(unique(np.concatenate(pairs)))
    tables = {
        f"pairs/{number:03d}.parquet": pa.table({"later": later, "earlier": earlier}),
        f"crowds/{number:03d}.parquet": pa.table({"crowd": np.concatenate(crowds), "rank": np.concatenate(members)}),
    }
    return plan.seal(name, tables)


def _in_range(plan: Plan, number: int, hashes: U64, ranks: U32) -> tuple[U64, U32]:
    n = plan.n_ranges()
    if n == 1:
        return hashes, ranks
    chosen = hashes % np.uint64(n) == number
    return hashes[chosen], ranks[chosen]


def _originals(source: Source, band: str) -> tuple[U64, U32]:
    """The band's hashes of the candidates that are no exact copies."""
    hashes, ranks, copy_of = source.columns(band, "rank", "copy_of")
    is_original = copy_of == ranks
    return hashes[is_original], ranks[is_original]


def make_compare(plan: Plan, name: str, number: int) -> Part:
    """The pairs whose signatures agree enough to be verified."""
    n_parts = plan.n_compare_parts()
    pairs, crowds = _meetings(plan, number, n_parts)
    later, earlier = buckets.split(pairs)
    involved = unique(np.concatenate([later, earlier, *crowds]))
    lowest, needed = lowest_rows(plan.config)
    edges: list[tuple[U32, U32, U32]] = []
    left: list[tuple[int, U32]] = []  # the size of a crowd, and its documents that are unlike every pivot
    with plan.lake.scratch() as folder:
        signatures = _signatures(plan, involved, folder / "signatures")
        equal = buckets.equal_rows(signatures, np.searchsorted(involved, later), np.searchsorted(involved, earlier))
        worth = equal >= lowest
        edges.append((later[worth], earlier[worth], equal[worth]))
        for ranks in crowds:
            at = np.searchsorted(involved, ranks)
            crowd = buckets.Crowd(signatures, at, int(np.searchsorted(ranks, plan.n_before)), lowest, needed)
            for who, pivot, rows in crowd:
                edges.append((involved[who], np.full(len(who), involved[pivot]), rows))
            if len(crowd.left) > 1:
                left.append((len(ranks), involved[crowd.left]))
        del signatures
    later, earlier, rows = (np.concatenate([one[k] for one in edges]) for k in range(3))
    kept, _ = best_edges(later, earlier, rows, needed)
    table = pa.table({"later": later[kept], "earlier": earlier[kept], "rows": rows[kept].astype(np.uint16)})
    _warn_of_crowds(plan, name, left)
    n_crowded = sum(len(ranks) for _, ranks in left)
    return plan.seal(name, {f"edges/{number:03d}.parquet": table}, extra={"crowded": n_crowded})


def _meetings(plan: Plan, number: int, n_parts: int) -> tuple[U64, list[U32]]:
    """This part's pairs, each once, and its crowds: the ranks of their members."""
    pairs = []
    crowds = []
    for file in plan.parts(BUCKETS):
        table = plan.dataset.read(f"pairs/{file}.parquet")
        later, earlier = (table.column(k).to_numpy() for k in ("later", "earlier"))
        ours = later % n_parts == number
        pairs.append(later[ours].astype(np.uint64) << np.uint64(32) | earlier[ours])
        table = plan.dataset.read(f"crowds/{file}.parquet")
        numbers, ranks = (table.column(k).to_numpy() for k in ("crowd", "rank"))
        ours = numbers % n_parts == number
        ends = np.flatnonzero(np.diff(numbers[ours])) + 1
        crowds += [some for some in np.split(ranks[ours], ends) if len(some)]
    return unique(np.concatenate(pairs)), crowds


def _signatures(plan: Plan, involved: U32, scratch: Path) -> U32:
    """The signatures of the documents with these ranks, mapped from a scratch file."""
    shape = (len(involved), plan.config.permutations)
    if not len(involved):
        return np.empty(shape, dtype=np.uint32)
    with scratch.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])  # else a full disk would kill the process: SIGBUS
    signatures = np.memmap(scratch, np.uint32, "r+", shape=shape)
    for source in [*plan.kept, *plan.new]:
        at, rows = places(involved, source.columns("rank")[0])
        if len(rows):
            (signed,) = source.columns("signature")
            signatures[at] = signed[rows].view("<u4").reshape(len(rows), -1)
    return signatures


def _warn_of_crowds(plan: Plan, name: str, left: list[tuple[int, U32]]) -> None:
    for size, ranks in sorted(left, key=lambda one: -len(one[1]))[:MAX_WARNINGS]:
        examples = find(plan.new, np.sort(ranks)[:3], "doc_id")
        _log.warning(
            "select/%s %s: %d documents share a bucket, and %d of them are like none of the %d that each was compared "
            "with; only other bands can find their near-copies. See what they have in common: doc_id %s",
            *(plan.snapshot, name, size, len(ranks), buckets.PIVOTS),
            ", ".join(one.tobytes().hex() for one in examples),
        )
    if len(left) > MAX_WARNINGS:
        _log.warning("select/%s %s: %d more such buckets", plan.snapshot, name, len(left) - MAX_WARNINGS)


def best_edges(
    later: U32, earlier: U32, rows: npt.NDArray[np.unsignedinteger], needed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Indexes of the pairs to verify, sorted by document and partner, each once; whether the document has more.

    ``needed`` equal rows make two documents look alike.
    """
    order = np.lexsort((earlier, later))
    repeated = (later[order][1:] == later[order][:-1]) & (earlier[order][1:] == earlier[order][:-1])
    order = order[np.concatenate([[True], ~repeated])] if len(order) else order
    later, earlier, rows = later[order], earlier[order], rows[order]
    most = np.lexsort((earlier, -rows.astype(np.int64), later))
    first = np.lexsort((earlier, rows < needed, later))
    chosen = np.zeros(len(order), dtype=np.bool_)
    _, firsts, counts = np.unique(later, return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(firsts, counts)
    chosen[most[place < MAX_EDGES]] = True
    chosen[first[place < MAX_EDGES]] = True
    is_cut = np.repeat(counts, counts) > np.repeat(np.add.reduceat(chosen, firsts, dtype=np.int64), counts)
    return order[chosen], is_cut[chosen]
