"""What a run reports to MLflow while it trains, and what happens when the server is away.

A lost server must neither stop training nor slow it down. A warning is emitted at once; metrics are buffered and sent
later, with few attempts while the server is away. Metrics that are still unsent when a checkpoint is saved are written
beside it, to ``unsent.json``, and the process that resumes the run sends them. The run's summary lists what MLflow did
not take.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from data.errors import InputError, told
from data.lake.store import Lake
from model import checkpoint
from model.checkpoint import State
from model.config import TrainSpec
from model.events import Emit, Warned

if TYPE_CHECKING:  # MLflow takes seconds to import, so only tracked runs import it
    from model.tracking import Tracker


UNSENT = "unsent.json"
OF_CHECKPOINT = ("train_loss", "val_loss")


class Silent:
    """Reports nothing: the observer of an untracked run, and of every process but the first."""

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
        """Write unsent points for a later process. If the disk is full they are lost, but training goes on."""
        unsent = self._tracker.unsent()
        try:
            if unsent:
                self._lake.publish_json(unsent, "checkpoints", self._run, UNSENT)
            elif self._lake.exists("checkpoints", self._run, UNSENT):
                self._lake.remove("checkpoints", self._run, UNSENT)
        except OSError as error:
            self._warn(f"{len(unsent)} points for MLflow cannot be kept for a later process: {told(error)}")

    def checkpoint(self, state: State, *, with_weights: bool) -> None:
        """Record a checkpoint, with a copy of its weights if it is kept for good."""
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
        self._tracker.log_metrics(metrics, state.step)  # at least its curves, when the server is back

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
        self._emit(Warned(message))


def observe(
    lake: Lake, spec: TrainSpec, key: str, step: int, tags: Mapping[str, str], params: Mapping[str, object], emit: Emit
) -> Observer:
    """Find or create the MLflow run and record the parameters and the corpus; training goes on from ``step``.

    Raises InputError if the server cannot be reached.
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
                # This process will report later points, and this step's checkpoint, again.
                if at + (key in OF_CHECKPOINT) <= step:
                    tracker.remember(key, value, timestamp_ms, at)
        except (InputError, TypeError, ValueError) as error:
            emit(Warned(f"{lake.path('checkpoints', spec.run, UNSENT)}: damaged ({error}); its points are lost"))
    return Observer(lake, spec.run, tracker, emit)
