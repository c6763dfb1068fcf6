"""What the lake holds of a run besides its checkpoints: its record, its summary and its lock."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from data.errors import InputError
from data.lake.locks import LEASE_S
from data.lake.manifest import settings_diff
from data.lake.store import Lake
from model.config import Preset, TrainSpec
from model.events import Emit, TrainSummary, Warned

RUN = "run.json"
SUMMARY = "summary.json"
LOCK_WAIT_S = LEASE_S + 15.0  # an earlier process may still be saving its last checkpoint

Record = dict[str, Any]
"""The content of ``run.json``. ``settings`` decide the result: a run is never continued with others."""


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def read_record(lake: Lake, run: str) -> Record | None:
    """``run.json``, or None if the run has none. Raises InputError if it is damaged."""
    if not lake.exists("checkpoints", run, RUN):
        return None
    record = _read(lake, run, RUN)
    if not isinstance(record, dict) or not {"key", "spec", "train", "settings"} <= record.keys():
        raise InputError(
            f"{lake.path('checkpoints', run, RUN)}: damaged; remove it: the checkpoints hold the settings too"
        )
    return record


def read_summary(lake: Lake, run: str) -> dict[str, Any] | None:
    """``summary.json``, or None if it is missing or damaged; the next process that finishes the run writes it again."""
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
    """The record of a run; ``begun`` is the record that is there, if any.

    ``init_from`` is the sha256 of the weights that the run starts from; without it a resumed run keeps its own. Raises
    InputError with the difference if the settings are not the ones the run was begun with.
    """
    settings = {**preset.model.to_json(), **preset.train.content(), "corpus": corpus_digest}
    begun_from = begun["settings"].get("init_from") if begun else None
    if init_from or begun_from:
        settings["init_from"] = init_from or begun_from
    if begun and begun["settings"] != settings:
        raise InputError(
            f"--run {spec.run} was begun with other settings ({settings_diff(begun['settings'], settings)}); "
            "choose another --run, or use those"
        )
    # If the names differ, the directory is a copy of another run's.
    is_same = begun is not None and begun["spec"]["run"] == spec.run
    # The tracking URI may hold a password.
    public = {name: value for name, value in spec.to_json().items() if name != "tracking_uri"}
    if begun and spec.init_from is None:
        public["init_from"] = begun["spec"].get("init_from")
    return {
        "key": begun["key"] if begun and is_same else uuid.uuid4().hex,  # a tag that finds the MLflow run again
        "spec": public,
        "model": preset.model.to_json(),
        "train": preset.train.to_json(),
        "settings": settings,
        "corpus_digest": corpus_digest,
        "manifests": dict(manifests),
        "mlflow_run_id": begun["mlflow_run_id"] if begun and is_same else None,
    }


def finished(lake: Lake, run: str, step: int) -> TrainSummary | None:
    """The summary of a run that ended at ``step``; None if it did not, or if the summary is damaged."""
    summary = read_summary(lake, run)
    if summary is None or summary["steps"] != step:
        return None
    try:
        return TypeAdapter(TrainSummary).validate_python(summary)
    except ValidationError:
        return None


@contextlib.contextmanager
def locked(lake: Lake, run: str, emit: Emit) -> Iterator[None]:
    """Hold the run's lock, after waiting for a process that is just ending. Raises InputError if it does not end."""
    deadline = time.monotonic() + LOCK_WAIT_S
    has_warned = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lake.lock(f"checkpoints-{run}"))
                break
            except InputError:
                if time.monotonic() > deadline:
                    raise
                if not has_warned:
                    emit(Warned(f"--run {run} is being written by another process; waiting for it to end"))
                has_warned = True
                time.sleep(1.0)
        yield
