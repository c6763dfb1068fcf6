"""Two scored checkpoints against each other, task by task: the difference, its interval and its significance.

Only scores of the same task version, data and limit are compared, and only with the items that they are made of: the
items must be the same ones, and they must add up to the score. Anything else is refused with the reason.

The interval and p answer how far the difference depends on the choice of documents. They say nothing about luck in
training. Where the lake has several runs that differ in their seed alone, the spread of their scores is shown beside
it: a difference within that spread is no difference between two settings.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from data.errors import InputError
from data.lake.store import Lake
from model import runs, scores
from model.evals import stats
from model.evals.stats import Floats
from model.scores import Record

SIGNIFICANT = 0.05
_ROUNDING = 1e-6


class NotComparable(InputError):  # noqa: N818 - an outcome, not an error
    """Two scores cannot be compared; the message says why."""


@dataclass(frozen=True)
class Side:
    run: str
    step: int


@dataclass(frozen=True)
class Spread:
    """The scores of runs that differ in their seed alone, at the same step."""

    runs: tuple[str, ...]
    mean: float
    std: float  # of the sample
    lowest: float
    highest: float


@dataclass(frozen=True)
class TaskComparison:
    """``difference`` = b - a. ``better`` is the side that is better with p < 0.05, if one is."""

    metric: str
    a: float
    b: float
    difference: float
    interval: tuple[float, float]
    p: float
    better: Literal["a", "b"] | None
    lower_is_better: bool
    items: int
    documents: int
    draws: int
    spread_a: Spread | None
    spread_b: Spread | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """All tasks that either has: compared, or refused with the reason."""

    a: Side
    b: Side
    tasks: dict[str, TaskComparison]
    refused: dict[str, str]


def compare(lake: Lake, a: str, b: str) -> Comparison:
    """The newest scored checkpoints of two runs. Raises InputError if they have no task that can be compared."""
    ours, theirs = scores.newest(lake, a), scores.newest(lake, b)
    compared = {}
    refused = {}
    for task in sorted({*ours, *theirs}):
        if task not in ours or task not in theirs:
            refused[task] = f"{a if task not in ours else b} has no score"
            continue
        try:
            compared[task] = compare_records(lake, ours[task], theirs[task])
        except NotComparable as reason:
            refused[task] = str(reason)
    if not compared:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in refused.items())
        raise InputError(f"--compare {a} {b}: nothing can be compared: {reasons}")
    side_a, side_b = (Side(name, next(iter(found.values())).step) for name, found in ((a, ours), (b, theirs)))
    return Comparison(side_a, side_b, compared, refused)


def compare_records(lake: Lake, a: Record, b: Record) -> TaskComparison:
    """Two scores of one task. Raises NotComparable if they are of different things, InputError for a damaged file."""
    _require_equal(a, b)
    ours, theirs = (scores.read_items(lake, record).sort_by("item") for record in (a, b))
    if ours.column("item") != theirs.column("item"):
        raise NotComparable(f"other items ({len(ours)} and {len(theirs)}): the models' contexts may differ")
    statistic = statistic_of(a.metric, ours)
    sums_a, sums_b = (_parts(record, table, statistic) for record, table in ((a, ours), (b, theirs)))
    documents = ours.column("document" if "document" in ours.column_names else "item").to_pylist()
    if a.score.get("documents", len(set(documents))) != len(set(documents)):
        raise NotComparable(f"its items name {len(set(documents))} documents, its score {a.score['documents']}")
    found = stats.paired(sums_a, sums_b, documents, statistic)
    better: Literal["a", "b"] | None = None
    if found.p < SIGNIFICANT:
        better = "b" if (found.value < 0) == a.lower_is_better else "a"
    return TaskComparison(
        metric=a.metric,
        a=found.a,
        b=found.b,
        difference=found.value,
        interval=found.interval,
        p=found.p,
        better=better,
        lower_is_better=a.lower_is_better,
        items=len(ours),
        documents=found.clusters,
        draws=found.draws,
        spread_a=spread(lake, a),
        spread_b=spread(lake, b),
        notes=("the code of the task differs, though not its version",) if a.task_hash != b.task_hash else (),
    )


def _require_equal(a: Record, b: Record) -> None:
    for what, one, other in (
        ("versions of the task", a.version, b.version),
        ("data", f"{a.data.name} {a.data.digest[:12]}", f"{b.data.name} {b.data.digest[:12]}"),
        ("limits", a.settings["limit"], b.settings["limit"]),
        ("main metrics", a.metric, b.metric),
    ):
        if one != other:
            raise NotComparable(f"other {what}: {one} and {other}")


def statistic_of(metric: str, items: pa.Table) -> Callable[[Floats, Floats], Floats]:
    """The metric of sums of numerators and denominators, by the columns that ``Subject.keep`` explains."""
    if _numerators(metric, items) != "nats":
        return lambda top, bottom: top / bottom
    if metric.startswith("perplexity"):
        return lambda top, bottom: np.exp(top / bottom)
    unit = math.log(2) if metric.startswith("bits_per") else 1.0
    return lambda top, bottom: top / bottom / unit


def _numerators(metric: str, items: pa.Table) -> str:
    return next((name for name in ("credit", metric) if name in items.column_names), "nats")


def _parts(
    record: Record, items: pa.Table, statistic: Callable[[Floats, Floats], Floats]
) -> tuple[Sequence[float], Sequence[float]]:
    """Numerators and denominators of the items. Raises NotComparable if they do not add up to the score."""
    names = items.column_names
    column = _numerators(record.metric, items)
    if column not in names:
        raise NotComparable(f"its items have no credit, {record.metric} or nats")
    top = items.column(column).to_pylist()
    bottom = items.column("per").to_pylist() if column == "nats" and "per" in names else [1.0] * len(top)
    value = float(statistic(np.array([math.fsum(top)]), np.array([math.fsum(bottom)]))[0])
    if not math.isclose(value, record.value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise NotComparable(f"{record.model}: its items give {record.metric} {value:.6g}, its score is {record.value}")
    return top, bottom


def spread(lake: Lake, record: Record) -> Spread | None:
    """The scores of the runs with the settings of this one but other seeds; None if there is no other run."""
    found = {record.model: record.value}
    settings = _without_seed(lake, record.model)
    for run in lake.datasets("checkpoints") if settings else ():
        if run == record.model or record.step not in scores.steps(lake, run) or _without_seed(lake, run) != settings:
            continue
        other = scores.read_all(lake, run, record.step).get(record.task)
        if other is None:
            continue
        try:
            _require_equal(record, other)
        except NotComparable:
            continue
        found[run] = other.value
    if len(found) < 2:
        return None
    values = list(found.values())
    return Spread(tuple(sorted(found)), statistics.mean(values), statistics.stdev(values), min(values), max(values))


def _without_seed(lake: Lake, run: str) -> dict[str, Any] | None:
    """The settings that decide a run's result, without the seed; None if this is not a run with a readable record."""
    try:
        record = runs.read_record(lake, run)
    except InputError:
        return None
    return {name: value for name, value in record["settings"].items() if name != "seed"} if record else None
