"""``webtext report``: one self-contained HTML page with the funnels, the curves and the tables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from data.clusters import Cluster
from data.errors import InputError
from data.lake.names import base_snapshot
from data.lake.store import Lake, code_version
from data.report import snapshot_report
from data.schema import STATUSES
from flows import services
from flows.progress import say
from flows.settings import Settings
from model import scores
from model.evals.published import SIZES
from model.plots import History
from model.report import RunReport, run_report
from model.runs import read_record
from model.tracking import metric_history

METRICS = ("loss", "val_loss")
SAMPLES = 3
SAMPLE_TOKENS = 120


@dataclass(frozen=True)
class WrittenReport:
    """The page, the names of the snapshots and runs on it, and what is suspicious in them."""

    file: str
    snapshots: list[str]
    runs: list[str]
    clusters: dict[str, list[Cluster]]  # of duplicates, by snapshot
    warnings: list[str]


def write_report(settings: Settings, snapshot: str | None, run: str | None, to: Path) -> WrittenReport:
    """Write the page, whole or not at all. Raises InputError for a snapshot or run that is not in the lake."""
    lake = Lake(settings.lake)
    everything = snapshot is None and run is None
    snapshots = [snapshot] if snapshot else _snapshots(lake) if everything else []
    begun = [name for name in lake.datasets("checkpoints") if lake.exists("checkpoints", name, "run.json")]
    runs = [run] if run else begun if everything else []
    reports = [snapshot_report(lake, name) for name in snapshots]
    page = (
        jinja2.Environment(loader=jinja2.PackageLoader("flows.cli"), autoescape=True, undefined=jinja2.StrictUndefined)
        .get_template("report.html")
        .render(
            lake=lake.root,
            written_at=datetime.now(UTC).isoformat(timespec="seconds"),
            version=code_version(),
            meanings={stage: {s.value: s.__doc__ for s in statuses} for stage, statuses in STATUSES.items()},
            snapshots=reports,
            runs=[_run(lake, name, settings, is_alone=run is not None) for name in runs],
            sizes=list(SIZES),
        )
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    scratch = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        scratch.write_text(page)
        scratch.replace(to)
    finally:
        scratch.unlink(missing_ok=True)
    warnings = [warning for report in reports for warning in report.warnings]
    for warning in warnings:
        say(f"warning: {warning}")
    clusters = {report.snapshot: report.clusters for report in reports}
    return WrittenReport(str(to), snapshots, runs, clusters, warnings)


def _snapshots(lake: Lake) -> list[str]:
    """All snapshots with links. A variant takes the place of its base, whose stages it includes."""
    selected = lake.snapshots("select")
    bases = {base_snapshot(name) for name in selected}
    return sorted({*selected, *(name for name in lake.snapshots("links") if name not in bases)})


def _run(lake: Lake, run: str, settings: Settings, *, is_alone: bool) -> RunReport:
    """A report of one run alone has samples and items, too."""
    history = _history(lake, run, settings)
    return run_report(lake, run, history, with_items=is_alone, samples=_samples(settings, run) if is_alone else [])


def _history(lake: Lake, run: str, settings: Settings) -> History:
    """The run's curve from MLflow, whose server is started if necessary; empty for a run that was not tracked."""
    if not lake.exists("checkpoints", run, "run.json"):
        if scores.steps(lake, run):  # a model that was not trained here
            return {}
        raise InputError(f"--run {run}: no such run in {lake.root}")
    try:
        record = read_record(lake, run)
        if not record or not record["mlflow_run_id"]:
            return {}
        history: History = metric_history(services.ensure(settings).mlflow_uri, record["mlflow_run_id"], METRICS)
    except InputError as error:  # a damaged record, or a lake from elsewhere whose curves are in another MLflow
        say(f"report: no curve of {run}: {error}")
        return {}
    return history


def _samples(settings: Settings, run: str) -> list[str]:
    """Texts that the run's newest checkpoint writes from nothing; none if the lake has no checkpoint of it.

    As in the paper's section 8.2, the tokens are drawn from the 40 likeliest, and no text is chosen.
    """
    if not Lake(settings.lake).exists("checkpoints", run, "run.json"):
        return []
    from flows.cli.models import sample_text  # imports torch
    from model.generate import Sampling

    try:
        return [
            sample_text(settings, run, "", SAMPLE_TOKENS, Sampling(top_k=40, seed=seed)).text for seed in range(SAMPLES)
        ]
    except InputError as error:  # no intact checkpoint
        say(f"report: no samples of {run}: {error}")
        return []
