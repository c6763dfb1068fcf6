"""The rounds of select that find duplicates. Each makes parts that depend on sealed files alone, so machines can share
them, and none needs memory for the documents of earlier snapshots.

    order            ranks of the candidates, and exact copies           -> order/part-00000.parquet ..
    buckets-000 ..   some bands or ranges of hashes: who meets           -> pairs/000.parquet, crowds/000.parquet
    compare-000 ..   some of the pairs and crowds: whose signatures agree -> edges/000.parquet
    shingles-000 ..  the shingles of the documents that others resemble  -> shingles/000.bin, shingles/000.parquet
    verify-PART      per text part: the exact Jaccard index of the pairs -> proofs/PART.parquet
    judgement        drops, in survivor order                            -> judged/PART.parquet ..

A document is dropped if the exact Jaccard index of its shingles and those of a kept document of lower rank is at least
``threshold``. A dropped document drops no others: if A ~ B and B ~ C but not A ~ C, then C is kept. A copy with the
same exact hash shares the fate of the first one: it is an exact duplicate of it, or a near-duplicate of the same
document. So nothing is ever dropped for chance. A near-copy is missed if it shares no bucket with the kept document, if
its signature says less than ``threshold`` - ``MARGIN``, or if one of the bounds was reached that buckets.py and
``MAX_EDGES`` set; what the bounds left out is counted (``crowded``, ``unsettled``) and logged.

Cost at 10 million documents against 10 million: docs/adr/0022-verified-duplicates.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.lake.manifest import Part
from data.schema import SelectStatus
from data.select import minhash
from data.select.compare import MAX_EDGES, make_buckets, make_compare
from data.select.minhash import U32
from data.select.plan import BUCKETS, COMPARE, JUDGEMENT, ORDER, SHINGLES, VERIFY, Plan
from data.select.shingles import unique
from data.select.sources import find, halves
from data.select.verify import make_shingles, make_verify

NONE = np.uint32(2**32 - 1)
_PROOFS = 1_000_000  # pairs in memory as Python's numbers
_log = logging.getLogger(__name__)

JUDGED = pa.schema(
    [
        ("row", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.binary(16)),
    ]
)


def rounds(plan: Plan) -> Iterator[list[str]]:
    """The names of the parts, round by round; a round is asked for when the one before it is sealed."""
    yield [ORDER]
    yield [f"{BUCKETS}{k:03d}" for k in range(plan.n_bucket_parts())]
    yield [f"{COMPARE}{k:03d}" for k in range(plan.n_compare_parts())]
    yield [f"{SHINGLES}{k:03d}" for k in range(len(plan.groups()))]
    yield [f"{VERIFY}{source.part}" for source in plan.new]
    yield [JUDGEMENT]


def make_part(plan: Plan, name: str) -> Part:
    """Make and seal the part with the given name."""
    kind, _, rest = name.partition("-")
    match f"{kind}-" if rest else kind:
        case "order":
            return _order(plan)
        case "buckets-":
            return make_buckets(plan, name, int(rest))
        case "compare-":
            return make_compare(plan, name, int(rest))
        case "shingles-":
            return make_shingles(plan, name, int(rest))
        case "verify-":
            return make_verify(plan, rest)
        case _:
            return _judge(plan)


def _order(plan: Plan) -> Part:
    """Ranks, and exact copies among the candidates and what the history kept."""
    for name in plan.history:
        select = plan.lake.dataset("select", name)
        select.verify([_compared(part) for part in select.require().parts])
    columns = [source.columns("doc_id", "karma", "exact_hash") for source in plan.new]
    ends = np.cumsum([len(ids) for ids, _, _ in columns], dtype=np.int64)
    ids, karma, exact = (
        np.concatenate([one[k] for one in columns]) if columns else np.empty(0, kind)
        for k, kind in enumerate(("V16", np.int64, "V16"))
    )
    del columns
    assert plan.n_before + len(ids) < NONE, "ranks have 32 bits"
    place = minhash.survivor_order(karma, ids)
    rank = np.empty_like(place)
    rank[place] = np.arange(len(place), dtype=np.uint32)
    del place, ids, karma
    first = _first_copies(plan, exact, rank)
    tables = {}
    for source, start, stop in zip(plan.new, [0, *ends], ends, strict=False):
        some = slice(start, stop)
        tables[f"order/{source.part}.parquet"] = pa.table(
            {
                "rank": pa.array(rank[some], pa.uint32()),
                "copy_of": pa.array(first[some], pa.uint32()),
            }
        )
    return plan.seal(ORDER, tables, extra={"candidates": len(rank)})


def _first_copies(plan: Plan, exact: npt.NDArray[np.void], rank: U32) -> U32:
    """For each candidate the lowest rank of a document with the same exact hash, which may be its own."""
    keys = halves(exact)
    order = np.lexsort((rank, keys[:, 1], keys[:, 0]))
    keys = keys[order]
    if not len(keys):
        return rank
    is_first = np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)])
    firsts = np.flatnonzero(is_first)
    lowest = rank[order[firsts]] + np.uint32(plan.n_before)
    keys = keys[firsts]
    for source in plan.kept:
        theirs, their_ranks = source.columns("exact_hash", "rank")
        theirs = halves(theirs)
        at = np.searchsorted(keys[:, 0], theirs[:, 0])
        at[at == len(keys)] = 0
        same = np.flatnonzero((keys[at] == theirs).all(axis=1))
        np.minimum.at(lowest, at[same], their_ranks[same])
    first = np.empty_like(rank)
    first[order] = lowest[np.cumsum(is_first) - 1]
    return first


def _compared(part: Part) -> Part:
    """The part with only those of its files that later snapshots read."""
    return replace(part, files=tuple(file for file in part.files if file.path.startswith(("sig/", "bands/"))))


def _judge(plan: Plan) -> Part:
    """The greedy pass in survivor order, and the verdicts by text part."""
    near_of, near_jaccard, n_unsettled = _greedy(plan)
    total = n_unsettled + sum(
        part.extra["unsettled"] for part in plan.dataset.sealed(lambda name: name.startswith(VERIFY)).values()
    )
    if total:
        _log.warning(
            "select/%s: %d documents are kept though they resemble more documents than were looked at (%d or more)",
            *(plan.snapshot, total, MAX_EDGES),
        )
    dropped = []
    for source in plan.new:
        ranks, row, original = source.columns("rank", "row", "copy_of")
        is_copy = original != ranks
        place = np.where(original >= plan.n_before, original - np.uint32(plan.n_before), plan.n_new)
        is_near = near_of[place] != NONE
        is_dropped = is_near | is_copy
        of = np.where(is_near, near_of[place], original)[is_dropped]
        dropped.append((row[is_dropped], is_near[is_dropped], of, near_jaccard[place][is_dropped]))
    named = unique(np.concatenate([np.empty(0, np.uint32), *(of for _, _, of, _ in dropped)]))
    ids = find([*plan.kept, *plan.new], named, "doc_id")
    tables = {}
    for source, (row, is_near, of, index) in zip(plan.new, dropped, strict=True):
        tables[f"judged/{source.part}.parquet"] = _judged(plan, row, is_near, index, named, ids, of)
    return plan.seal(JUDGEMENT, tables, extra={"unsettled": n_unsettled})


def _judged(plan: Plan, row: Any, is_near: Any, index: Any, named: U32, ids: Any, of: U32) -> pa.Table:
    statuses = np.where(is_near, str(SelectStatus.NEAR_DUPLICATE), str(SelectStatus.EXACT_DUPLICATE))
    reasons = [
        f"Jaccard index {some:.3f} of the shingles, at least {plan.config.threshold}" if near else None
        for some, near in zip(index.tolist(), is_near.tolist(), strict=True)
    ]
    names = [one.tobytes() for one in ids[np.searchsorted(named, of)]] if len(of) else []
    columns = [pa.array(row, pa.int32()), pa.array(statuses.tolist(), pa.string()), reasons, names]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, JUDGED, strict=True)], schema=JUDGED)


def _greedy(plan: Plan) -> tuple[U32, npt.NDArray[np.float64], int]:
    """For each candidate, by rank, the kept document that it duplicates (or NONE), and the Jaccard index; one more
    entry, of NONE, stands for the documents of the history.
    """
    near_of = np.full(plan.n_new + 1, NONE)
    near_jaccard = np.zeros(plan.n_new + 1)
    tables = [plan.dataset.read(f"proofs/{source.part}.parquet") for source in plan.new if source.rows]
    if not tables:
        return near_of, near_jaccard, 0
    table = pa.concat_tables(tables)
    later, earlier, index, is_cut = (table.column(k).to_numpy() for k in ("later", "earlier", "jaccard", "is_cut"))
    order = np.lexsort((earlier, later))
    later, earlier, index = later[order], earlier[order], index[order]
    n_before = plan.n_before
    is_dropped = bytearray(plan.n_new)
    taken = []
    for start in range(0, len(later), _PROOFS):
        some = slice(start, start + _PROOFS)
        for k, (one, other) in enumerate(zip(later[some].tolist(), earlier[some].tolist(), strict=True), start):
            if not is_dropped[one - n_before] and (other < n_before or not is_dropped[other - n_before]):
                is_dropped[one - n_before] = 1
                taken.append(k)
    place = later[taken] - np.uint32(n_before)
    near_of[place] = earlier[taken]
    near_jaccard[place] = index[taken]
    cut = unique(later[is_cut[order]]) - np.uint32(n_before)
    n_unsettled = int(np.count_nonzero(near_of[cut] == NONE))
    return near_of, near_jaccard, n_unsettled
