"""Checkpoints of a run in the lake: published whole, refused when damaged, read without unpickling.

    lake/checkpoints/<run>/run.json              how the run was started (model/runs.py)
                           step-00000100/        model.safetensors      weights, fp32
                                                 optimizer.safetensors  <parameter>/<quantity>
                                                 shard-*.safetensors    instead of both, in a sharded run (sharding.py)
                                                 config.json            the model's shape
                                                 state.json             where training stood; sha256 of every file
                           failure-00000120.json a step that failed (model/failure.py)
                           unsent.json           what MLflow did not take (model/observer.py)
                           summary.json          written at the end (model/runs.py)

``state.json`` is published last: its name sorts last, and on disk the directory is renamed as a whole. A checkpoint
without one, or with files that do not match it, is damaged, and the one before is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.errors import InputError
from data.lake.manifest import json_digest
from data.lake.names import check_name
from data.lake.store import Lake
from model.config import ModelConfig, TrainConfig
from model.gpt2 import GPT2
from model.optim import Optimizers, load_state_tensors, state_tensors
from model.runs import step_name as step_name
from model.sharding import is_sharded, load_shards, read_whole, save_shards, shapes
from model.weights import Weights
from model.world import World

FORMAT = 3  # raised when older runs cannot be resumed: 2 changed the order of samples, 3 hashes state.json
LOSS_WINDOW = 20  # steps; train_loss is their mean
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
STATE = "state.json"
_STEP = re.compile(r"step-(\d{8,})")
log = logging.getLogger(__name__)


class OtherFormatError(InputError):
    """A checkpoint of another version of this program. It is not damaged, so no older one is used instead."""


@dataclass(frozen=True)
class State:
    """Where training stood.

    Random generators need no state here: each is seeded by ``seed`` and the number of samples seen (model/train.py).
    """

    run: str
    step: int  # updates done
    samples_seen: int
    tokens_seen: int
    seed: int
    corpus_digest: str
    first_loss: float | None  # of the run's first step, nats per token
    recent_losses: list[float]  # of the last steps, one more than SPIKE_WINDOW
    val_loss: float | None  # None: saved when the run was stopped, without a validation
    best_step: int | None  # the checkpoint with the lowest val_loss so far, this one included
    best_val_loss: float | None
    seconds: float  # so far, including validation and checkpoints
    step_seconds: float  # so far, steps only
    mlflow_run_id: str | None
    model: dict[str, Any]  # ModelConfig
    train: dict[str, Any]  # TrainConfig
    manifests: dict[str, str] = dataclasses.field(default_factory=dict)  # snapshot to the digest of its tokens
    left_out: list[int] = dataclasses.field(default_factory=list)  # steps without an update (model/failure.py)
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)  # of the other files
    format: int = FORMAT

    @classmethod
    def beginning(
        cls, run: str, model: ModelConfig, train: TrainConfig, *, corpus: str, manifests: Mapping[str, str]
    ) -> Self:
        """The state before the first step."""
        return cls(
            run=run,
            step=0,
            samples_seen=0,
            tokens_seen=0,
            seed=train.seed,
            corpus_digest=corpus,
            first_loss=None,
            recent_losses=[],
            val_loss=None,
            best_step=None,
            best_val_loss=None,
            seconds=0.0,
            step_seconds=0.0,
            mlflow_run_id=None,
            model=model.to_json(),
            train=train.to_json(),
            manifests=dict(manifests),
        )

    @property
    def train_loss(self) -> float:
        """Mean loss of the last LOSS_WINDOW steps, nats per token; NaN if every step was left out."""
        losses = self.recent_losses[-LOSS_WINDOW:]
        return sum(losses) / len(losses) if losses else math.nan

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Raises InputError naming ``where``, and OtherFormatError for a checkpoint of another version."""
        found = value.get("format") if isinstance(value, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise OtherFormatError(
                f"{where}: checkpoint format {found}, this program reads format {FORMAT}; use the version of webtext "
                "that wrote it, or another --run"
            )
        try:
            sha256 = dict(value["sha256"])
            own = sha256.pop(STATE)
            state = cls(**{**value, "sha256": sha256})
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{where}: damaged checkpoint ({error}); use another one of the run") from error
        if own != json_digest({**value, "sha256": sha256}):
            raise InputError(f"{where}: damaged checkpoint (its sha256 does not match); use another one of the run")
        return state

    def to_bytes(self) -> bytes:
        """Indented JSON; ``sha256`` holds the hashes of the other files and of this one."""
        value = dataclasses.asdict(self)
        return orjson.dumps({**value, "sha256": {**self.sha256, STATE: json_digest(value)}}, option=orjson.OPT_INDENT_2)


def steps(lake: Lake, run: str) -> list[int]:
    """The steps of the run's checkpoints, intact or not, ascending."""
    found = (_STEP.fullmatch(name) for name in lake.names("checkpoints", check_name("run", run)))
    return sorted(int(match[1]) for match in found if match)


def save(lake: Lake, weights: Weights, optimizers: Optimizers, state: State, peers: World) -> State:
    """Publish a checkpoint; returns its state with the hashes. Called by all processes.

    The first process writes; if the model is sharded, each process writes its shards. Raises InputError if the
    checkpoint cannot be written.
    """
    tensors = state_tensors(weights.named, optimizers)
    with lake.scratch() if peers.is_first else contextlib.nullcontext() as scratch:
        folder = Path(peers.from_first(str(scratch)), step_name(state.step))
        try:
            if peers.is_first:
                folder.mkdir()
            if is_sharded(weights):
                peers.wait()
                blind = round(peers.sum(float(not folder.is_dir()))[0])
                if blind:
                    raise OSError(
                        f"{blind} of {peers.size} processes do not see {folder}, where all must write their shards"
                    )
                save_shards({**weights.named, **tensors}, folder)
                peers.wait()
            elif peers.is_first:
                save_file(_on_cpu(weights.named), folder / WEIGHTS)
                save_file(_on_cpu(tensors), folder / OPTIMIZER)
            if peers.is_first:
                (folder / CONFIG).write_bytes(orjson.dumps(state.model, option=orjson.OPT_INDENT_2))
                hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
                state = dataclasses.replace(state, sha256=hashes)
                (folder / STATE).write_bytes(state.to_bytes())
                lake.publish_directory(folder, "checkpoints", state.run, step_name(state.step))
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"checkpoint {state.run}/{step_name(state.step)} cannot be written to {lake.root} ({error}); "
                "fix that and run the same command again: it goes on from the checkpoint before"
            ) from error
        peers.wait()
    return state


def read_state(lake: Lake, run: str, step: int) -> State:
    """The state of a checkpoint. Raises InputError if there is no such checkpoint or its state is damaged."""
    names = ("checkpoints", run, step_name(step), STATE)
    state = State.from_json(lake.read_json(*names), lake.path(*names))
    if state.step != step:
        raise InputError(f"{lake.path(*names)}: damaged checkpoint (it says step {state.step})")
    return dataclasses.replace(state, run=run)  # the directory may be a copy of another run's


def check(lake: Lake, run: str, step: int) -> State:
    """Hash every file of a checkpoint and return its state. Raises InputError naming the damaged file."""
    state = read_state(lake, run, step)
    for name, sha256 in state.sha256.items():
        with lake.open("checkpoints", run, step_name(step), name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            where = lake.path("checkpoints", run, step_name(step), name)
            raise InputError(f"{where}: sha256 is {found[:16]}.., {STATE} says {sha256[:16]}..")
    return state


def newest_intact(lake: Lake, run: str) -> tuple[State | None, list[str]]:
    """The state of the newest intact checkpoint, and what is wrong with the newer ones.

    Raises OtherFormatError rather than skip a checkpoint of another version.
    """
    complaints: list[str] = []
    for step in reversed(steps(lake, run)):
        try:
            return check(lake, run, step), complaints
        except OtherFormatError:
            raise
        except InputError as error:
            complaints.append(str(error))
    return None, complaints


def require_intact(lake: Lake, run: str) -> tuple[State, list[str]]:
    """As ``newest_intact``; each complaint names the checkpoint used instead. Raises InputError if none is intact."""
    newest, complaints = newest_intact(lake, run)
    if newest is None:
        damaged = f" ({'; '.join(complaints)})" if complaints else ""
        runs = ", ".join(lake.names("checkpoints")) or "none"
        raise InputError(f"--run {run}: no checkpoint in {lake.root}{damaged}; runs there: {runs}")
    return newest, [f"{complaint}; {step_name(newest.step)} is used" for complaint in complaints]


@torch.no_grad()
def restore(lake: Lake, state: State, weights: Weights, optimizers: Optimizers) -> None:
    """Load a checkpoint into the weights and the optimizers, bit for bit. Called by all processes.

    Any number of processes may have written it.
    """
    with local_files(lake, state.run, state.step, tuple(state.sha256)) as folder:
        found = shapes(folder)
        tensors: dict[str, Tensor] = {}
        for name in sorted(found.keys() - weights.named.keys()):
            weight = weights.named[name.partition("/")[0]]
            is_like = found[name] == tuple(weight.shape)
            tensors[name] = torch.zeros_like(weight) if is_like else weight.new_zeros(found[name])
        load_shards({**weights.named, **tensors}, folder, alone=not is_sharded(weights))
        load_state_tensors(weights.named, optimizers, tensors)
    weights.publish()


def prune(lake: Lake, run: str, keep: set[int]) -> None:
    """Remove all checkpoints but those of the steps ``keep``."""
    for step in steps(lake, run):
        if step not in keep:
            lake.remove("checkpoints", run, step_name(step))


def load_model(
    lake: Lake, run: str, step: int | None = None, *, device: str = "cpu", tokenizer: str = "gpt2"
) -> tuple[GPT2, State]:
    """The model of a run's checkpoint in evaluation mode, and its state; without ``step`` the newest intact one.

    Raises InputError if there is none, if it is damaged, or if it has another tokenizer.
    """
    if step is None:
        newest, complaints = require_intact(lake, run)
        step = newest.step
        for complaint in complaints:
            log.warning("%s", complaint)
    elif step not in steps(lake, run):
        have = ", ".join(map(str, steps(lake, run))) or "none"
        raise InputError(f"--run {run}: no checkpoint of step {step} in {lake.root}; steps there: {have}")
    else:
        check(lake, run, step)
    names = tuple(name for name in read_state(lake, run, step).sha256 if name != OPTIMIZER)
    with local_files(lake, run, step, (*names, STATE)) as folder:
        return _load(folder, device, tokenizer)


def load_directory(folder: Path, *, device: str = "cpu", tokenizer: str = "gpt2") -> tuple[GPT2, State]:
    """As ``load_model``, from the directory of a checkpoint anywhere on this machine."""
    for name in (CONFIG, STATE):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: not a checkpoint of webtext, it has no {name}; use --hf for a directory of transformers"
            )
    state = State.from_json(_json(folder / STATE), str(folder / STATE))
    for name in (name for name in state.sha256 if name != OPTIMIZER):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: not a checkpoint of webtext, it has no {name}; use --hf for a directory of transformers"
            )
        if _sha256(folder / name) != state.sha256[name]:
            raise InputError(f"{folder / name}: damaged, its sha256 differs from {STATE}; use another checkpoint")
    return _load(folder, device, tokenizer)


def build(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> GPT2:
    """A model in evaluation mode with these weights. Raises InputError naming ``where`` if they do not fit."""
    with torch.device("meta"):
        model = GPT2(config)
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        want = tuple(expected[name].shape) if name in expected else "nothing"
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        if want != have:
            raise InputError(f"{where}: the weights do not fit its {CONFIG}: {name} is {have}, expected {want}")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{where}: {name} has values that are not finite; use another checkpoint")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _load(folder: Path, device: str, tokenizer: str) -> tuple[GPT2, State]:
    config = ModelConfig.from_json(_json(folder / CONFIG), str(folder / CONFIG))
    state = State.from_json(_json(folder / STATE), str(folder / STATE))
    if config.tokenizer != tokenizer:
        raise InputError(
            f"{folder}: its tokenizer is {config.tokenizer} ({config.vocab_size} tokens), not {tokenizer}; "
            f"use a checkpoint that was trained with {tokenizer}"
        )
    try:
        if (folder / WEIGHTS).is_file():
            tensors = load_file(folder / WEIGHTS, device=device)
        else:
            tensors = read_whole(folder, [name for name in shapes(folder) if "/" not in name])
    except SafetensorError as error:
        raise InputError(f"{folder}: damaged weights ({error}); use another checkpoint") from error
    return build(config, tensors, str(folder)).to(device), state


@contextlib.contextmanager
def artifacts(lake: Lake, run: str, step: int) -> Iterator[Path]:
    """A directory with the checkpoint's WEIGHTS, unsharded, and its CONFIG."""
    names = tuple(name for name in read_state(lake, run, step).sha256 if name != OPTIMIZER)
    with local_files(lake, run, step, names) as folder:
        if WEIGHTS in names:
            yield folder
            return
        with lake.scratch() as scratch:
            save_file(read_whole(folder, [name for name in shapes(folder) if "/" not in name]), scratch / WEIGHTS)
            shutil.copyfile(folder / CONFIG, scratch / CONFIG)
            yield scratch


@contextlib.contextmanager
def local_files(lake: Lake, run: str, step: int, names: tuple[str, ...]) -> Iterator[Path]:
    """The checkpoint's directory; for a lake in an object store, a local copy of these files."""
    if lake.is_local:
        yield Path(lake.path("checkpoints", run, step_name(step)))
        return
    with lake.scratch() as scratch:
        for name in names:
            lake.fetch(scratch / name, "checkpoints", run, step_name(step), name)
        yield scratch


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _json(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: damaged, not JSON ({error})") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
