"""``python -m model.evaluate --spec FILE.json``: score a model on some or all tasks, and keep the scores in the lake.

Each task has a file of its own, with its items beside it (model/scores.py). A score has a key: the digest of the task,
its version, the weights, the limit and what it was measured on (corpus or file). A score whose key is already there is
not computed again. Files are published task by task, so a killed evaluation goes on at the task it was in. A task that
cannot be scored is listed under ``missing`` with what it needs. A file that is not the official one is refused, unless
``any_file``; the score says which it was (``file_check``).

Standard output holds one JSON object per line for the supervising process (model/events.py). Exit codes: see
model/program.py.

Cost: the head dominates small models, so the number of scored tokens counts. A model of 5 M parameters scores about
6,000 tokens/s on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from data.errors import InputError
from data.evalsets import files as evalsets
from data.evalsets import official
from data.evalsets.files import EvalFile
from data.lake.manifest import corpus_digest, json_digest
from data.lake.store import Lake, code_version
from data.process import die_with_parent
from model import completion, program, scores, scoring, world
from model.ablate import ablate
from model.capacity import Capacity
from model.causal import Causal
from model.evals import EvalSpec, heldout, overlap, source
from model.evals.heldout import HeldOut
from model.evals.published import metrics_of
from model.evals.source import Source
from model.evals.task import HELDOUT, SCORES, NotScored, Subject, Task, reporter
from model.evals.tasks import TASKS, select
from model.events import Emit, EvalEvent, EvalResult, Promotion, TrainEvent, Warned, to_line
from model.gpt2 import GPT2
from model.scores import Items, MeasuredOn, Record

MAX_METRICS = 60
"""Names of metrics in one MLflow run, those of training included: more make its pages unreadable."""


def evaluate(spec: EvalSpec, emit: Emit, clock: Callable[[], float] = time.monotonic) -> EvalResult:
    """Score the model of ``spec``; the result has ``skipped`` set if all its scores were there.

    Raises InputError for bad input: no such model, task or directory, a damaged file, a held-out document that is in
    the training split.
    """
    lake = Lake(spec.lake)
    tasks = select(spec.tasks)
    if spec.promote is not None and spec.promote not in TASKS:
        raise InputError(f"--promote {spec.promote}: no such task; choose from {', '.join(TASKS)}")
    model = source.find(spec, lake)
    with lake.lock(f"scores-{model.name}"):
        return _Evaluation(spec, lake, model, emit, clock).run(tasks)


class _Evaluation:
    """One model being scored. Weights and documents are loaded when the first task needs them."""

    def __init__(self, spec: EvalSpec, lake: Lake, model: Source, emit: Emit, clock: Callable[[], float]) -> None:
        self.spec = spec
        self.lake = lake
        self.source = model
        self.emit = emit
        self.clock = clock
        self.began = clock()
        self.device = world.join(spec.device).device
        self.snapshots = source.corpus_of(model, spec, lake)
        self.corpus_digest: str | None = None
        if self.snapshots:
            self.corpus_digest = corpus_digest(lake.dataset("tokens", name).require() for name in self.snapshots)
        self.files: dict[str, EvalFile] = evalsets.find(Path(spec.eval_data)) if spec.eval_data else {}
        self.warnings: list[str] = []
        for warning in source.warnings_of(model, spec):
            self._warn(warning)

    @functools.cached_property
    def model(self) -> GPT2 | Causal:
        return self.source.load(str(self.device))

    @functools.cached_property
    def capacity(self) -> Capacity:
        """Of all tasks: a task after one that ran out of memory begins with the smaller batches."""
        return scoring.capacity_for(self.model, self.spec.batch_tokens or "auto", self._warn)

    @functools.cached_property
    def writing_capacity(self) -> Capacity:
        """Of all tasks in which the model writes."""
        assert isinstance(self.model, GPT2)
        return completion.capacity_for(self.model, self.spec.batch_tokens or "auto", self._warn)

    @functools.cached_property
    def heldout(self) -> HeldOut:
        trained_on = tuple(name for name in self.source.trained_on if self.lake.dataset("tokens", name).manifest())
        absent = sorted(set(self.source.trained_on) - set(trained_on))
        if absent:
            self._warn(
                f"the lake has no tokens of {', '.join(absent)}: held-out documents may be among that training data"
            )
        elif not trained_on:
            self._warn("the model's training data is unknown: held-out documents may be among it")
        return heldout.load(self.lake, self.snapshots, trained_on)

    def run(self, tasks: list[Task]) -> EvalResult:
        records = self._kept()
        missing: dict[str, str] = {}
        found: dict[str, SCORES] = {}
        is_skipped = True
        for task in tasks:
            try:
                limit = self._limit(task)
                measured_on = self._measured_on(task)
                key = self._key(task, measured_on, limit)
                known = records.get(task.name)
                if known and known.key == key and not self._lacks_control(task, known.score):
                    noted = self._with_overlap(task, known.score)
                    if noted != known.score:  # it was measured since
                        records[task.name] = dataclasses.replace(known, score=noted, mlflow_run_id=None)
                        scores.update(self.lake, records[task.name])
                    found[task.name] = noted
                    continue
                is_skipped = False
                record, rows = self._score(task, measured_on, limit, key)
                found[task.name] = record.score
                kept = known.settings["limit"] if known else 0
                if known and kept > limit and (known.version, known.data) == (task.version, measured_on):
                    self._warn(f"{task.name}: not kept; the lake keeps a score of up to {kept} examples")
                    continue
                if task.slides and self.spec.stride is not None:
                    self._warn(f"{task.name}: not kept; the lake keeps scores with the default stride")
                    continue
                records[task.name] = scores.publish(self.lake, record, rows)
            except NotScored as reason:
                missing[task.name] = str(reason)
        if not found:
            raise InputError("nothing was scored: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
        run_id = self._attach(records)
        fields = {
            "scores": found,
            "missing": missing,
            "mlflow_run_id": run_id,
            "promotion": self._promote(run_id),
            "seconds": round(self.clock() - self.began, 2),
            "skipped": is_skipped,
            "warnings": self.warnings,
            "corpus": list(self.snapshots),
            "corpus_digest": self.corpus_digest,
            **self._facts(),
        }
        result: EvalResult = TypeAdapter(EvalResult).validate_python(fields)
        self.emit(result)
        return result

    def _lacks_control(self, task: Task, score: SCORES) -> bool:
        return self.spec.control and task.has_control and "control_accuracy" not in score

    def _kept(self) -> dict[str, Record]:
        """The scores of these weights that the lake has, whole, by task; those of other weights are removed."""
        name, step = self.source.name, self.source.step
        scores.remove_others(self.lake, name, step, self.source.digest)
        records = scores.read_all(self.lake, name, step)
        return {task: record for task, record in records.items() if scores.has_items(self.lake, record)}

    def _measured_on(self, task: Task) -> MeasuredOn:
        """What the task is measured on. Raises NotScored if its corpus or file is missing, or refused."""
        if task.source == HELDOUT:
            if not self.snapshots:
                raise NotScored("needs held-out documents; name their snapshots with --corpus")
            return MeasuredOn(f"tokens/{'+'.join(self.snapshots)}/val", str(self.corpus_digest))
        if task.source in self.files:
            file = self.files[task.source]
            self._file_check(task.source)
            paths = task.also(self._paths())
            for name, other in self.files.items():
                if other.path in paths:
                    self._file_check(name)
            also = self._also_read(task).values()
            return MeasuredOn(file.path.name, json_digest([file.sha256, *also]) if also else file.sha256)
        patterns = " or ".join(evalsets.PATTERNS[task.source])
        where = f"not in {self.spec.eval_data}" if self.spec.eval_data else "name its directory with --eval-data"
        raise NotScored(f"needs a file {patterns}: {where}; {official.how_to_get(task.source)}")

    def _key(self, task: Task, measured_on: MeasuredOn, limit: int) -> str:
        choices: list[object] = []
        if task.slides and self.spec.stride is not None:
            choices.append({"stride": self.spec.stride})
        if task.source in self.files and self.spec.any_file and self._file_check(task.source) != official.OFFICIAL:
            choices.append({"any_file": True})
        return json_digest([task.name, task.version, self.source.digest, measured_on.digest, limit, *choices])

    def _file_check(self, evalset: str) -> str:
        """The verdict on the set's file. Raises NotScored if it is not the official one and the user wants that."""
        try:
            return official.check_file(self.files[evalset], any_file=self.spec.any_file)
        except InputError as error:
            raise NotScored(str(error)) from error

    def _limit(self, task: Task) -> int:
        return self.spec.limit or task.default_limit

    def _score(self, task: Task, measured_on: MeasuredOn, limit: int, key: str) -> tuple[Record, list[dict[str, Any]]]:
        """Score the task; returns the record, not published yet, and its items."""
        if self.model.config.context < task.min_context:
            raise NotScored(f"needs a context of {task.min_context} tokens, the model has {self.model.config.context}")
        if isinstance(self.model, Causal) and not task.any_tokenizer:
            raise NotScored(f"needs GPT-2's tokenizer, the model has {self.model.tokenizer.name}")
        began = self.clock()
        documents = self.heldout if task.source == HELDOUT else None
        subject = Subject(
            self.model,
            documents,
            self._paths(),
            limit,
            reporter(task, self.emit, self.clock),
            self.capacity,
            control=self.spec.control,
            writing_capacity=None if isinstance(self.model, Causal) else self.writing_capacity,
            stride=self.spec.stride,
            any_file=self.spec.any_file,
        )
        score = {**task.run(subject), "version": task.version, "limit": limit, "key": key}
        if task.source == HELDOUT:
            score |= {"corpus": list(self.snapshots), "corpus_digest": self.corpus_digest}
        else:
            also = self._also_read(task)
            score |= {"file": measured_on.name, "file_sha256": self.files[task.source].sha256}
            score |= {"file_check": self._file_check(task.source)}
            score |= {"also_read": also} if also else {}
        record = Record(
            task=task.name,
            version=task.version,
            task_hash=scores.code_hash(task.run),
            key=key,
            data=measured_on,
            commit=scores.code_commit(),
            settings={"limit": limit, "device": str(self.device), "batch_tokens": self.spec.batch_tokens},
            seconds=round(self.clock() - began, 3),
            score=self._with_overlap(task, score),
            items=Items(0, ""),
            **self._facts(),
        )
        return record, subject.items

    def _also_read(self, task: Task) -> dict[str, str]:
        """The sha256 of each other file that the task reads, by name."""
        return {path.name: evalsets.sha256_of(path) for path in task.also(self._paths())}

    def _paths(self) -> dict[str, Path]:
        return {name: file.path for name, file in self.files.items()}

    def _with_overlap(self, task: Task, score: SCORES) -> SCORES:
        """The score with the share of its file's 8-grams that are in the training documents, if that is known."""
        share = None
        if task.source in self.files:
            share = overlap.train_overlap(self.lake, self.source.trained_on, self.files[task.source])
        return score if share is None else {**score, "train_overlap": share}

    def _facts(self) -> dict[str, Any]:
        return {
            "model": self.source.name,
            "step": self.source.step,
            "checkpoint": self.source.where,
            "weights_digest": self.source.digest,
            "code_version": code_version(),
        }

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        self.emit(Warned(message))

    def _attach(self, records: dict[str, Record]) -> str | None:
        """Attach new scores to the checkpoint in MLflow; returns the id of the MLflow run that has the scores.

        If the server is gone, the scores stay in the lake, and the next evaluation attaches them. A task's metrics have
        the same names in every run, ``<task>/<metric>`` for the ``tracked`` ones.
        """
        new = [record for record in records.values() if record.mlflow_run_id is None]
        attached_to = next((record.mlflow_run_id for record in records.values() if record.mlflow_run_id), None)
        if self.spec.tracking_uri is None or not new:
            return attached_to
        from model.tracking import DatasetRef, open_tracker, resume_tracker  # takes seconds to import

        model = self.source
        uri = self.spec.tracking_uri
        try:
            if model.mlflow_run_id:
                tracker = resume_tracker(uri, model.mlflow_run_id)
            else:  # a model that was not trained here gets an MLflow run of its own
                tracker = open_tracker(uri, self.spec.experiment, model.name, model.digest, {}, time.time)
                tracker.set_status("FINISHED")
            model_id = tracker.log_checkpoint(model.step, {}, None)
            names = tracker.metric_names
            left_out: list[str] = []
            for record in new:
                values = {f"{record.task}/{metric}": float(record.score[metric]) for metric in tracked(record)}
                left_out += [name for name in values if name not in names][max(0, MAX_METRICS - len(names)) :]
                values = {name: value for name, value in values.items() if name not in left_out}
                names |= values.keys()
                is_heldout = "corpus_digest" in record.score
                where = self.lake.root if is_heldout else record.data.name
                measured_on = DatasetRef(record.data.name, record.data.digest, where, context="evaluation")
                tracker.log_scores(model_id, values, model.step, measured_on)
                if "train_overlap" in record.score:
                    tags = {f"{record.task}/train_overlap": str(record.score["train_overlap"])}
                    tracker.tag_checkpoint(model_id, tags)
                scores.update(self.lake, dataclasses.replace(record, mlflow_run_id=tracker.run_id))
            if left_out:
                self._warn(f"not in MLflow, where the run has {MAX_METRICS} metrics: {', '.join(left_out)}")
        except InputError as error:  # TrackingError, or no server
            self._warn(f"the scores are in the lake, but not in MLflow: {error}")
            return None
        return tracker.run_id

    def _promote(self, run_id: str | None) -> Promotion | None:
        """Make the checkpoint the champion, if that was asked for and the rule of model/promotion.py allows it."""
        task, uri = self.spec.promote, self.spec.tracking_uri
        if task is None or uri is None:
            return None
        if run_id is None:
            return Promotion(task, False, "MLflow did not take the scores")
        from model.promotion import promote  # takes seconds to import
        from model.tracking import resume_tracker

        try:
            tracker = resume_tracker(uri, run_id)
            return promote(self.lake, tracker, self.spec.experiment, self.source.name, self.source.step, task)
        except InputError as error:  # no such score, or a TrackingError
            return Promotion(task, False, str(error))


def tracked(record: Record) -> list[str]:
    """The metrics of a score that go to MLflow: the main one, and those that the paper prints."""
    return [metric for metric in dict.fromkeys([record.metric, *metrics_of(record.task)]) if metric in record.score]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="model.evaluate", description="Score a model; see the module's docstring.")
    parser.add_argument("--spec", required=True, type=Path, help="the evaluation's EvalSpec as a JSON file")
    path = parser.parse_args(arguments).spec
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to tidy up: scores are published task by task

    def emit(event: TrainEvent | EvalEvent) -> None:
        sys.stdout.write(to_line(event).decode())
        sys.stdout.flush()

    try:
        spec = EvalSpec.from_json(program.read_spec(path), str(path))
        program.prepare(spec.device)
        if spec.ablate is None:
            evaluate(spec, emit)
        else:
            ablate(spec, emit)
    except Exception as error:
        return program.report_error(error, emit, "; score it with --device cpu, or on a device with more memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
