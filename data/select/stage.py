"""The select stage: a verdict on every text. The filters come first, in the order of SelectStatus, then duplicates
within the snapshot and of earlier ones.

It makes its parts in rounds and seals each part, so a killed run loses at most one:

    sig-part-00000   per text part: signatures of the texts that pass the filters -> candidates/part-00000.parquet
    order .. judgement   duplicates among all candidates and the history's documents (data/select/judgement.py)
                                                                                  -> judged/part-00000.parquet
    part-00000       per text part: its verdicts, row by row                      -> part-00000.parquet
                     what later snapshots need to compare with its kept documents -> sig/part-00000.parquet, bands/...

The history is a list of select snapshots. New documents are compared with the documents that these kept, and those stay
kept. Their texts are read again, so text/<snapshot> of the history must be in the lake. The history is recorded among
the inputs, so a second run with the same arguments compares with the same snapshots, even if others were published
since.

Cost: signatures take a core second per 4,000 documents of 730 words; judgement.py has the cost of the duplicates.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.config import SelectConfig
from data.errors import InputError
from data.lake.manifest import Manifest, Part, settings_diff
from data.lake.names import base_snapshot
from data.lake.store import Dataset, Lake
from data.schema import SELECT, SelectStatus
from data.select import filters, judgement, minhash
from data.select.plan import Plan, band_names, seal
from data.select.shingles import exact_hash, shingles
from data.stage import Mapper, StageResult, in_turn, run_stage

SIGNATURES = "sig-"
SCHEME = ("ngram", "char_ngram", "permutations", "bands", "rows", "minhash_seed", "threshold")
"""Settings that must equal the history's: signatures made with others cannot be compared."""


def run(
    lake: Lake, snapshot: str, history: Sequence[str] | None, config: SelectConfig, mapper: Mapper = in_turn
) -> StageResult:
    """Select from the documents of ``text/<snapshot without its variant>``.

    ``history`` names the select snapshots to compare with, in any order; they count as earlier in the order of their
    names. None means the ones recorded when this dataset was begun; for a new dataset, all published ones with the same
    variant.

    Raises InputError if the history is not published, has another MinHash scheme, has lost its texts, or contains the
    snapshot itself.
    """
    text = lake.dataset("text", base_snapshot(snapshot)).require()
    history = _history_names(lake, snapshot, history)
    earlier = [lake.dataset("select", name).require() for name in history]
    dataset = lake.dataset("select", snapshot)
    for manifest in earlier:
        _check_scheme(manifest, config)
        if dataset.manifest() is None:
            _check_texts(lake, manifest)
    names = [part.name for part in text.parts]

    def rounds() -> Iterator[list[str]]:
        yield [f"{SIGNATURES}{name}" for name in names]
        yield from judgement.rounds(Plan(lake, snapshot, config, history))
        yield names

    return run_stage(
        dataset,
        config,
        {"text": text.digest, **{f"history:{manifest.snapshot}": manifest.digest for manifest in earlier}},
        rounds,
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


def _check_texts(lake: Lake, manifest: Manifest) -> None:
    """Near-copies of the history's documents are verified with their texts."""
    base = base_snapshot(manifest.snapshot)
    dataset = lake.dataset("text", base)
    text = dataset.manifest()
    advice = f"restore it, or name the snapshots to compare with by --history, without {manifest.snapshot}"
    if text is None:
        raise InputError(f"text/{base} is missing, and select/{manifest.snapshot} was made from it; {advice}")
    if text.digest != manifest.inputs["text"]:
        raise InputError(f"text/{base} is not the one that select/{manifest.snapshot} was made from; {advice}")
    present = set(lake.names(*dataset.names()))
    for part in text.parts:
        for file in part.files:
            if file.path not in present:
                where = lake.path(*dataset.names(file.path))
                raise InputError(f"{where} is missing, and select/{manifest.snapshot} was made from it; {advice}")


def make_part(lake_root: str, snapshot: str, config: SelectConfig, name: str) -> Part:
    """Make and seal the part with the given name, in any of the rounds."""
    lake = Lake(lake_root)
    if name.startswith(SIGNATURES):
        return _sign(lake, snapshot, config, name.removeprefix(SIGNATURES))
    if name.startswith("part-"):
        return _give_verdicts(lake, snapshot, config, name)
    begun = lake.dataset("select", snapshot).begun()
    assert begun is not None, "the dataset was begun before its parts are made"
    return judgement.make_part(Plan(lake, snapshot, config, _recorded_history(begun)), name)


def _texts(lake: Lake, snapshot: str) -> Dataset:
    return lake.dataset("text", base_snapshot(snapshot))


def _sign(lake: Lake, snapshot: str, config: SelectConfig, name: str) -> Part:
    """The first round: the signatures and band hashes of the rows that pass the filters."""
    table = _texts(lake, snapshot).read(f"{name}.parquet", [*filters.COLUMNS, "text"])
    verdicts = [filters.verdict(row, config)[0] for row in table.select(filters.COLUMNS).to_pylist()]
    passed = np.flatnonzero([verdict == SelectStatus.OK for verdict in verdicts])
    chosen = table.take(pa.array(passed, pa.int64()))
    texts = chosen.column("text").to_pylist()
    languages = chosen.column("language").to_pylist()
    documents = (shingles(text, language, config) for text, language in zip(texts, languages, strict=True))
    signed = minhash.signatures(documents, permutations=config.permutations, seed=config.minhash_seed)
    hashes = minhash.band_hashes(signed, config.bands)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "row": pa.array(passed, pa.int32()),
        "doc_id": chosen.column("doc_id"),
        "karma": chosen.column("karma"),
        "exact_hash": pa.array([exact_hash(text) for text in texts], pa.binary(16)),
        "signature": pa.array([row.astype("<u4").tobytes() for row in signed], pa.binary(4 * config.permutations)),
        **{band: pa.array(hashes[:, k]) for k, band in enumerate(band_names(config))},
    }
    dataset = lake.dataset("select", snapshot)
    return seal(dataset, f"{SIGNATURES}{name}", {f"candidates/{name}.parquet": pa.table(columns)})


def _give_verdicts(lake: Lake, snapshot: str, config: SelectConfig, name: str) -> Part:
    """The last round: a verdict for each row of the text part, and the files that later snapshots compare with."""
    dataset = lake.dataset("select", snapshot)
    dropped = {row["row"]: row for row in dataset.read(f"judged/{name}.parquet").to_pylist()}
    rows = []
    for number, row in enumerate(_texts(lake, snapshot).read(f"{name}.parquet", filters.COLUMNS).to_pylist()):
        status, reason = filters.verdict(row, config)
        verdict = dropped.get(number, {"status": str(status), "reason": reason, "duplicate_of": None})
        rows.append({**verdict, "doc_id": row["doc_id"]})
    verdicts = pa.Table.from_pylist([{key: row[key] for key in SELECT.names} for row in rows], schema=SELECT)
    candidates = dataset.read(f"candidates/{name}.parquet")
    candidates = candidates.append_column("rank", dataset.read(f"order/{name}.parquet", ["rank"]).column("rank"))
    is_dropped = pc.is_in(candidates.column("row"), pa.array(list(dropped), pa.int32()))
    kept = candidates.filter(pc.invert(is_dropped))
    tables = {
        f"{name}.parquet": verdicts,
        f"sig/{name}.parquet": kept.select(["doc_id", "row", "karma", "exact_hash", "signature"]),
        f"bands/{name}.parquet": kept.select(["doc_id", "rank", *band_names(config)]),
    }
    return seal(dataset, name, tables, counts=Counter(row["status"] for row in rows))
