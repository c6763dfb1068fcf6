"""A training run in numbers and pictures: its curve, its facts, and the scores of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from data.figures import svg
from data.lake.store import Lake
from model import runs, scores

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

History = dict[str, list[tuple[int, float]]]
"""Metric name to (step, value), ascending by step."""


@dataclass(frozen=True)
class RunReport:
    """What a report of a run shows; figures are SVG."""

    run: str
    facts: list[tuple[str, str]]
    scores: list[dict[str, Any]]
    figures: list[str]


def run_report(lake: Lake, run: str, history: History) -> RunReport:
    """The report of a run: no curve if ``history`` is empty, no facts before the run is finished."""
    summary = runs.read_summary(lake, run) or {}
    facts = [(label, _text(summary[name])) for name, label in FACTS.items() if summary.get(name) is not None]
    figures = [_curve(history, summary.get("unigram_entropy"))] if history.get("loss") else []
    return RunReport(run, facts, _scores(lake, run), figures)


def _scores(lake: Lake, run: str) -> list[dict[str, Any]]:
    rows = []
    for step in scores.steps(lake, run):
        for task, record in scores.read_all(lake, run, step).items():
            score = record.score
            metric = score["metric"]
            low, high = score["interval"]
            best = score.get("best_baseline")
            value = score["baselines"][best]["value"] if best else None
            rows.append(
                {
                    "step": step,
                    "task": task,
                    "metric": metric,
                    "value": _text(score[metric]),
                    "interval": f"{_text(low)} .. {_text(high)}",
                    "n": _text(score["n"]),
                    "baseline": f"{_text(value)} ({best})" if best else "",
                }
            )
    return rows


def _curve(history: History, unigram_entropy: float | None) -> str:
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    for name, label, style in (("loss", "training", "-"), ("val_loss", "validation", "o-")):
        if history.get(name):
            axes.plot(*zip(*history[name], strict=True), style, label=label, markersize=3, linewidth=1.2)
    if unigram_entropy is not None:
        axes.axhline(unigram_entropy, color="grey", linestyle="--", linewidth=1, label="unigram entropy")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats/token)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
