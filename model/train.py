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
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from data.bpe import TOKENIZER_ID, VOCAB_SIZE
from data.errors import InputError, told
from data.lake.manifest import settings_diff
from data.lake.store import Lake
from data.process import die_with_parent
from model import checkpoint, failure, runs, world
from model.checkpoint import State
from model.config import Preset, TrainSpec
from model.failure import FailedStepError
from model.flops import Peak, flop_per_token, peak_of
from model.initial import load_initial
from model.launch import ENDED
from model.loader import Corpus, open_corpus
from model.observer import UNSENT, Emit, Silent, observe
from model.optim import learning_rate
from model.telemetry import Meter, peak_memory_bytes
from model.trainer import Trainer
from model.world import World


def train(
    spec: TrainSpec,
    emit: Emit,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Begin or resume the run of ``spec`` and bring it to its end; returns its summary.

    The summary has ``skipped`` true if the run was finished before, and ``stopped`` true if ``should_stop`` (asked
    after each step) ended it early. Raises InputError for bad input, before any work is lost, and FailedStepError; the
    process must then end, for the others may be waiting for it in a collective, and only its end ends them.
    """
    peers = world.join(spec.device)
    lake = Lake(spec.lake)
    with runs.locked(lake, spec.run, emit) if peers.is_first else contextlib.nullcontext():
        if peers.is_first:
            lake.sweep()  # of checkpoints that were being written when their processes were killed
        summary = _Run(spec, lake, peers, emit, clock).go(should_stop)
    peers.close()  # not after an error: with NCCL it would wait for the others
    return summary


class _Run:
    """One process's share in a run: what surrounds the steps."""

    def __init__(self, spec: TrainSpec, lake: Lake, peers: World, emit: Emit, clock: Callable[[], float]) -> None:
        self.spec, self.lake, self.world, self.clock = spec, lake, peers, clock
        self.emit: Emit = emit if peers.is_first else _quiet
        self.corpus = self._open_corpus()
        self.manifests = {name: lake.dataset("tokens", name).require().digest for name in spec.corpus}
        self.preset = self._preset()
        self.trainer = Trainer(self.preset.model, self.preset.train, self.corpus, peers)
        self.state = State.beginning(
            spec.run, self.preset.model, self.preset.train, corpus=self.corpus.digest, manifests=self.manifests
        )
        self.observer = Silent()
        self.damaged: set[int] = set()  # steps of checkpoints that were passed over, and not written again since

    def _open_corpus(self) -> Corpus:
        cache_dir = Path(self.spec.cache_dir)
        if self.world.is_first_of_machine:
            corpus = open_corpus(self.lake, self.spec.corpus, cache_dir)
        self.world.wait()
        if not self.world.is_first_of_machine:
            corpus = open_corpus(self.lake, self.spec.corpus, cache_dir, verify=False)
        return corpus

    def _preset(self) -> Preset:
        """The settings, with what depends on the machine and the run resolved; checked against the corpus."""
        preset = self.spec.resolve()
        begun = runs.read_record(self.lake, self.spec.run)
        steps = preset.train.steps
        if begun and self.spec.steps is None and "steps" not in self.spec.overrides:
            steps = int(begun["train"]["steps"])
        precision = preset.train.precision
        if begun and precision == "auto":
            precision = str(begun["train"]["precision"])  # what it was when the run began
        precision = world.precision_for(precision, self.world.device, preset.train.parallel)
        model, config = preset.model, dataclasses.replace(preset.train, steps=steps, precision=precision)
        if model.tokenizer != self.corpus.tokenizer or self.corpus.max_token >= model.vocab_size:
            raise InputError(
                f"--corpus {','.join(self.spec.corpus)} is of tokenizer {self.corpus.tokenizer} with ids up to "
                f"{self.corpus.max_token}, the model is for {model.tokenizer} of {model.vocab_size}; "
                "set tokenizer and vocab_size to the corpus's"
            )
        if model.tokenizer == TOKENIZER_ID and model.vocab_size != VOCAB_SIZE:
            raise InputError(f"vocab_size={model.vocab_size}: {TOKENIZER_ID} has {VOCAB_SIZE} tokens")
        return Preset(model, config)

    def go(self, should_stop: Callable[[], bool]) -> dict[str, Any]:
        newest = self._newest()
        record = self._begin(newest)
        if newest is not None:
            self._restore(newest)
        summary = runs.finished(self.lake, self.spec.run, self.state.step)
        if summary is not None and self.state.step >= self.preset.train.steps:
            if self.lake.exists("checkpoints", self.spec.run, UNSENT):  # MLflow was away at the end
                self.meter = self._meter()
                late = self._observer(record)
                late.checkpoint(self.state, with_weights=True)
                late.end("FINISHED")
            summary = {**summary, "skipped": True}
            self.emit("done", **summary)
            return summary
        self.meter = self._meter()
        self.observer = self._observer(record)
        if self.state.step:  # it may have been killed between the checkpoint and its record in MLflow
            self.observer.checkpoint(self.state, with_weights=self._is_permanent(self.state.step))
        try:
            if self._steps(should_stop):
                self.observer.end("KILLED")
                self.emit("stopped", run=self.spec.run, step=self.state.step)
                return {"run": self.spec.run, "steps": self.state.step, "stopped": True, "skipped": False}
            summary = self._finish()
        except Exception:
            self.observer.end("FAILED")
            raise
        self.emit("done", **summary)
        return summary

    def _is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        return self.preset.train.keep_every > 0 and step % self.preset.train.keep_every == 0

    def _begin(self, newest: State | None) -> runs.Record:
        """Publish ``run.json``, or compare with the one that is there; set the weights that were asked for.

        Raises InputError if that one, or the ``newest`` checkpoint, is of other settings.
        """
        begun = runs.read_record(self.lake, self.spec.run)
        folder = self.spec.init_from
        if folder is None and begun and newest is None:
            folder = begun["spec"].get("init_from")  # it has no checkpoint yet, or none that is intact
        init_from = None
        if folder is not None:
            weights, init_from = load_initial(folder, self.preset.model)
            self.trainer.weights.load(weights)
        record = runs.make_record(self.spec, self.preset, self.manifests, self.corpus.digest, init_from, begun)
        if newest is not None:
            self._require_ours(newest)
            if newest.step > self.preset.train.steps:
                raise InputError(
                    f"--steps {self.preset.train.steps}: run {self.spec.run} has done {newest.step} already; ask for "
                    "as many or more, or choose another --run"
                )
        self.world.wait()
        if self.world.is_first:
            self.lake.publish_json(record, "checkpoints", self.spec.run, runs.RUN)
        return record

    def _newest(self) -> State | None:
        """The newest intact checkpoint, if there is one. The first process chooses it for all."""
        run = self.spec.run
        state, complaints = checkpoint.newest_intact(self.lake, run) if self.world.is_first else (None, [])
        for complaint in complaints:
            self.emit("warning", message=f"{complaint}; an older one, or the start, is used")
        step = int(self.world.sum(state.step if state else 0)[0])
        self.damaged = {other for other in checkpoint.steps(self.lake, run) if other > step}
        return state or (checkpoint.read_state(self.lake, run, step) if step else None)

    def _require_ours(self, state: State) -> None:
        config = self.preset.train
        trained = {name: state.train.get(name) for name in config.content()}
        found = {**state.model, **trained, "corpus": state.corpus_digest}
        wanted = {**self.preset.model.to_json(), **config.content(), "corpus": self.corpus.digest}
        if found != wanted:
            raise InputError(
                f"checkpoint {self.spec.run}/{checkpoint.step_name(state.step)} is of another run "
                f"({settings_diff(found, wanted)}); choose another --run, or go on with that"
            )

    def _restore(self, state: State) -> None:
        """Continue at a checkpoint."""
        checkpoint.restore(self.lake, state, self.trainer.weights, self.trainer.optimizers)
        self.trainer.step = state.step
        self.state = dataclasses.replace(state, train=self.preset.train.to_json(), manifests=self.manifests, sha256={})
        self.emit("resumed", step=state.step, samples_seen=state.samples_seen)

    def _observer(self, record: runs.Record) -> Silent:
        """What reports to MLflow, if the run is tracked; the run's MLflow id goes to ``run.json``."""
        if self.spec.tracking_uri is None or not self.world.is_first:
            return Silent()
        peak = f"{self.meter.peak.flop_per_s / 1e12:.4g} TFLOP/s ({self.meter.peak.source})"
        tags = {"webtext.corpus_digest": self.corpus.digest, "webtext.preset": self.spec.preset, "webtext.peak": peak}
        params = {**self.preset.train.to_json(), **self.preset.model.to_json()}
        params |= {"parameters": self._parameters(), "preset": self.spec.preset}
        if "init_from" in record["settings"]:
            params["init_from"] = record["settings"]["init_from"]
        observer = observe(self.lake, self.spec, record["key"], self.state.step, tags, params, self.emit)
        self.lake.publish_json({**record, "mlflow_run_id": observer.run_id}, "checkpoints", self.spec.run, runs.RUN)
        return observer

    def _parameters(self) -> int:
        return sum(weight.numel() for weight in self.trainer.weights)

    def _meter(self) -> Meter:
        """Where the peak is not known, every process measures it at the same time: so they will compute."""
        peak = peak_of(self.world.device, self.preset.train.precision)
        together = Peak(self.world.sum(peak.flop_per_s)[0], peak.source)
        return Meter(flop_per_token(self.preset.model, self._parameters()), together)

    def _steps(self, should_stop: Callable[[], bool]) -> bool:
        """Train to the last step; returns whether it was stopped before."""
        config, timer = self.preset.train, self.trainer.timer
        peak = self.meter.peak
        self.emit(
            "start",
            run=self.spec.run,
            step=self.state.step,
            steps=config.steps,
            parameters=self._parameters(),
            train_tokens=len(self.corpus.train),
            val_tokens=len(self.corpus.val),
            unigram_entropy=self.corpus.unigram_entropy,
            precision=config.precision,
            device=str(self.world.device),
            processes=self.world.size,
            peak_flop_per_s=peak.flop_per_s,
            peak=peak.source,
        )
        timer.shares()  # of what came before the first step
        began, here_steps, seconds = self.clock(), 0, self.state.seconds
        is_stopped = False
        while self.state.step < config.steps and not is_stopped:
            step_began = self.clock()
            done = self._step()
            step_s = self.clock() - step_began
            step, here_steps = self.trainer.step, here_steps + 1
            self.meter.add(step_s, config.batch_at(step - 1) * self.preset.model.context)
            self._advance(step, done, step_s)
            is_stopped = self.world.sum(float(should_stop()))[0] > 0 and step < config.steps
            is_saved = step % config.checkpoint_every == 0 or step == config.steps or is_stopped
            if done is not None and (step % config.log_every == 0 or step in (1, config.steps)):
                self._report(*done, eta_s=(self.clock() - began) / here_steps * (config.steps - step))
            val_loss = None
            if (step % config.val_every == 0 or is_saved) and not is_stopped:
                timer.start("validation")
                val_loss, val_tokens = self._validate()
                timer.start("other")
                self.emit("val", step=step, val_loss=val_loss, tokens=val_tokens)
                if not is_saved:  # MLflow shows a checkpoint's metrics as the run's too
                    self.observer.metrics({"val_loss": val_loss}, step)
            if is_saved:
                timer.start("checkpoint")
                self._save(val_loss, seconds + self.clock() - began)
                timer.start("other")
        return is_stopped

    def _validate(self) -> tuple[float, int]:
        """The validation loss and its tokens. Raises FailedStepError if it is not finite: nothing is saved then."""
        val_loss, tokens = self.trainer.validate()
        if not math.isfinite(val_loss):
            message = f"step {self.state.step}: the validation loss is {val_loss}; the checkpoint before is untouched: "
            message += "lower the learning rate or lengthen the warm-up with --set, under another --run"
            raise FailedStepError("not_finite", message)
        return val_loss, tokens

    def _step(self) -> tuple[float, float] | None:
        """One update; its loss and gradient norm. None if the batch was left out; raises FailedStepError to stop."""
        losses = self.state.recent_losses
        try:
            return self.trainer.train_step(lambda loss, norm: failure.judge(losses, loss, norm))
        except (RuntimeError, MemoryError) as error:
            kind = failure.kind_of(error)
            if kind is None:
                raise
            what = failure.one_line(error)
        state, limit = self.state, self.preset.train.max_steps_left_out
        is_left_out = kind != "out_of_memory" and len(state.left_out) < limit
        if is_left_out and kind == "not_finite" and state.left_out[-1:] == [state.step]:
            is_left_out, what = False, f"{what}, as in the step before: it is not the batch"
        describe = (self.lake, self.spec.corpus, state, self.trainer.sampler, kind, what, is_left_out)
        if self.world.is_first or kind == "out_of_memory":  # which the other processes need not have seen
            where = failure.report(*describe)
        if kind != "out_of_memory":
            self.world.wait()  # if one process ended, torchrun would end the one that is writing
        if not self.world.is_first:
            where = failure.report(*describe)  # finds it written
        last = state.samples_seen + self.preset.train.batch_at(state.step) - 1
        message = f"step {state.step + 1}: {what}, on samples {state.samples_seen} to {last}; report: {where}"
        if is_left_out:
            self.emit("warning", message=f"{message}; the batch is left out, {len(state.left_out) + 1} of {limit}")
            self.trainer.leave_out()
            return None
        raise FailedStepError(kind, f"{message}; the checkpoint before is untouched: {failure.ADVICE[kind]}")

    def _advance(self, step: int, done: tuple[float, float] | None, step_s: float) -> None:
        """Where training stands after a step, which took ``step_s``; ``done`` is None if its batch was left out."""
        state, samples_seen = self.state, self.preset.train.samples_before(step)
        losses = state.recent_losses if done is None else [*state.recent_losses, done[0]]
        self.state = dataclasses.replace(
            state,
            step=step,
            samples_seen=samples_seen,
            tokens_seen=samples_seen * self.preset.model.context,
            first_loss=losses[0] if state.first_loss is None and losses else state.first_loss,
            recent_losses=losses[-failure.SPIKE_WINDOW :],
            step_seconds=state.step_seconds + step_s,
            left_out=[*state.left_out, step] if done is None else state.left_out,
        )

    def _report(self, loss: float, grad_norm: float, eta_s: float) -> None:
        """A step's numbers, with means since the last report, to whoever watches."""
        step, config = self.state.step, self.preset.train
        fields = {"loss": loss, "grad_norm": grad_norm, "lr": learning_rate(step - 1, config), **self.meter.read()}
        fields["memory_mb"] = round(peak_memory_bytes(self.world.device) / 1e6, 1)
        shares = {phase: round(share, 4) for phase, share in self.trainer.timer.shares().items()}
        self.emit("step", step=step, steps=config.steps, eta_s=round(eta_s, 1), **fields, time_shares=shares)
        by_phase = {f"time_share/{phase}": share for phase, share in shares.items()}
        self.observer.metrics({**fields, **by_phase, "steps_left_out": len(self.state.left_out)}, step)

    def _save(self, val_loss: float | None, seconds: float) -> None:
        """Publish a checkpoint and remove those that are not kept."""
        state, config = self.state, self.preset.train
        best = (state.best_step, state.best_val_loss)
        if val_loss is not None and (state.best_val_loss is None or val_loss < state.best_val_loss):
            best = (state.step, val_loss)
        self.state = state = dataclasses.replace(
            state,
            val_loss=val_loss,
            best_step=best[0],
            best_val_loss=best[1],
            seconds=seconds,
            mlflow_run_id=self.observer.run_id,
        )
        self.observer.flush()  # what is not sent now would be lost with this process, and not be logged again
        checkpoint.save(self.lake, self.trainer.weights, self.trainer.optimizers, state, self.world)
        if self.world.is_first:
            self.damaged.discard(state.step)
            steps = [step for step in checkpoint.steps(self.lake, self.spec.run) if step <= state.step]
            steps = [step for step in steps if step not in self.damaged]
            kept = {step for step in steps if self._is_permanent(step)}
            kept |= {*steps[-config.keep_last :], *([state.best_step] if state.best_step else [])}
            checkpoint.prune(self.lake, self.spec.run, kept)
            self.observer.checkpoint(state, with_weights=self._is_permanent(state.step))
            self.emit("checkpoint", step=state.step, val_loss=state.val_loss, seconds=round(state.seconds, 1))
        self.world.wait()

    def _finish(self) -> dict[str, Any]:
        """Sum the finished run up, in the lake and in MLflow."""
        state = self.state
        val_loss = state.val_loss if state.val_loss is not None else self._validate()[0]
        self.observer.checkpoint(state, with_weights=True)
        if self.world.is_first and state.best_step not in (None, state.step):
            try:
                best = checkpoint.check(self.lake, self.spec.run, state.best_step)
                self.observer.checkpoint(best, with_weights=True)
            except InputError as error:
                self.emit("warning", message=f"{error}; the best checkpoint is not in MLflow")
        tokens_per_s = state.tokens_seen / state.step_seconds
        summary = {
            "run": self.spec.run,
            "steps": state.step,
            "first_loss": state.first_loss,
            "train_loss": state.train_loss,
            "val_loss": val_loss,
            "best_step": state.best_step,
            "best_val_loss": state.best_val_loss,
            "unigram_entropy": self.corpus.unigram_entropy,
            "tokens_per_s": tokens_per_s,
            "mfu": self.meter.mfu(tokens_per_s),
            "peak": self.meter.peak.source,
            "memory_mb": round(peak_memory_bytes(self.world.device) / 1e6, 1),
            "seconds": state.seconds,
            "tokens_seen": state.tokens_seen,
            "epochs": state.tokens_seen / len(self.corpus.train),
            "train_share_seen": self.trainer.sampler.share_seen(state.samples_seen),
            "steps_left_out": state.left_out,
            "parameters": self._parameters(),
            "checkpoint": self.lake.path("checkpoints", self.spec.run, checkpoint.step_name(state.step)),
            "mlflow_run_id": self.observer.run_id,
            "skipped": False,
            "warnings": list(self.observer.warnings),
        }
        self.observer.end("FINISHED")  # before the summary, which holds what MLflow did not take
        if self.world.is_first:
            self.lake.publish_json(summary, "checkpoints", self.spec.run, runs.SUMMARY)
        return summary


def _quiet(event: str, **fields: Any) -> None:
    """What the processes beside the first one report."""


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
            # In one write, newline included: under torchrun several processes may report errors to one pipe.
            sys.stdout.write(orjson.dumps({"event": event, **fields}).decode() + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # whoever watched is gone: save and end
            stop.append(signal.SIGPIPE)
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the process ends

    try:
        spec = TrainSpec.from_json(orjson.loads(path.read_bytes()), str(path))
        if spec.device.startswith("cpu") or (spec.device == "auto" and world.best_device() == "cpu"):
            world.keep_freed_memory()
        train(spec, emit, lambda: bool(stop))
        if ENDED in os.environ and os.environ.get("RANK") == "0":
            Path(os.environ[ENDED]).touch()
    except Exception as error:
        if not isinstance(error, (InputError, OSError)) and failure.kind_of(error) is None:
            raise  # a defect; OSError: the disk is full, the lake is gone; memory runs out in a validation, too
        is_ours = isinstance(error, (InputError, OSError, FailedStepError))
        message = told(error) if isinstance(error, OSError) else str(error) if is_ours else failure.one_line(error)
        emit("error", message=message, kind=type(error).__name__)
        print(message, file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except Exception:  # a defect; the interpreter's own way out would close the group, and wait
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # all is saved; threads of torch's and Arrow's libraries may abort a process that unloads them
