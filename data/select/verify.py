"""Two rounds: the shingles of the documents that others resemble, and the exact Jaccard index of each pair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.lake.manifest import Part
from data.select.compare import best_edges, lowest_rows
from data.select.minhash import U32
from data.select.plan import COMPARE, SHINGLES, VERIFY, Plan
from data.select.shingles import U64, jaccard, shingles, unique
from data.select.sources import Source, places

_CACHE_BYTES = 64_000_000  # shingles that a part of the second round keeps in memory


def make_shingles(plan: Plan, name: str, number: int) -> Part:
    """The shingles of the documents of lower rank in the pairs to verify, as sorted sets."""
    wanted = unique(_edges(plan, "earlier")[0])
    found = [np.empty(0, dtype=np.uint32)]
    lengths: list[int] = []
    hasher = hashlib.sha256()
    with plan.lake.scratch() as folder:
        with (folder / "sets").open("wb") as file:
            for source in plan.groups()[number]:
                ranks, text_rows = source.columns("rank", "row")
                _, rows = places(wanted, ranks)
                if not len(rows):
                    continue
                if not source.is_new:
                    source.text.verify([part for part in source.text.require().parts if part.name == source.part])
                for one in _sets(plan, source, text_rows[rows]):
                    file.write(one.data)
                    hasher.update(one.data)
                    lengths.append(len(one))
                found.append(ranks[rows])
        table = pa.table({"rank": np.concatenate(found), "length": pa.array(lengths, pa.int64())})
        return plan.seal(
            name,
            {f"shingles/{number:03d}.parquet": table},
            files={f"shingles/{number:03d}.bin": folder / "sets"},
            digested=[pa.table({"sha256": [hasher.digest()]})],
        )


def _sets(plan: Plan, source: Source, rows: npt.NDArray[np.int32]) -> Iterator[U64]:
    """The sets of shingles of some rows of the source's text part, sorted."""
    table = source.text.read(f"{source.part}.parquet", ["text", "language"]).take(pa.array(rows, pa.int32()))
    for text, language in zip(table.column("text"), table.column("language"), strict=True):
        yield unique(shingles(text.as_py(), language.as_py(), plan.config))


def make_verify(plan: Plan, part: str) -> Part:
    """The pairs whose exact Jaccard index is high enough, for the candidates of one text part.

    They are tried by rank. A document of the history is kept, and so is one that resembles none of lower rank. After
    such a proof no other is needed.
    """
    source = next(source for source in plan.new if source.part == part)
    ranks, text_rows = source.columns("rank", "row")
    later, earlier, equal = _edges(plan, "later", "earlier", "rows")
    may_be_dropped = unique(later)
    by_rank = np.argsort(ranks)
    _, ours = places(ranks[by_rank], later)
    later, earlier, equal = later[ours], earlier[ours], equal[ours]
    chosen, is_cut = best_edges(later, earlier, equal, lowest_rows(plan.config)[1])
    later, earlier = later[chosen], earlier[chosen]
    is_final = np.ones(len(earlier), dtype=np.bool_)
    is_final[places(may_be_dropped, earlier)[1]] = False
    documents, firsts = np.unique(later, return_index=True)
    candidates = by_rank[np.searchsorted(ranks[by_rank], documents)]
    in_file = np.argsort(candidates)
    earlier_sets = _Sets(plan, unique(earlier))
    ends = np.append(firsts[1:], len(later))
    proofs: list[tuple[int, int, float, bool]] = []
    n_unproven = 0
    for k, mine in zip(in_file, _sets(plan, source, text_rows[candidates[in_file]]), strict=True):
        n_proofs = len(proofs)
        for edge in range(firsts[k], ends[k]):
            of = int(earlier[edge])
            index = jaccard(mine, earlier_sets[of])
            if index >= plan.config.threshold:
                proofs.append((int(documents[k]), of, index, bool(is_cut[edge])))
                if is_final[edge]:
                    break
        n_unproven += bool(len(proofs) == n_proofs and is_cut[firsts[k]])
    proofs.sort()
    kinds = {"later": pa.uint32(), "earlier": pa.uint32(), "jaccard": pa.float64(), "is_cut": pa.bool_()}
    table = pa.table({name: pa.array([one[k] for one in proofs], kind) for k, (name, kind) in enumerate(kinds.items())})
    return plan.seal(f"{VERIFY}{part}", {f"proofs/{part}.parquet": table}, extra={"unsettled": n_unproven})


def _edges(plan: Plan, *columns: str) -> list[Any]:
    tables = [plan.dataset.read(f"edges/{file}.parquet", list(columns)) for file in plan.parts(COMPARE)]
    table = pa.concat_tables(tables)
    return [table.column(name).to_numpy() for name in columns]


class _Sets:
    """The sets of shingles in the files of the round `shingles`, by rank. Read when needed, a few kept in memory."""

    def __init__(self, plan: Plan, wanted: U32) -> None:
        self._dataset = plan.dataset
        self._cache: dict[int, U64] = {}
        self._bytes = 0
        self._places: dict[int, tuple[str, int, int]] = {}  # file, start, stop
        for number in plan.parts(SHINGLES):
            table = self._dataset.read(f"shingles/{number}.parquet")
            ranks, lengths = (table.column(k).to_numpy() for k in ("rank", "length"))
            stops = np.cumsum(lengths) * 8
            _, rows = places(wanted, ranks)
            for rank, stop, length in zip(ranks[rows], stops[rows], lengths[rows], strict=True):
                self._places[int(rank)] = (f"{number}.bin", int(stop - 8 * length), int(stop))

    def __getitem__(self, rank: int) -> U64:
        if rank not in self._cache:
            file, start, stop = self._places[rank]
            found = np.frombuffer(self._dataset.read_bytes(f"shingles/{file}", start, stop), "<u8")
            self._bytes += found.nbytes
            if self._bytes > _CACHE_BYTES:
                self._cache.clear()
                self._bytes = found.nbytes
            self._cache[rank] = found
        return self._cache[rank]
