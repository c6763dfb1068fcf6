"""``webtext export --corpus`` and ``webtext overlap``: write a corpus for other programs, compare it with test sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import DecontaminateConfig, TokensConfig
from data.exports.corpus import ExportedCorpus, export_corpus
from data.lake.names import base_snapshot, check_name
from data.lake.store import Lake
from data.overlap import stage as overlap_stage
from data.select import decontaminate
from data.stage import MakePart, Mapper
from data.tokens import stage as tokens_stage
from flows.progress import Bar
from flows.settings import Settings


@dataclass(frozen=True)
class SetOverlap:
    """How much of an evaluation set is in a corpus. ``n_grams`` counts repeated 8-grams each time."""

    evalset: str
    file: str
    n_grams: int
    in_corpus: int
    share: float  # of n_grams, in 0..1
    in_training_set: int | None  # in its own training part; None if its file was not there
    training_share: float | None
    documents: int  # training documents with at least one


@dataclass(frozen=True)
class OverlapResult:
    """``variants`` holds the decontaminated snapshots, with their documents and the number of those left out."""

    snapshots: list[str]
    dataset: str
    digest: str
    documents: int  # training documents of the corpus
    false_hits: int  # of the filter, found out by comparing strings
    sets: list[SetOverlap]
    variants: dict[str, dict[str, int]]
    skipped: bool


def overlap(settings: Settings, snapshots: list[str], eval_data: Path, variant: str | None) -> OverlapResult:
    """Search with a progress bar; with ``variant``, make select and tokens of each snapshot without what was found."""
    lake = Lake(settings.lake)
    names = {one: check_name("snapshot", f"{base_snapshot(one)}@{variant}") for one in snapshots} if variant else {}
    with lake.lock("overlap"):
        found = overlap_stage.run(lake, snapshots, eval_data, _with_bar("overlap"))
    manifest = found.manifest
    variants = {}
    for snapshot, name in names.items():
        tokens = lake.dataset("tokens", snapshot).require().settings
        with lake.lock(f"refresh-{base_snapshot(snapshot)}"):
            select = decontaminate.run(
                lake, snapshot, name, manifest.snapshot, DecontaminateConfig(), _with_bar("select")
            ).manifest
            tokens_stage.run(lake, name, TokensConfig(**tokens), _with_bar("tokens"))
        variants[name] = {"documents": select.rows_out, "contaminated": select.counts.get("contaminated", 0)}
    return OverlapResult(
        snapshots=snapshots,
        dataset=f"{overlap_stage.STAGE}/{manifest.snapshot}",
        digest=manifest.digest,
        documents=manifest.rows_out,
        false_hits=manifest.extra["false_hits"],
        sets=[_set(row) for row in overlap_stage.summary(lake, manifest)],
        variants=variants,
        skipped=found.skipped,
    )


def _set(row: dict[str, Any]) -> SetOverlap:
    own = row["in_training_set"]
    total = max(1, row["n_grams"])
    return SetOverlap(
        evalset=row["evalset"],
        file=row["file"],
        n_grams=row["n_grams"],
        in_corpus=row["in_corpus"],
        share=row["in_corpus"] / total,
        in_training_set=own,
        training_share=None if own is None else own / total,
        documents=row["documents"],
    )


def _with_bar(what: str) -> Mapper:
    def mapper(make_part: MakePart, names: Sequence[str]) -> None:
        if names:
            with Bar(what, len(names), "parts") as bar:
                for name in names:
                    make_part(name)
                    bar.advance()

    return mapper


def export(settings: Settings, snapshots: list[str], form: str, to: Path) -> ExportedCorpus:
    """Export with a progress bar."""
    bar: Bar | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or Bar("export", total, "parts")
        bar.update(done)

    try:
        return export_corpus(Lake(settings.lake), snapshots, form, to, progress)
    finally:
        if bar:
            bar.close()
