"""What the lake says of a run beside its checkpoints: how it was begun, how it ended, and who may write it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from data.errors import InputError
from data.lake.locks import LEASE_S
from data.lake.manifest import settings_diff
from data.lake.store import Lake
from model.config import Preset, TrainSpec

if TYPE_CHECKING:  # it brings torch, which takes seconds to import
    from model.observer import Emit

RUN = "run.json"
SUMMARY = "summary.json"
LOCK_WAIT_S = LEASE_S + 15.0  # a process before this one may still be saving its last checkpoint

Record = dict[str, Any]
"""What ``run.json`` holds. ``settings`` decide the result: a run is never continued with others."""


def read_record(lake: Lake, run: str) -> Record | None:
    """``run.json``, or None for a run that was not begun. Raises InputError if it is no such record."""
    if not lake.exists("checkpoints", run, RUN):
        return None
    record = _read(lake, run, RUN)
    if not isinstance(record, dict) or not {"key", "spec", "train", "settings"} <= record.keys():
        raise InputError(
            f"{lake.path('checkpoints', run, RUN)}: damaged; remove it, the checkpoints know their settings, too"
        )
    return record


def read_summary(lake: Lake, run: str) -> dict[str, Any] | None:
    """``summary.json``, or None if there is none, or a damaged one: the next run to the end writes it anew."""
    summary = _read(lake, run, SUMMARY) if lake.exists("checkpoints", run, SUMMARY) else None
    return summary if isinstance(summary, dict) and "steps" in summary else None


def _read(lake: Lake, run: str, name: str) -> Any:
    with lake.open("checkpoints", run, name) as file, contextlib.suppress(orjson.JSONDecodeError):
        return orjson.loads(file.read())
    return None


def make_record(
    spec: TrainSpec,
    preset: Preset,
    manifests: Mapping[str, str],
    corpus_digest: str,
    init_from: str | None,
    begun: Record | None,
) -> Record:
    """The record of a run, continuing the one it was ``begun`` with, if any.

    ``init_from`` is the sha256 of the weights it starts from; without one a resumed run keeps its own. Raises
    InputError, with the difference, if the settings are not those it was begun with.
    """
    settings = {**preset.model.to_json(), **preset.train.content(), "corpus": corpus_digest}
    begun_from = begun["settings"].get("init_from") if begun else None
    if init_from or begun_from:
        settings["init_from"] = init_from or begun_from
    if begun and begun["settings"] != settings:
        raise InputError(
            f"--run {spec.run} was begun with other settings ({settings_diff(begun['settings'], settings)}); "
            "choose another --run, or go on with those"
        )
    is_same = begun is not None and begun["spec"]["run"] == spec.run  # else the directory is a copy of that run's
    public = {name: value for name, value in spec.to_json().items() if name != "tracking_uri"}  # may hold a password
    if begun and spec.init_from is None:
        public["init_from"] = begun["spec"].get("init_from")
    return {
        "key": begun["key"] if begun and is_same else uuid.uuid4().hex,  # by which the MLflow run is found again
        "spec": public,
        "model": preset.model.to_json(),
        "train": preset.train.to_json(),
        "settings": settings,
        "corpus_digest": corpus_digest,
        "manifests": dict(manifests),
        "mlflow_run_id": begun["mlflow_run_id"] if begun and is_same else None,
    }


def finished(lake: Lake, run: str, step: int) -> dict[str, Any] | None:
    """The summary of a run that was summed up at ``step``, or None."""
    summary = read_summary(lake, run)
    return summary if summary and summary["steps"] == step else None


@contextlib.contextmanager
def locked(lake: Lake, run: str, emit: Emit) -> Iterator[None]:
    """Hold the run's lock; a process that is just ending is waited for. Raises InputError if it does not end."""
    deadline = time.monotonic() + LOCK_WAIT_S
    is_told = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lake.lock(f"checkpoints-{run}"))
                break
            except InputError:
                if time.monotonic() > deadline:
                    raise
                if not is_told:
                    emit("warning", message=f"--run {run} is being written by another process; waiting for it to end")
                is_told = True
                time.sleep(1.0)
        yield
