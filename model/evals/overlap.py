"""What ``webtext overlap`` found of a benchmark file in a model's training documents, for the scores on that file."""

from __future__ import annotations

from collections.abc import Sequence

from data.evalsets.files import EvalFile
from data.lake.store import Lake


def train_overlap(lake: Lake, trained_on: Sequence[str], file: EvalFile) -> float | None:
    """The share of the file's 8-grams that are in the training documents; None if it was not measured for them."""
    if not trained_on:
        return None
    for name in lake.snapshots("overlap"):
        dataset = lake.dataset("overlap", name)
        manifest = dataset.require()
        if manifest.settings["corpus"] != list(trained_on):
            continue
        digests = {f"tokens:{one}": lake.dataset("tokens", one).require().digest for one in trained_on}
        if manifest.inputs != dict(sorted(digests.items())):
            continue
        for row in dataset.read("summary.parquet").to_pylist():
            if (row["evalset"], row["file_sha256"]) == (file.evalset, file.sha256) and row["n_grams"]:
                share: float = row["in_corpus"] / row["n_grams"]
                return share
    return None
