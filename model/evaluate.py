"""``python -m model.evaluate --spec FILE.json``: score a model on some or all tasks, and keep the scores in the lake.

    lake/scores/<run or model>/step-XXXXXXXX.json    all scores of one checkpoint, one entry per task

A score has a key: the digest of the task, its version, the weights, the limit and what it was measured on (corpus or
file). A score whose key is already there is not computed again. The file is published after each task, so a killed
evaluation goes on where it was. A task that cannot be scored is listed under ``missing`` with what it needs.

Standard output holds one JSON object per line for the supervising process (model/events.py). Exit codes: see
model/program.py.

Cost: the head dominates small models, so the number of scored tokens counts. A model of 5 M parameters scores about
6,000 tokens/s on two cores.
"""

from __future__ import annotations

import argparse
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
from data.evalsets.files import EvalFile
from data.lake.manifest import corpus_digest, json_digest
from data.lake.store import Lake, code_version
from data.process import die_with_parent
from model import program, scoring, world
from model.capacity import Capacity
from model.checkpoint import step_name
from model.evals import EvalSpec, heldout, overlap, source
from model.evals.heldout import HeldOut
from model.evals.source import Source
from model.evals.task import HELDOUT, SCORES, NotScored, Subject, Task
from model.evals.tasks import select
from model.events import Emit, EvalEvent, EvalResult, TaskProgress, TrainEvent, Warned, to_line
from model.gpt2 import GPT2

FORMAT = 1
PROGRESS_S = 0.5


def evaluate(spec: EvalSpec, emit: Emit, clock: Callable[[], float] = time.monotonic) -> EvalResult:
    """Score the model of ``spec``; the result has ``skipped`` set if all its scores were there.

    Raises InputError for bad input: no such model, task or directory, a damaged file, a held-out document that is in
    the training split.
    """
    lake = Lake(spec.lake)
    tasks = select(spec.tasks)
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
        self.names = ("scores", model.name, f"{step_name(model.step)}.json")
        self.warnings: list[str] = []
        unused = world.unused_gpu() if spec.device == "auto" else None
        for warning in (*([unused] if unused else []), *model.warnings):
            self._warn(warning)

    @functools.cached_property
    def model(self) -> GPT2:
        return self.source.load(str(self.device))

    @functools.cached_property
    def capacity(self) -> Capacity:
        """Of all tasks: a task after one that ran out of memory begins with the smaller batches."""
        return scoring.capacity_for(self.model, self.spec.batch_tokens or "auto", self._warn)

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
        kept = self._kept()
        missing: dict[str, str] = {}
        scored: list[str] = []
        scores: dict[str, SCORES] = {}
        is_skipped = True
        for task in tasks:
            try:
                limit = self._limit(task)
                key = self._key(task, limit)
                known = kept.get(task.name, {})
                if known.get("key") == key:
                    noted = self._with_overlap(task, known)
                    if noted != known:  # it was measured since
                        kept[task.name] = noted
                        scored.append(task.name)
                    scores[task.name] = noted
                    continue
                is_skipped = False
                score = {**self._score(task), "version": task.version, "limit": limit, "key": key}
                scores[task.name] = score
                if known.get("limit", 0) > limit and known["key"] == self._key(task, known["limit"]):
                    self._warn(f"{task.name}: not kept; the lake keeps a score of up to {known['limit']} examples")
                    continue
                kept[task.name] = score
                scored.append(task.name)
                self._publish(kept)
            except NotScored as reason:
                missing[task.name] = str(reason)
        if not scores:
            raise InputError("nothing was scored: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
        run_id = self._attach(kept, is_new=bool(scored))
        if scored or run_id != self._published().get("mlflow_run_id"):
            self._publish(kept, run_id)
        fields = {
            "scores": scores,
            "missing": missing,
            "seconds": round(self.clock() - self.began, 2),
            "skipped": is_skipped,
            "warnings": self.warnings,
            "mlflow_run_id": run_id,
            **self._facts(),
        }
        result: EvalResult = TypeAdapter(EvalResult).validate_python(fields)
        self.emit(result)
        return result

    def _key(self, task: Task, limit: int) -> str:
        """The key of the task's score. Raises NotScored if the task's corpus or file is missing."""
        if task.source == HELDOUT:
            if not self.snapshots:
                raise NotScored("needs held-out documents; name their snapshots with --corpus")
            measured_on = str(self.corpus_digest)
        elif task.source in self.files:
            measured_on = self.files[task.source].sha256
        else:
            patterns = " or ".join(evalsets.PATTERNS[task.source])
            where = f"not in {self.spec.eval_data}" if self.spec.eval_data else "name its directory with --eval-data"
            raise NotScored(f"needs a file {patterns}: {where}")
        return json_digest([task.name, task.version, self.source.digest, measured_on, limit])

    def _limit(self, task: Task) -> int:
        return self.spec.limit or task.default_limit

    def _score(self, task: Task) -> SCORES:
        if self.model.config.context < task.min_context:
            raise NotScored(f"needs a context of {task.min_context} tokens, the model has {self.model.config.context}")
        files = {name: file.path for name, file in self.files.items()}
        documents = self.heldout if task.source == HELDOUT else None
        subject = Subject(self.model, documents, files, self._limit(task), self._progress(task), self.capacity)
        score = task.run(subject)
        if task.source == HELDOUT:
            return {**score, "corpus": list(self.snapshots), "corpus_digest": self.corpus_digest}
        file = self.files[task.source]
        return self._with_overlap(task, {**score, "file": file.path.name, "file_sha256": file.sha256})

    def _with_overlap(self, task: Task, score: SCORES) -> SCORES:
        """The score with the share of its file's 8-grams that are in the training documents, if that is known."""
        share = None
        if task.source in self.files:
            share = overlap.train_overlap(self.lake, self.source.trained_on, self.files[task.source])
        return score if share is None else {**score, "train_overlap": share}

    def _progress(self, task: Task) -> Callable[[int, int], None]:
        reported = [self.clock() - PROGRESS_S]

        def progress(done: int, total: int) -> None:
            if self.clock() - reported[0] >= PROGRESS_S or done == total:
                reported[0] = self.clock()
                self.emit(TaskProgress(task.name, done, total))

        return progress

    def _facts(self) -> dict[str, Any]:
        return {
            "model": self.source.name,
            "step": self.source.step,
            "checkpoint": self.source.where,
            "weights_digest": self.source.digest,
            "corpus": list(self.snapshots),
            "corpus_digest": self.corpus_digest,
            "code_version": code_version(),
        }

    def _published(self) -> dict[str, Any]:
        """The published file of these weights, or an empty dict."""
        if not self.lake.exists(*self.names):
            return {}
        published: dict[str, Any] = self.lake.read_json(*self.names)
        is_same = published.get("format") == FORMAT and published.get("weights_digest") == self.source.digest
        return published if is_same else {}

    def _kept(self) -> dict[str, SCORES]:
        scores: dict[str, SCORES] = self._published().get("scores", {})
        return scores

    def _publish(self, scores: dict[str, SCORES], run_id: str | None = None) -> None:
        self.lake.publish_json(
            {"format": FORMAT, "scores": scores, "mlflow_run_id": run_id, **self._facts()}, *self.names
        )

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        self.emit(Warned(message))

    def _attach(self, scores: dict[str, SCORES], *, is_new: bool) -> str | None:
        """Attach the scores to the checkpoint in MLflow; returns the id of the MLflow run that has them.

        If the server is gone, the scores stay in the lake, and the next evaluation attaches them.
        """
        attached_to: str | None = self._published().get("mlflow_run_id")
        if self.spec.tracking_uri is None or not scores or (attached_to and not is_new):
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
            for name, score in scores.items():
                if "file" in score:
                    what = score["file"], score["file_sha256"], score["file"]
                else:
                    what = f"tokens/{'+'.join(score['corpus'])}/val", score["corpus_digest"], self.lake.root
                measured_on = DatasetRef(*what, context="evaluation")
                metrics = [*score["intervals"], *(["train_overlap"] if "train_overlap" in score else [])]
                values = {f"{name}/{metric}": float(score[metric]) for metric in metrics}
                tracker.log_scores(model_id, values, model.step, measured_on)
        except InputError as error:  # TrackingError, or no server
            self._warn(f"the scores are in the lake, but not in MLflow: {error}")
            return None
        return tracker.run_id


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
        evaluate(spec, emit)
    except Exception as error:
        return program.report_error(error, emit, "; score it with --device cpu, or on a device with more memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
