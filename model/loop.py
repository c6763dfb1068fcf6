"""The training loop: steps, validations and checkpoints from where a run stands to its last step."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable

from model import failure
from model.checkpoint import State
from model.events import Warned
from model.failure import FailedStepError, Kind
from model.recorder import Recorder
from model.setup import Setup
from model.trainer import Pending, StepResult, Trainer


class Loop:
    """One process's share in the steps of a run; ``state`` is where training stands."""

    def __init__(
        self, setup: Setup, trainer: Trainer, recorder: Recorder, state: State, clock: Callable[[], float]
    ) -> None:
        self.setup = setup
        self.trainer = trainer
        self.recorder = recorder
        self.state = state
        self.clock = clock
        self._begun: deque[tuple[Pending, list[float]]] = deque()  # with the losses that their limit was made from
        self._is_stop_requested = False

    def run(self, should_stop: Callable[[], bool]) -> bool:
        """Train to the last step; returns whether ``should_stop`` ended it early. A checkpoint is saved either way."""
        config = self.setup.preset.train
        timer = self.trainer.timer
        self.recorder.start(self.state.step)
        timer.shares()  # drops the time before the first step
        began = self.clock()
        seconds_before = self.state.seconds
        n_steps = 0
        is_stopped = False
        step_began = began
        while self.state.step < config.steps and not is_stopped:
            while not self._must_read():
                self._begin(should_stop)
            done = self._read()
            self._advance(done, self.clock() - step_began)
            n_steps += 1
            step = self.state.step
            is_stopped = self._is_stop_requested and not self._begun and step < config.steps
            is_saved = step % config.checkpoint_every == 0 or step == config.steps or is_stopped
            if done is not None and (step % config.log_every == 0 or step in (1, config.steps)):
                eta_s = (self.clock() - began) / n_steps * (config.steps - step)
                self.recorder.step(self.state, done.loss, done.grad_norm, eta_s=eta_s)
            val_loss = None
            if (step % config.val_every == 0 or is_saved) and not is_stopped:
                timer.start("validation")
                val_loss, n_tokens = self.validate()
                timer.start("other")
                self.recorder.validation(step, val_loss, n_tokens, is_saved=is_saved)
            if is_saved:
                timer.start("checkpoint")
                self.state = self.recorder.save(self.state, val_loss, seconds_before + self.clock() - began)
                timer.start("other")
            step_began = self.clock()
        return is_stopped

    def validate(self) -> tuple[float, int]:
        """The validation loss and the number of its tokens. Raises FailedStepError if the loss is not finite."""
        val_loss, n_tokens = self.trainer.validate(lambda message: self.recorder.emit(Warned(message)))
        if not math.isfinite(val_loss):
            message = f"step {self.state.step}: the validation loss is {val_loss}; the checkpoint before is untouched: "
            message += "lower the learning rate or lengthen the warm-up with --set, under another --run"
            raise FailedStepError("not_finite", message)
        return val_loss, n_tokens

    def _must_read(self) -> bool:
        """Whether to read a result before another step begins: nothing is unread at a validation or a checkpoint."""
        config = self.setup.preset.train
        step = self.trainer.step
        is_due = step % config.val_every == 0 or step % config.checkpoint_every == 0 or step == config.steps
        is_late = len(self._begun) > self.trainer.lag
        return bool(self._begun) and (is_late or is_due or self._is_stop_requested)

    def _begin(self, should_stop: Callable[[], bool]) -> None:
        """Begin a step. Raises FailedStepError if memory runs out."""
        losses = self._losses_for_limit()
        try:
            pending = self.trainer.train_step(failure.loss_limit(losses), should_stop)
        except (RuntimeError, MemoryError) as error:
            kind = failure.kind_of(error)
            if kind is None:
                raise
            what = failure.one_line(error)
        else:
            self._begun.append((pending, losses))
            return
        self.trainer.batches.drop()  # the report needs memory too
        while self._begun:
            self._advance(self._read(), 0.0)
        self._leave_out(kind, what)  # not in the handler: the error holds the tensors of the failed step

    def _losses_for_limit(self) -> list[float]:
        """The losses that the next step's loss is compared with.

        They end ``trainer.lag`` steps before the last one even where that one's loss is known, so that a resumed run
        decides as one that was never stopped.
        """
        losses = self.state.recent_losses
        is_last_known = len(self._begun) < self.trainer.lag and self.state.left_out[-1:] != [self.state.step]
        return losses[:-1] if is_last_known else losses

    def _read(self) -> StepResult | None:
        """The result of the oldest step that was begun, None if its batch was left out.

        Raises FailedStepError if training must stop.
        """
        pending, losses = self._begun.popleft()
        result = pending.read()
        self._is_stop_requested = self._is_stop_requested or result.stop_requests > 0
        if result.is_refused:
            self._leave_out(*failure.why_refused(losses, result.loss, result.grad_norm))
        return None if result.is_refused else result

    def _leave_out(self, kind: Kind, what: str) -> None:
        """Report a step that made no update. Raises FailedStepError if the settings do not allow it."""
        state = self.state
        config = self.setup.preset.train
        is_left_out = kind != "out_of_memory" and len(state.left_out) < config.max_steps_left_out
        if is_left_out and kind == "not_finite" and state.left_out[-1:] == [state.step]:
            is_left_out = False
            what = f"{what}, as in the step before: it is not the batch"
        where = self._report(kind, what, is_left_out)
        last = state.samples_seen + config.batch_at(state.step) - 1
        message = f"step {state.step + 1}: {what}, on samples {state.samples_seen} to {last}; report: {where}"
        if not is_left_out:
            raise FailedStepError(kind, f"{message}; the checkpoint before is untouched: {failure.ADVICE[kind]}")
        count = f"{len(state.left_out) + 1} of {config.max_steps_left_out}"
        self.recorder.emit(Warned(f"{message}; the batch is left out, {count}"))

    def _report(self, kind: Kind, what: str, is_left_out: bool) -> str:
        """Publish the report of a failed step, once for all processes; returns where it is."""
        setup = self.setup
        is_common = kind != "out_of_memory"  # the other processes may have had enough memory
        if is_common and not setup.world.is_first:
            setup.world.wait()  # until the first process has written the report
        where = failure.report(
            setup.lake, setup.spec.corpus, self.state, self.trainer.sampler, kind, what, is_left_out=is_left_out
        )
        if is_common and setup.world.is_first:
            setup.world.wait()  # when one process ends, torchrun ends the others, the writing one too
        return where

    def _advance(self, done: StepResult | None, step_s: float) -> None:
        """Count a step that took ``step_s``; ``done`` is None if its batch was left out."""
        state = self.state
        step = state.step + 1
        config = self.setup.preset.train
        context = self.setup.preset.model.context
        samples_seen = config.samples_before(step)
        losses = state.recent_losses if done is None else [*state.recent_losses, done.loss]
        self.recorder.meter.add(step_s, config.batch_at(step - 1) * context)
        self.state = dataclasses.replace(
            state,
            step=step,
            samples_seen=samples_seen,
            tokens_seen=samples_seen * context,
            first_loss=losses[0] if state.first_loss is None and losses else state.first_loss,
            recent_losses=losses[-failure.SPIKE_WINDOW - 1 :],
            step_seconds=state.step_seconds + step_s,
            left_out=[*state.left_out, step] if done is None else state.left_out,
        )
