"""A variant of a select dataset without the documents that share long strings with evaluation sets.

``webtext overlap`` has found them among the training documents (data/overlap/stage.py). They become ``contaminated``;
every other verdict is copied. So a near-copy of a contaminated document stays dropped as its duplicate.

The variant has no signatures: later snapshots compare with the dataset that it was made from, and are decontaminated
themselves.
"""

from __future__ import annotations

import functools
from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from data.config import DecontaminateConfig
from data.errors import InputError
from data.lake.manifest import Part
from data.lake.names import base_snapshot
from data.lake.store import Lake, write_parquet
from data.schema import SelectStatus
from data.stage import Mapper, StageResult, in_turn, run_stage


def run(
    lake: Lake,
    snapshot: str,
    variant: str,
    overlap: str,
    config: DecontaminateConfig,
    mapper: Mapper = in_turn,
) -> StageResult:
    """Make ``select/<variant>`` from ``select/<snapshot>``, without what ``overlap/<overlap>`` found in it.

    Raises InputError if one of the two is not published, or if the variant is the snapshot itself or was made
    otherwise.
    """
    assert base_snapshot(variant) == base_snapshot(snapshot), (variant, snapshot)
    if variant == snapshot:
        raise InputError(f"--decontaminate {variant.partition('@')[2]}: {snapshot} has this name; choose another")
    select = lake.dataset("select", snapshot).require()
    found = lake.dataset("overlap", overlap).require()
    names = [part.name for part in lake.dataset("text", base_snapshot(snapshot)).require().parts]
    return run_stage(
        lake.dataset("select", variant),
        config,
        {f"select:{snapshot}": select.digest, "overlap": found.digest},
        lambda: [names],
        functools.partial(make_part, lake.root, snapshot, variant, overlap, config),
        mapper,
    )


def make_part(
    lake_root: str, snapshot: str, variant: str, overlap: str, config: DecontaminateConfig, name: str
) -> Part:
    """Make and seal the verdicts on one text part."""
    lake = Lake(lake_root)
    verdicts = lake.dataset("select", snapshot).read(f"{name}.parquet")
    found = lake.dataset("overlap", overlap).read(f"{snapshot}-{name}.parquet", ["doc_id", "evalset", "longest_words"])
    reasons: dict[bytes, str] = {}
    for row in found.sort_by([("longest_words", "ascending"), ("evalset", "descending")]).to_pylist():
        if row["longest_words"] >= config.min_common_words:
            reasons[row["doc_id"]] = f"{row['longest_words']} words in common with {row['evalset']}"
    ids = verdicts.column("doc_id").to_pylist()
    is_dropped = pc.and_(
        pc.equal(verdicts.column("status"), str(SelectStatus.OK)), pa.array([doc_id in reasons for doc_id in ids])
    )
    changed = {
        "status": pa.array([str(SelectStatus.CONTAMINATED)] * len(ids), pa.string()),
        "reason": pa.array([reasons.get(doc_id) for doc_id in ids], pa.string()),
    }
    for column, values in changed.items():
        place = verdicts.schema.get_field_index(column)
        new = pc.if_else(is_dropped, values, verdicts.column(column))
        verdicts = verdicts.set_column(place, verdicts.schema.field(place), new)
    with lake.scratch() as folder:
        write_parquet(verdicts, folder / name)
        file = f"{name}.parquet"
        counts = Counter(verdicts.column("status").to_pylist())
        dataset = lake.dataset("select", variant)
        return dataset.seal(name, {file: folder / name}, verdicts, counts=counts, rows={file: len(ids)})
