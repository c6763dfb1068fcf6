"""``python -m model.evaluate --spec FILE.json``: score a model on all tasks or some, and keep the scores in the lake.

    lake/scores/<run or model>/step-XXXXXXXX.json    all scores of one checkpoint, one entry a task

A score is identified by a key: the digest of task, version, weights, limit and what it was measured on (corpus or
file). One whose key is there already is found done; the file is published after each task, so a killed evaluation goes
on where it was. A task that cannot be scored is listed under ``missing`` with what it needs.

Standard output holds JSON lines for the supervising process: ``task`` (with ``done`` and ``total``), ``warning``, and
at the end ``done`` with the result, or ``error``. Exit codes: 0 done, 1 failed, 2 wrong input.

Cost: the head dominates small models, so it is the number of scored tokens that counts: a model of 5 M parameters
scores about 6,000 tokens a second on two cores.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import orjson

from data import evalsets
from data.errors import InputError, told
from data.evalsets import EvalFile
from data.lake.manifest import json_digest
from data.lake.store import Lake, code_version
from data.process import die_with_parent
from model import failure, world
from model.checkpoint import step_name
from model.evals import EvalSpec, heldout, source
from model.evals.heldout import HeldOut
from model.evals.source import Source
from model.evals.task import HELDOUT, SCORES, NotScored, Subject, Task
from model.evals.tasks import select
from model.gpt2 import GPT2

FORMAT = 1
PROGRESS_S = 0.5


class Emit(Protocol):
    """Reports an event to the process that supervises this one."""

    def __call__(self, event: str, **fields: Any) -> None: ...


def evaluate(spec: EvalSpec, emit: Emit, clock: Callable[[], float] = time.monotonic) -> dict[str, Any]:
    """Score the model of ``spec``; returns the result, with ``skipped`` true if all its scores were there.

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
        self.corpus_digest = heldout.corpus_digest(lake, self.snapshots) if self.snapshots else None
        self.files: dict[str, EvalFile] = evalsets.find(Path(spec.eval_data)) if spec.eval_data else {}
        self.names = ("scores", model.name, f"{step_name(model.step)}.json")
        self.warnings: list[str] = []
        for warning in model.warnings:
            self._warn(warning)

    @functools.cached_property
    def model(self) -> GPT2:
        return self.source.load(str(self.device))

    @functools.cached_property
    def heldout(self) -> HeldOut:
        trained_on = tuple(name for name in self.source.trained_on if self.lake.dataset("tokens", name).manifest())
        absent = sorted(set(self.source.trained_on) - set(trained_on))
        if absent:
            self._warn(f"training documents of {', '.join(absent)} are not in the lake: not searched for held-out ones")
        elif not trained_on:
            self._warn("what the model was trained on is not known: held-out documents may be among it")
        return heldout.load(self.lake, self.snapshots, trained_on)

    def run(self, tasks: list[Task]) -> dict[str, Any]:
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
                    scores[task.name] = known
                    continue
                is_skipped = False
                score = {**self._score(task), "version": task.version, "limit": limit, "key": key}
                scores[task.name] = score
                if known.get("limit", 0) > limit and known["key"] == self._key(task, known["limit"]):
                    self._warn(f"{task.name}: only shown; a score of up to {known['limit']} examples is kept")
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
        result = {
            "scores": scores,
            "missing": missing,
            "seconds": round(self.clock() - self.began, 2),
            "skipped": is_skipped,
            "warnings": self.warnings,
            "mlflow_run_id": run_id,
            **self._facts(),
        }
        self.emit("done", **result)
        return result

    def _key(self, task: Task, limit: int) -> str:
        """Raises NotScored if what the task is measured on is not there."""
        if task.source == HELDOUT:
            if not self.snapshots:
                raise NotScored("needs held-out documents: name their snapshots with --corpus")
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
        subject = Subject(self.model, documents, files, self._limit(task), self._progress(task))
        score = task.run(subject)
        if task.source == HELDOUT:
            return {**score, "corpus": list(self.snapshots), "corpus_digest": self.corpus_digest}
        file = self.files[task.source]
        return {**score, "file": file.path.name, "file_sha256": file.sha256}

    def _progress(self, task: Task) -> Callable[[int, int], None]:
        told = [self.clock() - PROGRESS_S]

        def progress(done: int, total: int) -> None:
            if self.clock() - told[0] >= PROGRESS_S or done == total:
                told[0] = self.clock()
                self.emit("task", task=task.name, done=done, total=total)

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
        """What is in the lake for these weights."""
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
        self.emit("warning", message=message)

    def _attach(self, scores: dict[str, SCORES], *, is_new: bool) -> str | None:
        """Attach the scores to the checkpoint in MLflow; returns the id of the MLflow run that has them.

        A server that is gone does not cost the scores: they are in the lake, and are attached by the next evaluation.
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
            else:  # a model from elsewhere has a run of its own
                tracker = open_tracker(uri, self.spec.experiment, model.name, model.digest, {}, time.time)
                tracker.set_status("FINISHED")
            model_id = tracker.log_checkpoint(model.step, {}, None)
            for name, score in scores.items():
                if "file" in score:
                    what = score["file"], score["file_sha256"], score["file"]
                else:
                    what = f"tokens/{'+'.join(score['corpus'])}/val", score["corpus_digest"], self.lake.root
                measured_on = DatasetRef(*what, context="evaluation")
                values = {f"{name}/{metric}": float(score[metric]) for metric in score["intervals"]}
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

    def emit(event: str, **fields: Any) -> None:
        print(orjson.dumps({"event": event, **fields}).decode(), flush=True)

    try:
        spec = EvalSpec.from_json(_read(path), str(path))
        if spec.device.startswith("cpu") or (spec.device == "auto" and world.best_device() == "cpu"):
            world.keep_freed_memory()
        evaluate(spec, emit)
    except (InputError, OSError) as error:  # OSError: the disk is full, the lake is gone
        message = told(error) if isinstance(error, OSError) else str(error)
        emit("error", message=message, kind=type(error).__name__)
        print(message, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except (RuntimeError, MemoryError) as error:
        if failure.kind_of(error) != "out_of_memory":
            raise
        message = f"{failure.one_line(error)}; score it with --device cpu, or on a device with more memory"
        emit("error", message=message, kind=type(error).__name__)
        print(message, file=sys.stderr)
        return 1
    return 0


def _read(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"--spec {path}: not a readable JSON file ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
