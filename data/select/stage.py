"""The select stage: a verdict on every text. The filters come first, in the order of SelectStatus, then near-duplicates
(data/select/minhash.py) within the snapshot and against earlier ones.

It makes its parts in three rounds and seals each part, so a killed run loses at most one:

    sig-part-00000   per text part: signatures of the texts that pass the filters -> candidates/part-00000.parquet
    judgement        duplicates among all candidates and the history's documents  -> judged/part-00000.parquet
    part-00000       per text part: its verdicts, row by row                      -> part-00000.parquet
                     what later snapshots need to compare with its kept documents -> sig/part-00000.parquet, bands/...

The history is a list of select snapshots. New documents are compared with the documents that these kept, and those stay
kept. The history is recorded among the inputs, so a second run with the same arguments compares with the same
snapshots, even if others were published since.

Cost: signatures take a core second per 1,000 documents. The search for duplicates holds 60 bytes per document and 45
for each bucket that it shares, and keeps the signatures of documents that share one in a scratch file (448 bytes each).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.config import SelectConfig
from data.errors import InputError
from data.lake.manifest import Manifest, Part, settings_diff
from data.lake.names import base_snapshot
from data.lake.store import Dataset, Lake, write_parquet
from data.schema import SELECT, SelectStatus
from data.select import filters, minhash
from data.stage import Mapper, StageResult, in_turn, run_stage

SIGNATURES = "sig-"
JUDGEMENT = "judgement"
SCHEME = ("ngram", "permutations", "bands", "rows", "minhash_seed", "threshold")
"""Settings that must equal the history's: signatures made with others cannot be compared."""

JUDGED = pa.schema(
    [
        ("row", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.binary(16)),
    ]
)


def run(
    lake: Lake, snapshot: str, history: Sequence[str] | None, config: SelectConfig, mapper: Mapper = in_turn
) -> StageResult:
    """Select from the documents of ``text/<snapshot without its variant>``.

    ``history`` names the select snapshots to compare with, in any order; they count as earlier in the order of their
    names. None means the ones recorded when this dataset was begun; for a new dataset, all published ones with the same
    variant.

    Raises InputError if the history is not published, has another MinHash scheme, or contains the snapshot itself.
    """
    text = lake.dataset("text", base_snapshot(snapshot)).require()
    earlier = [lake.dataset("select", name).require() for name in _history_names(lake, snapshot, history)]
    for manifest in earlier:
        _check_scheme(manifest, config)
    names = [part.name for part in text.parts]
    return run_stage(
        lake.dataset("select", snapshot),
        config,
        {"text": text.digest, **{f"history:{manifest.snapshot}": manifest.digest for manifest in earlier}},
        lambda: [[f"{SIGNATURES}{name}" for name in names], [JUDGEMENT], names],
        functools.partial(make_part, lake.root, snapshot, config),
        mapper,
    )


def _history_names(lake: Lake, snapshot: str, history: Sequence[str] | None) -> list[str]:
    begun = lake.dataset("select", snapshot).begun()
    if history is None and begun is not None:
        history = _recorded_history(begun)
    elif history is None:
        variant = snapshot.partition("@")[2]
        history = [n for n in lake.snapshots("select") if n != snapshot and n.partition("@")[2] == variant]
    if snapshot in history:
        raise InputError(f"history {', '.join(history)}: {snapshot} cannot be compared with itself; leave it out")
    return sorted(set(history))


def _recorded_history(begun: dict[str, Any]) -> list[str]:
    return sorted(key.removeprefix("history:") for key in begun["inputs"] if key.startswith("history:"))


def _check_scheme(manifest: Manifest, config: SelectConfig) -> None:
    theirs = {name: manifest.settings.get(name) for name in SCHEME}
    ours = {name: getattr(config, name) for name in SCHEME}
    if theirs != ours:
        raise InputError(
            f"select/{manifest.snapshot} has another MinHash scheme ({settings_diff(theirs, ours)}); "
            "use its settings or leave it out of --history"
        )


def make_part(lake_root: str, snapshot: str, config: SelectConfig, name: str) -> Part:
    """Make and seal the part with the given name, in any of the three rounds."""
    lake = Lake(lake_root)
    if name == JUDGEMENT:
        return _find_duplicates(lake, snapshot, config)
    if name.startswith(SIGNATURES):
        return _sign(lake, snapshot, config, name.removeprefix(SIGNATURES))
    return _give_verdicts(lake, snapshot, config, name)


def _texts(lake: Lake, snapshot: str) -> Dataset:
    return lake.dataset("text", base_snapshot(snapshot))


def _sign(lake: Lake, snapshot: str, config: SelectConfig, name: str) -> Part:
    """Round 1: the signatures and band hashes of the rows that pass the filters."""
    table = _texts(lake, snapshot).read(f"{name}.parquet", [*filters.COLUMNS, "text"])
    verdicts = [filters.verdict(row, config)[0] for row in table.select(filters.COLUMNS).to_pylist()]
    passed = np.flatnonzero([verdict == SelectStatus.OK for verdict in verdicts])
    chosen = table.take(pa.array(passed, pa.int64()))
    texts = chosen.column("text").to_pylist()
    signed = minhash.signatures(texts, ngram=config.ngram, permutations=config.permutations, seed=config.minhash_seed)
    hashes = minhash.band_hashes(signed, config.bands)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "row": pa.array(passed, pa.int32()),
        "doc_id": chosen.column("doc_id"),
        "karma": chosen.column("karma"),
        "exact_hash": pa.array([minhash.exact_hash(text) for text in texts], pa.binary(16)),
        "signature": pa.array([row.astype("<u4").tobytes() for row in signed], pa.binary(4 * config.permutations)),
        **{band: pa.array(hashes[:, k]) for k, band in enumerate(_band_names(config))},
    }
    return _seal(lake, snapshot, f"{SIGNATURES}{name}", {f"candidates/{name}.parquet": pa.table(columns)})


def _band_names(config: SelectConfig) -> list[str]:
    return [f"band_{k:02d}" for k in range(config.bands)]


@dataclass(frozen=True)
class _Source:
    """Documents to compare, in two files with the same rows; often both are one file."""

    dataset: Dataset
    age: int  # 0 for the earliest snapshot of the history; this snapshot comes last
    documents: str  # doc_id, karma, exact_hash, signature
    bands: str

    def read(self, file: str, *columns: str) -> list[pa.ChunkedArray]:
        table = self.dataset.read(file, list(columns))
        return [table.column(name) for name in columns]


def _find_duplicates(lake: Lake, snapshot: str, config: SelectConfig) -> Part:
    """Round 2: the duplicates among all candidates and the documents that the history kept."""
    dataset = lake.dataset("select", snapshot)
    begun = dataset.begun()
    assert begun is not None, "the dataset was begun before its parts are made"
    history = [lake.dataset("select", name) for name in _recorded_history(begun)]
    text = _texts(lake, snapshot).require()
    kept = []
    for age, earlier in enumerate(history):
        earlier.verify()
        names = [file.path.removeprefix("sig/") for file in earlier.require().files_in("sig")]
        kept += [_Source(earlier, age, f"sig/{name}", f"bands/{name}") for name in names]
    candidates = [f"candidates/{part.name}.parquet" for part in text.parts]
    new = [_Source(dataset, len(history), file, file) for file in candidates]
    with lake.scratch() as folder:
        tables = _dropped(kept, new, config, folder / "signatures")
    return _seal(
        lake,
        snapshot,
        JUDGEMENT,
        {f"judged/{part.name}.parquet": t for part, t in zip(text.parts, tables, strict=True)},
    )


def _dropped(kept: list[_Source], new: list[_Source], config: SelectConfig, scratch: Path) -> list[pa.Table]:
    """The dropped rows of each new source, as JUDGED. A document's *place* is its index over all sources."""
    sources = [*kept, *new]
    columns = [source.read(source.documents, "doc_id", "karma") for source in sources]
    lengths = [len(doc_id) for doc_id, _ in columns]
    ends = np.cumsum(lengths, dtype=np.int64)
    n_kept = sum(lengths[: len(kept)])
    ids = np.concatenate([_fixed(doc_id, 16) for doc_id, _ in columns]) if columns else np.empty(0, "V16")
    karma = np.concatenate([k.to_numpy() for _, k in columns]) if columns else np.empty(0, np.int64)
    age = np.repeat(np.array([source.age for source in sources], dtype=np.uint16), lengths)
    place = minhash.survivor_order(age, karma, ids)  # by rank
    rank = np.empty_like(place)
    rank[place] = np.arange(len(place), dtype=np.uint32)
    del columns, karma, age

    def hashes_by_place() -> Iterator[minhash.U64]:
        for band in _band_names(config):
            parts = [source.read(source.bands, band)[0].to_numpy() for source in sources]
            yield np.concatenate(parts) if parts else np.empty(0, np.uint64)

    buckets = minhash.find_buckets(hashes_by_place(), rank, n_kept)
    del rank
    place = place[buckets.candidates]  # by candidate
    signatures, exact = _load(sources, ends, place, config, scratch)
    found: list[list[dict[str, Any]]] = [[] for _ in sources]
    for duplicate in minhash.find_duplicates(buckets, signatures, exact, n_kept, config.threshold):
        at = int(place[duplicate.candidate])
        number = int(np.searchsorted(ends, at, side="right"))
        status = SelectStatus.EXACT_DUPLICATE if duplicate.is_exact else SelectStatus.NEAR_DUPLICATE
        found[number].append(
            {
                "row": at - int(ends[number]) + lengths[number],  # in the candidates file; replaced below
                "status": str(status),
                "reason": None if duplicate.is_exact else f"{duplicate.similarity:.3f} of the signature is equal",
                "duplicate_of": ids[place[duplicate.of]].tobytes(),
            }
        )
    tables = []
    for source, rows in zip(new, found[len(kept) :], strict=True):
        rows.sort(key=lambda row: row["row"])
        table = pa.Table.from_pylist(rows, schema=JUDGED)
        text_rows = source.read(source.documents, "row")[0].take(table.column("row"))
        tables.append(table.set_column(0, JUDGED.field("row"), text_rows))
    return tables


def _load(
    sources: list[_Source],
    ends: npt.NDArray[np.int64],
    place: minhash.U32,
    config: SelectConfig,
    scratch: Path,
) -> tuple[minhash.U32, npt.NDArray[np.void]]:
    """Signatures, mapped from a scratch file, and exact hashes of the candidates at these places."""
    exact = np.empty(len(place), "V16")
    if not len(place):
        return np.empty((0, config.permutations), np.uint32), exact
    signatures = np.memmap(scratch, np.uint32, "w+", shape=(len(place), config.permutations))
    by_place = np.argsort(place)
    bounds = np.searchsorted(place[by_place], np.concatenate([[0], ends]))
    for source, start, stop, end in zip(sources, bounds[:-1], bounds[1:], ends, strict=True):
        if start == stop:
            continue
        candidates = by_place[start:stop]
        hashes, signed = source.read(source.documents, "exact_hash", "signature")
        rows = place[candidates].astype(np.int64) - (int(end) - len(hashes))
        exact[candidates] = _fixed(hashes, 16)[rows]
        signatures[candidates] = _fixed(signed, 4 * config.permutations)[rows].view("<u4").reshape(len(rows), -1)
    return signatures, exact


def _fixed(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.void]:
    return np.frombuffer(b"".join(column.to_pylist()), dtype=f"V{width}")


def _give_verdicts(lake: Lake, snapshot: str, config: SelectConfig, name: str) -> Part:
    """Round 3: a verdict for each row of the text part, and the files that later snapshots compare with."""
    dataset = lake.dataset("select", snapshot)
    dropped = {row["row"]: row for row in dataset.read(f"judged/{name}.parquet").to_pylist()}
    rows = []
    for number, row in enumerate(_texts(lake, snapshot).read(f"{name}.parquet", filters.COLUMNS).to_pylist()):
        status, reason = filters.verdict(row, config)
        verdict = dropped.get(number, {"status": str(status), "reason": reason, "duplicate_of": None})
        rows.append({**verdict, "doc_id": row["doc_id"]})
    verdicts = pa.Table.from_pylist([{key: row[key] for key in SELECT.names} for row in rows], schema=SELECT)
    candidates = dataset.read(f"candidates/{name}.parquet")
    is_dropped = pc.is_in(candidates.column("row"), pa.array(list(dropped), pa.int32()))
    kept = candidates.filter(pc.invert(is_dropped))
    tables = {
        f"{name}.parquet": verdicts,
        f"sig/{name}.parquet": kept.select(["doc_id", "karma", "exact_hash", "signature"]),
        f"bands/{name}.parquet": kept.select(["doc_id", *_band_names(config)]),
    }
    return _seal(lake, snapshot, name, tables, Counter(row["status"] for row in rows))


def _seal(
    lake: Lake, snapshot: str, name: str, tables: dict[str, pa.Table], counts: dict[str, int] | None = None
) -> Part:
    with lake.scratch() as folder:
        files = {path: folder / path.replace("/", "-") for path in tables}
        for path, table in tables.items():
            write_parquet(table, files[path])
        rows = {path: len(table) for path, table in tables.items()}
        dataset = lake.dataset("select", snapshot)
        return dataset.seal(name, files, list(tables.values()), counts=counts or {}, rows=rows)
