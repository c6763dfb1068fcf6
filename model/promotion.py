"""The champion: the version of MLflow's registered model that others should use.

A checkpoint takes its place if it is better at one named task, with the same documents and p < 0.05 by the paired
bootstrap (model/compare.py). The first one takes it without a fight. Who was beaten, and by how much, is written on the
version: in words in its description, as numbers in its tags.

The task must be the same for both: same version, data and limit. A champion of another corpus has other held-out
documents, so name a task with an official file, or score both on one corpus (``--corpus``).
"""

from __future__ import annotations

from data.errors import InputError
from data.lake.store import Lake
from model import checkpoint, scores
from model.compare import SIGNIFICANT, NotComparable, TaskComparison, compare_records
from model.events import Promotion
from model.scores import Record
from model.tracking import Champion, Tracker


def promote(lake: Lake, tracker: Tracker, model: str, run: str, step: int, task: str) -> Promotion:
    """Make the checkpoint the champion of the registered ``model`` if it is better; says what became of it.

    Its weights are copied to MLflow if they are not there. Raises TrackingError if MLflow does not answer, InputError
    if the checkpoint has no score of the task.
    """
    record = scores.read_all(lake, run, step).get(task)
    if record is None:
        raise InputError(f"--promote {task}: {run} has no score of it at step {step}; add it to --tasks")
    with lake.lock("champion"):  # two evaluations could both beat the same champion
        champion = tracker.champion(model)
        if champion and (champion.run, champion.step) == (run, step):
            return Promotion(task, True, f"{champion} is the champion already")
        if champion is None:
            reason = f"the first champion: {record.metric} {_number(record.value)} at {task}"
            return _register(lake, tracker, model, record, reason, {})
        try:
            found = _against(lake, champion, record)
        except NotComparable as error:
            return Promotion(task, False, f"not compared with the champion, {champion}: {error}")
        words = _in_words(found, champion, task)
        if found.better != "b":
            verdict = "worse" if found.better else "not better"
            return Promotion(task, False, f"{verdict} than {words}", found.difference, found.p)
        tags = {
            "beaten": f"{champion.run}/{checkpoint.step_name(champion.step)}",
            "beaten_version": champion.version,
            "beaten_value": repr(found.a),
            "difference": repr(found.difference),
            "difference_low": repr(found.interval[0]),
            "difference_high": repr(found.interval[1]),
            "p": repr(found.p),
        }
        return _register(lake, tracker, model, record, f"better than {words}", tags, found)


def _against(lake: Lake, champion: Champion, record: Record) -> TaskComparison:
    other = scores.read_all(lake, champion.run, champion.step).get(record.task)
    if other is None:
        where = lake.path("checkpoints", champion.run, checkpoint.step_name(champion.step))
        raise NotComparable(
            f"the lake has no score of it; run webtext eval --checkpoint {where} --tasks {record.task}, or, if the "
            "checkpoint is gone, remove the alias in MLflow"
        )
    return compare_records(lake, other, record)


def _in_words(found: TaskComparison, champion: Champion, task: str) -> str:
    low, high = found.interval
    return (
        f"{champion} at {task}: {found.metric} {_number(found.b)} instead of {_number(found.a)}, difference "
        f"{_number(found.difference)} (95 % interval {_number(low)} .. {_number(high)}), p = {found.p:.4f} by the "
        f"paired bootstrap over {found.documents:,} documents; the rule is p < {SIGNIFICANT}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _register(
    lake: Lake,
    tracker: Tracker,
    model: str,
    record: Record,
    reason: str,
    tags: dict[str, str],
    found: TaskComparison | None = None,
) -> Promotion:
    with checkpoint.artifacts(lake, record.model, record.step) as folder:
        model_id = tracker.log_checkpoint(record.step, {}, folder)
    tags = {"task": record.task, "metric": record.metric, "value": repr(record.value), **tags}
    description = f"{record.model} at step {record.step:,}: {reason}."
    tracker.promote(model, model_id, record.model, record.step, description, tags)
    return Promotion(record.task, True, reason, found.difference if found else None, found.p if found else None)
