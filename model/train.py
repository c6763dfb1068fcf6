"""``python -m model.train --spec FILE.json``: train a GPT-2 on a corpus of the lake; alone or under torchrun.

One step: the next ``batch_size`` samples, in micro-batches, dealt to the processes; the mean of the gradients;
clipping; AdamW at the step's learning rate (model/trainer.py). Everything random is a function of the seed and the
number of samples seen, so a run that was killed and resumed ends in the same bits as one that was not (same machine,
same number of threads), neither validation nor logging can change it, and the samples of a step are the same for any
number of processes (so are the dropout masks, if the micro-batch size is).

Standard output holds one JSON object a line for the supervising process: ``start``, ``resumed``, ``step``, ``val``,
``checkpoint``, ``warning``, and at the end one of ``done`` (with the summary), ``stopped`` (SIGTERM or SIGINT: saved,
to be resumed) and ``error``. Exit codes: 0 done or stopped, 1 failed, 2 wrong input.

Cost: see model/gpt2.py; a checkpoint is 12 bytes a parameter.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from data.bpe import TOKENIZER_ID, VOCAB_SIZE
from data.errors import InputError
from data.lake import LEASE_S, Lake
from data.manifest import settings_diff
from data.process import die_with_parent
from model import checkpoint, world
from model.checkpoint import State
from model.config import Preset, TrainSpec
from model.loader import Corpus, open_corpus
from model.observer import Emit, Silent, observe
from model.optim import learning_rate
from model.trainer import DivergedError, Trainer
from model.world import World

RUN, SUMMARY = "run.json", "summary.json"
LOSS_WINDOW = 20  # steps; train_loss is their mean
LOCK_WAIT_S = LEASE_S + 15.0  # a process before this one may still be saving its last checkpoint


def train(
    spec: TrainSpec,
    emit: Emit,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Begin or resume the run of ``spec`` and bring it to its end; returns its summary.

    The summary has ``skipped`` true if the run was finished before, and ``stopped`` true if ``should_stop`` (asked
    after each step) ended it early. Raises InputError for bad input, before any work is lost, and DivergedError.
    """
    peers = world.join(spec.device)
    lake = Lake(spec.lake)
    try:
        with _locked(lake, spec.run, emit) if peers.is_first else contextlib.nullcontext():
            return _Run(spec, lake, peers, emit, clock).go(should_stop)
    finally:
        peers.close()


class _Run:
    """One process's share in a run: what surrounds the steps."""

    def __init__(self, spec: TrainSpec, lake: Lake, peers: World, emit: Emit, clock: Callable[[], float]) -> None:
        self.spec, self.lake, self.world, self.clock = spec, lake, peers, clock
        self.emit: Emit = emit if peers.is_first else _quiet
        self.corpus = self._open_corpus()
        self.preset = self._preset()
        self.trainer = Trainer(self.preset.model, self.preset.train, self.corpus, peers)
        self.state: State | None = None
        self.observer = Silent()

    def _names(self, name: str) -> tuple[str, str, str]:
        return "checkpoints", self.spec.run, name

    def _open_corpus(self) -> Corpus:
        cache_dir = Path(self.spec.cache_dir)
        if self.world.is_first:
            corpus = open_corpus(self.lake, self.spec.corpus, cache_dir)
        self.world.wait()
        if not self.world.is_first:  # on another machine it is copied there
            corpus = open_corpus(self.lake, self.spec.corpus, cache_dir, verify=False)
        return corpus

    def _preset(self) -> Preset:
        """The settings, with what depends on the machine and the run resolved; checked against the corpus."""
        preset = self.spec.resolve()
        exists = self.lake.exists(*self._names(RUN))
        steps = preset.train.steps
        if exists and self.spec.steps is None and "steps" not in self.spec.overrides:
            steps = int(self.lake.read_json(*self._names(RUN))["train"]["steps"])
        precision = world.precision_for(preset.train.precision, self.world.device, preset.train.parallel)
        model, config = preset.model, dataclasses.replace(preset.train, steps=steps, precision=precision)
        if model.tokenizer != self.corpus.tokenizer or self.corpus.max_token >= model.vocab_size:
            raise InputError(
                f"--corpus {','.join(self.spec.corpus)} is of tokenizer {self.corpus.tokenizer} with ids up to "
                f"{self.corpus.max_token}, the model is for {model.tokenizer} of {model.vocab_size}; "
                "set tokenizer and vocab_size to the corpus's"
            )
        if model.tokenizer == TOKENIZER_ID and model.vocab_size < VOCAB_SIZE:
            raise InputError(f"vocab_size={model.vocab_size}: {TOKENIZER_ID} has {VOCAB_SIZE} tokens")
        return Preset(model, config)

    def go(self, should_stop: Callable[[], bool]) -> dict[str, Any]:
        record = self._begin()
        self._restore()
        summary = self._finished()
        if summary is not None:
            self.emit("done", **summary)
            return summary
        self.observer = self._observer(record)
        if self.state:  # it may have been killed between the checkpoint and its record in MLflow
            self.observer.checkpoint(self.state, with_weights=self._is_permanent(self.state.step))
        try:
            if self._steps(should_stop):
                self.observer.end("KILLED")
                self.emit("stopped", run=self.spec.run, step=self.trainer.step)
                return {"run": self.spec.run, "steps": self.trainer.step, "stopped": True, "skipped": False}
            summary = self._finish()
        except Exception:
            self.observer.end("FAILED")
            raise
        self.emit("done", **summary)
        return summary

    def _is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        return self.preset.train.keep_every > 0 and step % self.preset.train.keep_every == 0

    def _begin(self) -> dict[str, Any]:
        """Publish ``run.json``, or compare with the one that is there: a run is never continued as another."""
        settings = {**self.preset.model.to_json(), **self.preset.train.content(), "corpus": self.corpus.digest}
        record = {
            "key": uuid.uuid4().hex,  # by which the MLflow run is found again
            "spec": _public(self.spec),
            "model": self.preset.model.to_json(),
            "train": self.preset.train.to_json(),
            "settings": settings,
            "corpus_digest": self.corpus.digest,
            "mlflow_run_id": None,
        }
        if self.lake.exists(*self._names(RUN)):
            begun = self.lake.read_json(*self._names(RUN))
            if begun["settings"] != settings:
                raise InputError(
                    f"--run {self.spec.run} was begun with other settings "
                    f"({settings_diff(begun['settings'], settings)}); choose another --run, or go on with those"
                )
            record = {**record, "key": begun["key"], "mlflow_run_id": begun["mlflow_run_id"]}
        self.world.wait()
        if self.world.is_first:
            self.lake.publish_json(record, *self._names(RUN))
        return record

    def _restore(self) -> None:
        """Continue at the newest intact checkpoint, if there is one. The first process chooses it for all."""
        state, complaints = checkpoint.newest_intact(self.lake, self.spec.run) if self.world.is_first else (None, [])
        for complaint in complaints:
            self.emit("warning", message=f"{complaint}; an older one, or the start, is used")
        step = int(self.world.sum(state.step if state else 0)[0])
        if step == 0:
            return
        self.state = state or checkpoint.read_state(self.lake, self.spec.run, step)
        checkpoint.restore(self.lake, self.state, self.trainer.weights, self.trainer.optimizers)
        self.trainer.step = step
        self.emit("resumed", step=step, samples_seen=self.state.samples_seen)

    def _finished(self) -> dict[str, Any] | None:
        """The summary of a run that has no step left and was summed up."""
        if self.trainer.step < self.preset.train.steps or not self.lake.exists(*self._names(SUMMARY)):
            return None
        summary: dict[str, Any] = self.lake.read_json(*self._names(SUMMARY))
        return {**summary, "skipped": True} if summary["steps"] == self.trainer.step else None

    def _observer(self, record: dict[str, Any]) -> Silent:
        """What reports to MLflow, if the run is tracked; the run's MLflow id goes to ``run.json``."""
        if self.spec.tracking_uri is None or not self.world.is_first:
            return Silent()
        tags = {"webtext.corpus_digest": self.corpus.digest, "webtext.preset": self.spec.preset}
        settings = {**self.preset.train.to_json(), **self.preset.model.to_json()}
        params = {**settings, "parameters": self._parameters(), "preset": self.spec.preset}
        observer = observe(self.lake, self.spec, record["key"], tags, params, self.emit)
        self.lake.publish_json({**record, "mlflow_run_id": observer.run_id}, *self._names(RUN))
        return observer

    def _parameters(self) -> int:
        return sum(weight.numel() for weight in self.trainer.weights)

    def _steps(self, should_stop: Callable[[], bool]) -> bool:
        """Train to the last step; returns whether it was stopped before."""
        trainer, config, spec = self.trainer, self.preset.train, self.spec
        tokens_a_step = config.batch_size * self.preset.model.context
        self.emit(
            "start",
            run=spec.run,
            step=trainer.step,
            steps=config.steps,
            parameters=self._parameters(),
            tokens_per_step=tokens_a_step,
            train_tokens=len(self.corpus.train),
            val_tokens=len(self.corpus.val),
            unigram_entropy=self.corpus.unigram_entropy,
            precision=config.precision,
            device=str(self.world.device),
            processes=self.world.size,
        )
        before = self.state
        losses = list(before.recent_losses) if before else []
        first_loss = before.first_loss if before else None
        best_step, best_val_loss = (before.best_step, before.best_val_loss) if before else (None, None)
        seconds, step_seconds = (before.seconds, before.step_seconds) if before else (0.0, 0.0)
        began, here_steps, here_s = self.clock(), 0, 0.0
        is_stopped = False
        while trainer.step < config.steps and not is_stopped:
            step_began = self.clock()
            loss, norm = trainer.train_step()
            step = trainer.step
            here_steps, here_s = here_steps + 1, here_s + self.clock() - step_began
            first_loss = loss if first_loss is None else first_loss
            losses = [*losses, loss][-LOSS_WINDOW:]
            is_stopped = self.world.sum(float(should_stop()))[0] > 0 and step < config.steps
            is_saved = step % config.checkpoint_every == 0 or step == config.steps or is_stopped
            if step % config.log_every == 0 or step in (1, config.steps):
                rate = here_steps * tokens_a_step / here_s
                fields = {"loss": loss, "grad_norm": norm, "lr": learning_rate(step - 1, config), "tokens_per_s": rate}
                eta_s = (self.clock() - began) / here_steps * (config.steps - step)
                self.emit("step", step=step, steps=config.steps, eta_s=round(eta_s, 1), **fields)
                self.observer.metrics(fields, step)
            val_loss = None
            if (step % config.val_every == 0 or is_saved) and not is_stopped:
                val_loss, val_tokens = trainer.validate()
                self.emit("val", step=step, val_loss=val_loss, tokens=val_tokens)
                if not is_saved:  # MLflow shows a checkpoint's metrics as the run's too
                    self.observer.metrics({"val_loss": val_loss}, step)
            if is_saved:
                if val_loss is not None and (best_val_loss is None or val_loss < best_val_loss):
                    best_step, best_val_loss = step, val_loss
                self.state = State(
                    run=spec.run,
                    step=step,
                    samples_seen=step * config.batch_size,
                    tokens_seen=step * tokens_a_step,
                    seed=config.seed,
                    corpus_digest=self.corpus.digest,
                    first_loss=first_loss,
                    recent_losses=losses,
                    val_loss=val_loss,
                    best_step=best_step,
                    best_val_loss=best_val_loss,
                    seconds=seconds + self.clock() - began,
                    step_seconds=step_seconds + here_s,
                    mlflow_run_id=self.observer.run_id,
                    model=self.preset.model.to_json(),
                    train=config.to_json(),
                )
                self._save(self.state)
        return is_stopped

    def _save(self, state: State) -> None:
        """Publish a checkpoint and remove those that are not kept."""
        self.observer.flush()  # what is not sent now would be lost with this process, and not be logged again
        checkpoint.save(self.lake, self.trainer.weights, self.trainer.optimizers, state, self.world)
        if self.world.is_first:
            config = self.preset.train
            steps = [step for step in checkpoint.steps(self.lake, self.spec.run) if step <= state.step]
            kept = {step for step in steps if self._is_permanent(step)}
            kept |= {*steps[-config.keep_last :], *([state.best_step] if state.best_step else [])}
            checkpoint.prune(self.lake, self.spec.run, kept)
            self.observer.checkpoint(state, with_weights=self._is_permanent(state.step))
            self.emit("checkpoint", step=state.step, val_loss=state.val_loss, seconds=round(state.seconds, 1))
        self.world.wait()

    def _finish(self) -> dict[str, Any]:
        """Sum the finished run up, in the lake and in MLflow."""
        state = self.state
        assert state is not None, "a run has at least one step"
        val_loss = state.val_loss if state.val_loss is not None else self.trainer.validate()[0]
        self.observer.checkpoint(state, with_weights=True)
        if self.world.is_first and state.best_step not in (None, state.step):
            try:
                best = checkpoint.check(self.lake, self.spec.run, state.best_step)
                self.observer.checkpoint(best, with_weights=True)
            except InputError as error:
                self.emit("warning", message=f"{error}; the best checkpoint is not in MLflow")
        summary = {
            "run": self.spec.run,
            "steps": state.step,
            "first_loss": state.first_loss,
            "train_loss": state.train_loss,
            "val_loss": val_loss,
            "best_step": state.best_step,
            "best_val_loss": state.best_val_loss,
            "unigram_entropy": self.corpus.unigram_entropy,
            "tokens_per_s": state.tokens_seen / state.step_seconds,
            "seconds": state.seconds,
            "tokens_seen": state.tokens_seen,
            "epochs": state.tokens_seen / len(self.corpus.train),
            "parameters": self._parameters(),
            "checkpoint": self.lake.path("checkpoints", self.spec.run, checkpoint.step_name(state.step)),
            "mlflow_run_id": self.observer.run_id,
            "skipped": False,
            "warnings": list(self.observer.warnings),
        }
        self.observer.end("FINISHED")  # before the summary, which holds what MLflow did not take
        if self.world.is_first:
            self.lake.publish_json(summary, *self._names(SUMMARY))
        return summary


@contextlib.contextmanager
def _locked(lake: Lake, run: str, emit: Emit) -> Iterator[None]:
    """Hold the run's lock; a process that is just ending is waited for. Raises InputError if it does not end."""
    deadline = time.monotonic() + LOCK_WAIT_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lake.lock(f"checkpoints-{run}"))
                break
            except InputError:
                if time.monotonic() > deadline:
                    raise
                emit("warning", message=f"--run {run} is being written by another process; waiting for it to end")
                time.sleep(1.0)
        yield


def _quiet(event: str, **fields: Any) -> None:
    """What the processes beside the first one report."""


def _public(spec: TrainSpec) -> dict[str, Any]:
    """The spec without what may hold a password."""
    return {name: value for name, value in spec.to_json().items() if name != "tracking_uri"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="model.train", description="Train a GPT-2; see the module's docstring.")
    parser.add_argument("--spec", required=True, type=Path, help="the run's TrainSpec as a JSON file")
    path = parser.parse_args(arguments).spec
    die_with_parent(signal.SIGTERM)
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # Ctrl-C reaches every process of the terminal
        signal.signal(number, lambda received, _frame: stop.append(received))

    def emit(event: str, **fields: Any) -> None:
        try:
            print(orjson.dumps({"event": event, **fields}).decode(), flush=True)
        except BrokenPipeError:  # whoever watched is gone: save and end
            stop.append(signal.SIGPIPE)
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends

    try:
        spec = TrainSpec.from_json(orjson.loads(path.read_bytes()), str(path))
        if spec.device.startswith("cpu") or (spec.device == "auto" and world.best_device() == "cpu"):
            world.keep_freed_memory()
        train(spec, emit, lambda: bool(stop))
    except (InputError, DivergedError, OSError) as error:  # OSError: the disk is full, the lake is gone
        emit("error", message=str(error), kind=type(error).__name__)
        print(error, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
