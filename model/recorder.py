"""Saving and reporting: what a run writes to the lake, to MLflow and as events.

Every process has a recorder and calls it equally often, since saving and measuring are done together; only the first
one reports.
"""

from __future__ import annotations

import dataclasses

from data.errors import InputError
from model import checkpoint, runs
from model.checkpoint import State
from model.events import CheckpointSaved, Emit, Started, StepDone, TrainSummary, Validated, Warned, to_json
from model.flops import Peak, flop_per_token, peak_of
from model.observer import Silent, observe
from model.optim import learning_rate
from model.setup import Setup
from model.telemetry import Meter, peak_memory_bytes
from model.trainer import Trainer


class Recorder:
    """Writes down what one run does from the step of ``state`` on."""

    def __init__(
        self, setup: Setup, trainer: Trainer, record: runs.Record, state: State, damaged: set[int], emit: Emit
    ) -> None:
        """``damaged`` are the steps of damaged checkpoints; they do not count among the checkpoints to keep."""
        self.setup = setup
        self.trainer = trainer
        self.damaged = damaged
        self.emit = emit
        self.parameters = sum(weight.numel() for weight in trainer.weights)
        self.meter = self._meter()
        self.observer = self._observer(record, state)

    def _meter(self) -> Meter:
        """Where the peak is unknown, all processes measure it at the same time, as they will compute."""
        world = self.setup.world
        peak = peak_of(world.device, self.setup.preset.train.precision)
        together = Peak(world.sum(peak.flop_per_s)[0], peak.source)
        return Meter(flop_per_token(self.setup.preset.model, self.parameters), together)

    def _observer(self, record: runs.Record, state: State) -> Silent:
        """Connect to MLflow if the run is tracked, and add the MLflow run's id to ``run.json``."""
        setup = self.setup
        spec = setup.spec
        if spec.tracking_uri is None or not setup.world.is_first:
            return Silent()
        peak = f"{self.meter.peak.flop_per_s / 1e12:.4g} TFLOP/s ({self.meter.peak.source})"
        tags = {"webtext.corpus_digest": setup.corpus.digest, "webtext.preset": spec.preset, "webtext.peak": peak}
        params = {**setup.preset.train.to_json(), **setup.preset.model.to_json()}
        params |= {"parameters": self.parameters, "preset": spec.preset}
        if "init_from" in record["settings"]:
            params["init_from"] = record["settings"]["init_from"]
        observer = observe(setup.lake, spec, record["key"], state.step, tags, params, self.emit)
        setup.lake.publish_json({**record, "mlflow_run_id": observer.run_id}, "checkpoints", spec.run, runs.RUN)
        return observer

    def start(self, step: int) -> None:
        """Report that training starts after ``step``."""
        corpus = self.setup.corpus
        world = self.setup.world
        config = self.setup.preset.train
        assert isinstance(config.micro_batch_size, int)
        self.emit(
            Started(
                run=self.setup.spec.run,
                step=step,
                steps=config.steps,
                parameters=self.parameters,
                train_tokens=len(corpus.train),
                val_tokens=len(corpus.val),
                unigram_entropy=corpus.unigram_entropy,
                precision=config.precision,
                micro_batch_size=config.micro_batch_size,
                compile=bool(config.compile),
                device=str(world.device),
                processes=world.size,
                peak_flop_per_s=self.meter.peak.flop_per_s,
                peak=self.meter.peak.source,
            )
        )
        for note in self.setup.preset.notes:
            self.emit(Warned(note))

    def step(self, state: State, loss: float, grad_norm: float, eta_s: float) -> None:
        """Report a step; rates and shares of time are means since the last report."""
        config = self.setup.preset.train
        metrics = {"loss": loss, "grad_norm": grad_norm, "lr": learning_rate(state.step - 1, config)}
        metrics |= {**self.meter.read(), "memory_mb": self._memory_mb()}
        shares = {phase: round(share, 4) for phase, share in self.trainer.timer.shares().items()}
        self.emit(StepDone(state.step, config.steps, round(eta_s, 1), **metrics, time_shares=shares))
        by_phase = {f"time_share/{phase}": share for phase, share in shares.items()}
        self.observer.metrics({**metrics, **by_phase, "steps_left_out": len(state.left_out)}, state.step)

    def validation(self, step: int, val_loss: float, tokens: int, *, is_saved: bool) -> None:
        """Report a validation; ``is_saved``: a checkpoint follows, whose metrics MLflow shows as the run's too."""
        self.emit(Validated(step, val_loss, tokens))
        if not is_saved:
            self.observer.metrics({"val_loss": val_loss}, step)

    def save(self, state: State, val_loss: float | None, seconds: float) -> State:
        """Publish a checkpoint and remove those that are no longer kept; returns the state with the best step."""
        setup = self.setup
        best = (state.best_step, state.best_val_loss)
        if val_loss is not None and (state.best_val_loss is None or val_loss < state.best_val_loss):
            best = (state.step, val_loss)
        state = dataclasses.replace(
            state,
            val_loss=val_loss,
            best_step=best[0],
            best_val_loss=best[1],
            seconds=seconds,
            mlflow_run_id=self.observer.run_id,
        )
        self.observer.flush()  # points that are still unsent after this would be lost with the process
        checkpoint.save(setup.lake, self.trainer.weights, self.trainer.optimizers, state, setup.world)
        if setup.world.is_first:
            self.damaged.discard(state.step)
            self._prune(state)
            self.checkpoint(state)
            self.emit(CheckpointSaved(state.step, state.val_loss, round(state.seconds, 1)))
        setup.world.wait()
        return state

    def _prune(self, state: State) -> None:
        config = self.setup.preset.train
        run = self.setup.spec.run
        steps = [step for step in checkpoint.steps(self.setup.lake, run) if step <= state.step]
        steps = [step for step in steps if step not in self.damaged]
        kept = {step for step in steps if config.is_permanent(step)}
        kept |= set(steps[-config.keep_last :])
        if state.best_step:
            kept.add(state.best_step)
        checkpoint.prune(self.setup.lake, run, kept)

    def checkpoint(self, state: State) -> None:
        """Record a checkpoint in MLflow, with its weights if it is permanent."""
        self.observer.checkpoint(state, with_weights=self.setup.preset.train.is_permanent(state.step))

    def finish(self, state: State, val_loss: float) -> TrainSummary:
        """Publish the summary of a finished run and send its last and its best checkpoint to MLflow."""
        setup = self.setup
        self.observer.checkpoint(state, with_weights=True)
        if setup.world.is_first and state.best_step not in (None, state.step):
            try:
                best = checkpoint.check(setup.lake, setup.spec.run, state.best_step)
                self.observer.checkpoint(best, with_weights=True)
            except InputError as error:
                self.emit(Warned(f"{error}; the best checkpoint is not in MLflow"))
        tokens_per_s = state.tokens_seen / state.step_seconds
        summary = TrainSummary(
            run=setup.spec.run,
            steps=state.step,
            first_loss=state.first_loss,
            train_loss=state.train_loss,
            val_loss=val_loss,
            best_step=state.best_step,
            best_val_loss=state.best_val_loss,
            unigram_entropy=setup.corpus.unigram_entropy,
            tokens_per_s=tokens_per_s,
            mfu=self.meter.mfu(tokens_per_s),
            peak=self.meter.peak.source,
            memory_mb=self._memory_mb(),
            seconds=state.seconds,
            tokens_seen=state.tokens_seen,
            epochs=state.tokens_seen / len(setup.corpus.train),
            train_share_seen=self.trainer.sampler.share_seen(state.samples_seen),
            steps_left_out=tuple(state.left_out),
            parameters=self.parameters,
            checkpoint=setup.lake.path("checkpoints", setup.spec.run, checkpoint.step_name(state.step)),
            mlflow_run_id=self.observer.run_id,
            skipped=False,
            warnings=self.observer.warnings,
        )
        self.observer.end("FINISHED")  # before the summary, which lists what MLflow did not take
        if setup.world.is_first:
            setup.lake.publish_json(to_json(summary), "checkpoints", setup.spec.run, runs.SUMMARY)
        return summary

    def _memory_mb(self) -> float:
        return round(peak_memory_bytes(self.setup.world.device) / 1e6, 1)
