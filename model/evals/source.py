"""Which model is scored: a run's newest checkpoint, a checkpoint's directory, or a directory of transformers.

What is needed to name it and to know whether it was scored before is read first; weights are loaded only when asked.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from data.errors import InputError
from data.lake.manifest import json_digest
from data.lake.store import Lake, check_name
from model import checkpoint, hf, runs
from model.checkpoint import OPTIMIZER, STATE, State
from model.evals import EvalSpec
from model.evals.heldout import corpus_digest
from model.gpt2 import GPT2


@dataclass(frozen=True)
class Source:
    """A model that can be loaded. ``trained_on`` are the snapshots of its training documents, where they are known."""

    name: str
    step: int
    where: str  # the checkpoint or the directory
    digest: str  # of weights and shape
    load: Callable[[str], GPT2]  # onto a device
    trained_on: tuple[str, ...]
    trained_digest: str | None  # of that corpus
    mlflow_run_id: str | None
    warnings: tuple[str, ...] = ()  # newer checkpoints that are damaged


def find(spec: EvalSpec, lake: Lake) -> Source:
    """Raises InputError if there is no such model, or if it is damaged."""
    if spec.run is not None:
        return _of_run(lake, spec.run)
    if spec.checkpoint is not None:
        return _of_checkpoint(Path(spec.checkpoint))
    assert spec.hf is not None
    return _of_hf(Path(spec.hf))


def corpus_of(source: Source, spec: EvalSpec, lake: Lake) -> tuple[str, ...]:
    """The snapshots whose held-out documents are used: those named, else those of the run; empty if neither is known.

    Raises InputError if the run's corpus is another one than it was trained on.
    """
    if spec.corpus:
        return spec.corpus
    if source.trained_on and corpus_digest(lake, source.trained_on) != source.trained_digest:
        raise InputError(
            f"tokens/{','.join(source.trained_on)} in {lake.root} is not what {source.name} was trained on (another "
            "digest), so its held-out documents may be known to it; name another --corpus"
        )
    return source.trained_on


def _of_run(lake: Lake, run: str) -> Source:
    state, complaints = checkpoint.require_intact(lake, run)
    step = state.step
    record = runs.read_record(lake, run) or {}
    where = lake.path("checkpoints", run, checkpoint.step_name(step))
    found = _of_state(state, where, record, lambda device: checkpoint.load_model(lake, run, step, device=device)[0])
    return dataclasses.replace(found, warnings=tuple(complaints))


def _of_checkpoint(folder: Path) -> Source:
    path = folder / STATE
    try:
        state = State.from_json(orjson.loads(path.read_bytes()), str(path))
        beside = folder.parent / "run.json"
        record = orjson.loads(beside.read_bytes()) if beside.is_file() else {}
    except (OSError, orjson.JSONDecodeError) as error:
        raise InputError(f"--checkpoint {folder}: no checkpoint of webtext ({error})") from error
    return _of_state(state, str(folder), record, lambda device: checkpoint.load_directory(folder, device=device)[0])


def _of_state(state: State, where: str, record: dict[str, Any], load: Callable[[str], GPT2]) -> Source:
    names = sorted((name for name in state.sha256 if name != OPTIMIZER), reverse=True)  # model.safetensors or shards
    return Source(
        name=check_name("run", state.run),
        step=state.step,
        where=where,
        digest=json_digest([state.sha256[name] for name in names]),
        load=load,
        trained_on=tuple(record.get("spec", {}).get("corpus", ())),
        trained_digest=state.corpus_digest,
        mlflow_run_id=record.get("mlflow_run_id") or state.mlflow_run_id,
    )


def _of_hf(folder: Path) -> Source:
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    if not files:
        raise InputError(f"--hf {folder}: no config.json and *.safetensors there")
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    name = "hf-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.resolve().name)
    return Source(
        name=check_name("run", name),
        step=0,
        where=str(folder),
        digest=json_digest(digests),
        load=lambda device: hf.load_hf(folder, device=device),
        trained_on=(),
        trained_digest=None,
        mlflow_run_id=None,
    )
