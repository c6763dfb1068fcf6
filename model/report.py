"""A training run in numbers and pictures: its scores beside the paper's, its curve, its facts, and its items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import InputError
from data.lake.store import Lake
from model import plots, runs, scores
from model.evals import published
from model.evals.published import Published
from model.plots import History, Point
from model.scores import Record

FACTS = {
    "steps": "steps",
    "tokens_seen": "tokens seen",
    "epochs": "epochs",
    "train_share_seen": "share of the training tokens seen",
    "parameters": "parameters",
    "train_loss": "training loss (nats/token, mean of the last steps)",
    "val_loss": "validation loss (nats/token)",
    "unigram_entropy": "unigram entropy of the training tokens (nats/token)",
    "tokens_per_s": "tokens/s",
    "seconds": "seconds",
    "checkpoint": "checkpoint",
    "mlflow_run_id": "MLflow run",
}
SHOWN_ITEMS = 3  # the most and the least confident ones of each task
_NOT_SAID = ("item", "document", "text", "credit", "confidence")


@dataclass(frozen=True)
class ScoreRow:
    """A score in words. A row of the paper's table has the paper's numbers too, and is empty if it was not scored."""

    title: str
    task: str
    unit: str  # or the metric
    value: str = ""
    interval: str = ""
    n: str = ""
    baseline: str = ""
    best_baseline: str = ""
    control: str = ""
    overlap: str = ""
    published: tuple[str, ...] = ()  # by size
    before: str = ""
    where: str = ""


@dataclass(frozen=True)
class ShownItem:
    item: str
    confidence: str
    outcome: str  # right, wrong, or the credit
    text: str
    said: list[tuple[str, str]]  # the other columns


@dataclass(frozen=True)
class TaskItems:
    """``problem`` says why there are none."""

    task: str
    most: list[ShownItem]
    least: list[ShownItem]
    problem: str = ""


@dataclass(frozen=True)
class RunReport:
    """What a report of a run shows; figures are SVG. Scores are those of the newest scored checkpoint."""

    run: str
    facts: list[tuple[str, str]]
    figures: dict[str, str]
    step: int | None
    paper: list[ScoreRow]
    others: list[ScoreRow]
    items: list[TaskItems]
    samples: list[str]

    @property
    def has_control(self) -> bool:
        return any(row.control for row in (*self.paper, *self.others))

    @property
    def has_overlap(self) -> bool:
        return any(row.overlap for row in (*self.paper, *self.others))


def run_report(
    lake: Lake, run: str, history: History, *, with_items: bool = False, samples: list[str] | None = None
) -> RunReport:
    """The report of a run, or of another model that was scored: no curve if ``history`` is empty, no facts before the
    run is finished. ``samples`` are texts that the model wrote."""
    summary = runs.read_summary(lake, run) or {}
    facts = [(label, _text(summary[name])) for name, label in FACTS.items() if summary.get(name) is not None]
    steps = {step: scores.read_all(lake, run, step) for step in scores.steps(lake, run)}
    newest = steps[max(steps)] if steps else {}
    figures = {}
    if newest:
        figures["sizes"] = plots.by_size(published.ROWS, _in_paper_units(newest), summary.get("parameters"))
    if over_steps := _over_steps(steps):
        figures["steps"] = over_steps
    if history.get("loss"):
        figures["curve"] = plots.curve(history, summary.get("unigram_entropy"))
    in_paper = {row.task for row in published.ROWS}
    return RunReport(
        run=run,
        facts=facts,
        figures=figures,
        step=max(steps) if steps else None,
        paper=[_paper_row(row, newest.get(row.task)) for row in published.ROWS],
        others=[_score_row(record) for task, record in newest.items() if task not in in_paper],
        items=[_items(lake, record) for record in newest.values()] if with_items else [],
        samples=samples or [],
    )


def _paper_row(row: Published, record: Record | None) -> ScoreRow:
    fields: dict[str, Any] = {}
    metric = row.metric or (record.metric if record else "")
    if record and metric in record.score:
        low, high = record.score["intervals"].get(metric, (None, None))
        fields = {
            "value": _text(record.score[metric] * row.scale),
            "interval": "" if low is None else f"{_text(low * row.scale)} .. {_text(high * row.scale)}",
            "n": _text(record.score["n"]),
            **_context(record, metric, row.scale),
        }
    return ScoreRow(
        title=row.title,
        task=row.task,
        unit=row.unit,
        published=tuple("" if value is None else f"{value:g}" for value in row.values),
        before="" if row.before is None else f"{row.before:g}",
        where=row.where,
        **fields,
    )


def _score_row(record: Record) -> ScoreRow:
    low, high = record.score["interval"]
    return ScoreRow(
        title=record.task,
        task=record.task,
        unit=record.metric,
        value=_text(record.value),
        interval=f"{_text(low)} .. {_text(high)}",
        n=_text(record.score["n"]),
        **_context(record, record.metric, 1.0),
    )


def _context(record: Record, metric: str, scale: float) -> dict[str, Any]:
    """What a score must be read beside, as far as it is known: trivial baselines, the control, the overlap."""
    score = record.score
    found: dict[str, Any] = {}
    best = score.get("best_baseline")
    if best and metric == record.metric:
        found["baseline"] = _text(score["baselines"][best]["value"] * scale)
        found["best_baseline"] = best.replace("_", " ")
    if f"control_{metric}" in score:
        found["control"] = _text(score[f"control_{metric}"] * scale)
    if "train_overlap" in score:
        found["overlap"] = f"{score['train_overlap']:.2%}"
    return found


def _in_paper_units(records: Mapping[str, Record]) -> dict[int, Point]:
    found: dict[int, Point] = {}
    for i, row in enumerate(published.ROWS):
        record = records.get(row.task)
        metric = row.metric or (record.metric if record else "")
        if record and metric in record.score:
            found[i] = _point(record, metric, row.scale)
    return found


def _point(record: Record, metric: str, scale: float = 1.0) -> Point:
    interval = record.score["intervals"].get(metric)
    return record.score[metric] * scale, (interval[0] * scale, interval[1] * scale) if interval else None


def _over_steps(steps: Mapping[int, Mapping[str, Record]]) -> str:
    """A figure of the tasks that several checkpoints have a score of; empty if there are none."""
    series: dict[str, list[tuple[int, Point]]] = {}
    baselines = {}
    for step, records in steps.items():
        for task, record in records.items():
            name = f"{task} {record.metric}"
            series.setdefault(name, []).append((step, _point(record, record.metric)))
            if best := record.score.get("best_baseline"):
                baselines[name] = record.score["baselines"][best]["value"]
    several = {name: points for name, points in sorted(series.items()) if len(points) > 1}
    return plots.by_step(several, baselines) if several else ""


def _items(lake: Lake, record: Record) -> TaskItems:
    """The most and the least confident items; equally confident ones in the order of their names."""
    try:
        rows = scores.read_items(lake, record).to_pylist()
    except InputError as error:
        return TaskItems(record.task, [], [], str(error))
    known = [(confidence, row) for row in rows if (confidence := _confidence(row)) is not None]
    most = sorted(known, key=lambda one: (-one[0], one[1]["item"]))[:SHOWN_ITEMS]
    rest = sorted(known, key=lambda one: (one[0], one[1]["item"]))[:SHOWN_ITEMS]
    least = [one for one in rest if one not in most]
    problem = "" if known else "its items have no confidence"
    return TaskItems(
        record.task, [_shown(record, *one) for one in most], [_shown(record, *one) for one in least], problem
    )


def _confidence(row: Mapping[str, Any]) -> float | None:
    """By the columns that ``Subject.keep`` explains."""
    if row.get("confidence") is not None:
        return float(row["confidence"])
    if row.get("log_prob") is not None:
        return math.exp(row["log_prob"])
    return math.exp(-row["nats"] / row.get("per", 1.0)) if row.get("nats") is not None else None


def _shown(record: Record, confidence: float, row: Mapping[str, Any]) -> ShownItem:
    credit = row.get("credit", row.get(record.metric))
    outcome = "" if credit is None else {0.0: "wrong", 1.0: "right"}.get(credit, _text(credit))
    said = [(name, _text(value)) for name, value in row.items() if name not in _NOT_SAID and value is not None]
    return ShownItem(str(row["item"]), f"{confidence:.3g}", outcome, str(row.get("text") or ""), said)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
