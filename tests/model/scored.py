"""Scores in a lake without a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from data.lake.store import Lake
from model import scores
from model.scores import Items, MeasuredOn, Record


def make_record(**changes: Any) -> Record:
    score = {"metric": "accuracy", "accuracy": 0.5, "lower_is_better": False}
    data = MeasuredOn("f.jsonl", "ab" * 32)
    settings = {"limit": 100}
    record = Record("t", 1, "h", "k", data, "r", 2, "c", "w", "0", None, settings, 1.0, score, Items(0, ""))
    return dataclasses.replace(record, **changes)


def publish_score(lake: Lake, run: str, earned: list[float], **changes: Any) -> Record:
    """The accuracy of these credits at step 2 of a run; two examples make a document."""
    score = {"metric": "accuracy", "accuracy": sum(earned) / len(earned), "lower_is_better": False}
    rows = [{"item": f"{i:03d}", "document": f"d{i // 2}", "credit": one} for i, one in enumerate(earned)]
    return scores.publish(lake, make_record(**{"model": run, "score": score, **changes}), rows)
