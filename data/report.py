"""A snapshot in numbers and pictures: the funnel, the losses by reason, what the corpus consists of, and the largest
clusters of duplicates.

It reads manifests and single columns, one part at a time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from data.clusters import Cluster, largest_clusters, warning
from data.figures import svg
from data.lake.names import base_snapshot
from data.lake.store import Lake
from data.overlap import stage as overlap
from data.schema import STAGES

TOP = 20


@dataclass(frozen=True)
class SnapshotReport:
    """Figures are SVG elements; ``stages`` has one entry per published stage, in the order of STAGES."""

    snapshot: str
    stages: list[dict[str, Any]]
    domains: list[tuple[str, int]]
    languages: list[tuple[str, int]]
    figures: dict[str, str]
    clusters: list[Cluster]
    warnings: list[str]
    overlap: list[dict[str, Any]]  # rows of overlap.stage.SUMMARY with ``corpus``, for each result of `webtext overlap`


def snapshot_report(lake: Lake, snapshot: str) -> SnapshotReport:
    """Raises InputError if the snapshot has no published links."""
    lake.dataset("links", base_snapshot(snapshot)).require()
    stages = []
    for stage in STAGES:
        name = snapshot if stage in ("select", "tokens") else base_snapshot(snapshot)
        manifest = lake.dataset(stage, name).manifest()
        if manifest is not None:
            stages.append({"stage": stage, "manifest": manifest})
    domains, languages, words = _kept_texts(lake, snapshot)
    figures = {"funnel": _funnel(stages)}
    if words.size:
        figures["length"] = _length(words)
    is_judged = any(entry["stage"] == "select" for entry in stages)
    clusters = largest_clusters(lake, snapshot) if is_judged else []
    warnings = [text for cluster in clusters if (text := warning(snapshot, cluster))]
    top = domains.most_common(TOP), languages.most_common(TOP)
    return SnapshotReport(snapshot, stages, *top, figures, clusters, warnings, _overlap(lake, snapshot))


def _overlap(lake: Lake, snapshot: str) -> list[dict[str, Any]]:
    return [
        {**row, "corpus": ", ".join(manifest.settings["corpus"])}
        for manifest in overlap.results(lake, snapshot)
        for row in overlap.summary(lake, manifest)
    ]


def _kept_texts(lake: Lake, snapshot: str) -> tuple[Counter[str], Counter[str], np.ndarray[Any, Any]]:
    """Domains and lengths (words) of the selected documents, and the languages of all extracted ones."""
    domains: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    words: list[np.ndarray[Any, Any]] = []
    select = lake.dataset("select", snapshot)
    manifest = select.manifest()
    text = lake.dataset("text", base_snapshot(snapshot))
    for part in manifest.parts if manifest else ():
        for file in part.files:
            if file.path != f"{part.name}.parquet":
                continue
            is_kept = np.asarray(select.read(file.path, columns=["status"])["status"].to_pylist()) == "ok"
            rows = text.read(file.path, columns=["domain", "language", "n_words"])
            languages.update(language for language in rows["language"].to_pylist() if language)
            kept = rows.filter(is_kept) if len(is_kept) else rows
            domains.update(kept["domain"].to_pylist())
            words.append(kept["n_words"].to_numpy())
    return domains, languages, np.concatenate(words) if words else np.empty(0)


def _funnel(stages: list[dict[str, Any]]) -> str:
    figure = Figure(figsize=(8, 0.7 + 0.55 * len(stages)))
    axes = figure.subplots()
    for row, entry in enumerate(stages):
        left = 0
        counts = sorted(entry["manifest"].counts.items(), key=lambda item: (item[0] != "ok", -item[1]))
        for index, (status, count) in enumerate(counts):
            color = "#2a7f62" if status == "ok" else matplotlib.colormaps["autumn"]((index % 8) / 8)
            axes.barh(row, count, left=left, color=color, edgecolor="white", linewidth=0.5)
            left += count
        axes.text(
            left, row, f" {entry['manifest'].rows_out:,} of {entry['manifest'].rows_in:,}", va="center", fontsize=8
        )
    axes.set_yticks(range(len(stages)), [entry["stage"] for entry in stages])
    axes.invert_yaxis()
    axes.set_xlabel("rows (green: ok, the rest by reason)")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _length(words: np.ndarray[Any, Any]) -> str:
    figure = Figure(figsize=(8, 2.6))
    axes = figure.subplots()
    edges = np.logspace(np.log10(max(1, words.min())), np.log10(words.max() + 1), 50)
    axes.hist(words, bins=list(edges), color="#2a7f62")
    axes.set_xscale("log")
    axes.set_xlabel("words per selected document")
    axes.set_ylabel("documents")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)
