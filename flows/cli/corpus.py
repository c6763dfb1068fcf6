"""``webtext export --corpus``: write a corpus for other programs."""

from __future__ import annotations

from pathlib import Path

from data.exports.corpus import ExportedCorpus, export_corpus
from data.lake.store import Lake
from flows.progress import Bar
from flows.settings import Settings


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
