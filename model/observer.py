"""What a run tells MLflow while it trains, and what happens when MLflow is not there to listen.

A server that is lost must not cost the training that it watches, nor hold it up: metrics are kept and sent again later,
seldom while it is away, and a warning is emitted at once. What is not sent when a checkpoint is saved lies beside it,
in ``unsent.json``, for the process that goes on from there. The run's summary lists what MLflow did not take.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from data.errors import InputError, told
from data.lake.store import Lake
from model import checkpoint
from model.checkpoint import State
from model.config import TrainSpec

if TYPE_CHECKING:  # MLflow takes seconds to import: only a run that is tracked does it
    from model.tracking import Tracker


UNSENT = "unsent.json"
OF_CHECKPOINT = ("train_loss", "val_loss")


class Emit(Protocol):
    """Reports an event to the process that supervises this one."""

    def __call__(self, event: str, **fields: Any) -> None: ...


class Silent:
    """The observer of a run that is not tracked, and of every process but the first."""

    run_id: str | None = None
    warnings: tuple[str, ...] = ()

    def metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def flush(self) -> None: ...

    def checkpoint(self, state: State, *, with_weights: bool) -> None: ...

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None: ...


class Observer(Silent):
    """Writes to the MLflow run that is tagged with ``key``."""

    def __init__(self, lake: Lake, run: str, tracker: Tracker, emit: Emit) -> None:
        self._lake = lake
        self._run = run
        self._tracker = tracker
        self._emit = emit
        self.run_id = tracker.run_id
        self.warnings = ()

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        with self._tolerated():
            self._tracker.log_metrics(metrics, step)

    def flush(self) -> None:
        if not self._tracker.is_away:
            with self._tolerated():
                self._tracker.flush()
        self._keep()

    def _keep(self) -> None:
        """What is not sent, for a process after this one. A full disk costs that, and not the training."""
        unsent = self._tracker.unsent()
        try:
            if unsent:
                self._lake.publish_json(unsent, "checkpoints", self._run, UNSENT)
            elif self._lake.exists("checkpoints", self._run, UNSENT):
                self._lake.remove("checkpoints", self._run, UNSENT)
        except OSError as error:
            self._warn(f"{len(unsent)} points for MLflow are not kept for a later process: {told(error)}")

    def checkpoint(self, state: State, *, with_weights: bool) -> None:
        """Record a checkpoint; its weights, which are a copy, only if it stays for good."""
        metrics = {"train_loss": state.train_loss}
        if state.val_loss is not None:
            metrics["val_loss"] = state.val_loss
        if with_weights or not self._tracker.is_away:
            with self._tolerated():
                if not with_weights:
                    self._tracker.log_checkpoint(state.step, metrics, None)
                    return
                with checkpoint.artifacts(self._lake, state.run, state.step) as folder:
                    self._tracker.log_checkpoint(state.step, metrics, folder)
                    return
        self._tracker.log_metrics(metrics, state.step)  # its curves at least, when the server is back

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        with self._tolerated():
            self._tracker.set_status(status)
        self._keep()

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        from model.tracking import TrackingError

        try:
            yield
        except TrackingError as error:
            self._warn(str(error))

    def _warn(self, message: str) -> None:
        self.warnings = (*self.warnings, message)
        self._emit("warning", message=message)


def observe(
    lake: Lake, spec: TrainSpec, key: str, step: int, tags: Mapping[str, str], params: Mapping[str, object], emit: Emit
) -> Observer:
    """Find or begin the MLflow run and record what the training is, which goes on from ``step``.

    Raises InputError if the server is not there.
    """
    from model.tracking import DatasetRef, open_tracker

    assert spec.tracking_uri is not None
    tracker = open_tracker(spec.tracking_uri, spec.experiment, spec.run, key, {**tags, **spec.tags}, time.time)
    tracker.log_params(params)
    for snapshot in spec.corpus:
        manifest = lake.dataset("tokens", snapshot).require()
        tracker.log_dataset(DatasetRef(f"tokens/{snapshot}", manifest.digest, lake.root))
    if lake.exists("checkpoints", spec.run, UNSENT):
        try:
            for key, value, timestamp_ms, at in lake.read_json("checkpoints", spec.run, UNSENT):
                if at + (key in OF_CHECKPOINT) <= step:  # later ones, and the checkpoint of this step, are told again
                    tracker.remember(key, value, timestamp_ms, at)
        except (InputError, TypeError, ValueError) as error:
            emit("warning", message=f"{lake.path('checkpoints', spec.run, UNSENT)}: damaged ({error}); left out")
    return Observer(lake, spec.run, tracker, emit)
