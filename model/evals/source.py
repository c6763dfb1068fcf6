"""Which model is scored: a run's newest checkpoint, a checkpoint's directory, or a directory of transformers.

The name and the digest show whether the model was scored before, so they are read first. Weights are loaded when
needed.
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
from data.lake.manifest import corpus_digest, json_digest
from data.lake.names import check_name
from data.lake.store import Lake
from model import causal, checkpoint, hf, runs, world
from model.causal import Causal
from model.checkpoint import OPTIMIZER, STATE, State
from model.evals import EvalSpec
from model.gpt2 import GPT2


@dataclass(frozen=True)
class Source:
    """A model that can be loaded. ``trained_on`` are the snapshots of its training documents, if they are known."""

    name: str
    step: int
    where: str  # the checkpoint or the directory
    digest: str  # of weights and shape
    load: Callable[[str], GPT2 | Causal]  # onto a device
    trained_on: tuple[str, ...]
    trained_digest: str | None  # of the corpus it was trained on
    mlflow_run_id: str | None
    warnings: tuple[str, ...] = ()  # newer checkpoints that are damaged


def find(spec: EvalSpec, lake: Lake) -> Source:
    """The model that the spec names. Raises InputError if there is none, or if it is damaged."""
    if spec.run is not None:
        return _of_run(lake, spec.run)
    if spec.checkpoint is not None:
        return _of_checkpoint(Path(spec.checkpoint))
    assert spec.hf is not None
    return _of_hf(Path(spec.hf))


def warnings_of(source: Source, spec: EvalSpec) -> list[str]:
    """What the user should know before the model is scored: a GPU that is left unused, checkpoints that are damaged."""
    unused = world.unused_gpu() if spec.device == "auto" else None
    return [*([unused] if unused else []), *source.warnings]


def corpus_of(source: Source, spec: EvalSpec, lake: Lake) -> tuple[str, ...]:
    """The snapshots with the held-out documents: the spec's, otherwise the run's; empty if the lake has neither.

    Raises InputError if the lake's corpus differs from the one that the run was trained on.
    """
    if spec.corpus:
        return spec.corpus
    manifests = [lake.dataset("tokens", name).manifest() for name in source.trained_on]
    known = [manifest for manifest in manifests if manifest is not None]
    if len(known) < len(manifests):
        return ()  # held-out tasks are listed as missing
    if known and corpus_digest(known) != source.trained_digest:
        raise InputError(
            f"tokens/{','.join(source.trained_on)} in {lake.root} is not what {source.name} was trained on (the digest "
            "differs), so the model may know its held-out documents; name another --corpus"
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
        raise InputError(f"--checkpoint {folder}: not a checkpoint of webtext ({error})") from error
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
    is_gpt2 = hf.is_gpt2(folder)
    of_model = ("*.safetensors", "config.json")
    of_tokenizer = () if is_gpt2 else ("*token*", "vocab*", "merges.txt", "spiece.model")
    files = sorted({path for pattern in (*of_model, *of_tokenizer) for path in folder.glob(pattern)})
    if not files:
        raise InputError(f"--hf {folder}: it has no config.json and no *.safetensors")
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    digest = json_digest(digests)
    name = "hf-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in folder.resolve().name)
    return Source(
        name=check_name("run", f"{name}-{digest[:8]}"),  # directories of one name must not replace each other's scores
        step=0,
        where=str(folder),
        digest=digest,
        load=lambda device: (hf.load_hf if is_gpt2 else causal.load)(folder, device=device),
        trained_on=(),
        trained_digest=None,
        mlflow_run_id=None,
    )
