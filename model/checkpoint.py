"""Checkpoints of a run in the lake: written whole, recognised when damaged, read without unpickling anything.

    lake/checkpoints/<run>/run.json              how the run was started (model/runs.py)
                           step-00000100/        model.safetensors      weights, fp32
                                                 optimizer.safetensors  <parameter>/<quantity>
                                                 shard-*.safetensors    instead of both, of a sharded run (sharding.py)
                                                 config.json            the model's shape
                                                 state.json             where training stood; sha256 of all, its own too
                           failure-00000120.json a step that failed (model/failure.py)
                           unsent.json           what MLflow did not take (model/observer.py)
                           summary.json          written at the end (model/runs.py)

``state.json`` is published last (its name sorts last, and on disk the directory is renamed as a whole), so a checkpoint
without one, or whose files do not match it, is not intact and the one before is used.
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
from data.lake.store import Lake, check_name
from model.config import ModelConfig, TrainConfig
from model.gpt2 import GPT2
from model.optim import Optimizers, load_state_tensors, state_tensors
from model.sharding import is_sharded, load_shards, read_whole, save_shards, shapes
from model.weights import Weights
from model.world import World

FORMAT = 3  # raised when an older run could not go on as it began: 2, another order of samples; 3, state.json is hashed
LOSS_WINDOW = 20  # steps; train_loss is their mean
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
CONFIG = "config.json"
STATE = "state.json"
_STEP = re.compile(r"step-(\d{8,})")
log = logging.getLogger(__name__)


class OtherFormatError(InputError):
    """A checkpoint of another version of this program: not damaged, so nothing may take its place."""


@dataclass(frozen=True)
class State:
    """Where training stood. The generators of random numbers need no state: all of them are keyed by ``seed`` and the
    number of samples seen (model/train.py)."""

    run: str
    step: int  # updates done
    samples_seen: int
    tokens_seen: int
    seed: int
    corpus_digest: str
    first_loss: float | None  # of the run's first step, nats a token
    recent_losses: list[float]  # of the last SPIKE_WINDOW steps
    val_loss: float | None  # None: saved on the way out, without a validation
    best_step: int | None  # the checkpoint with the lowest val_loss so far, this one included
    best_val_loss: float | None
    seconds: float  # spent so far, validation and checkpoints included
    step_seconds: float  # of these, in steps
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
        """Before the first step."""
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
        """Mean of the last steps' losses, nats a token; not a number if every step was left out."""
        losses = self.recent_losses[-LOSS_WINDOW:]
        return sum(losses) / len(losses) if losses else math.nan

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Raises InputError naming ``where``, OtherFormatError if it is a checkpoint of another version."""
        found = value.get("format") if isinstance(value, dict) else None
        if isinstance(found, int) and found != FORMAT:
            raise OtherFormatError(
                f"{where}: checkpoint format {found}, this program reads format {FORMAT}; use the version of webtext "
                "that made it, or another --run"
            )
        try:
            sha256 = dict(value["sha256"])
            own = sha256.pop(STATE)
            state = cls(**{**value, "sha256": sha256})
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{where}: damaged checkpoint ({error}); use another one of the run") from error
        if own != json_digest({**value, "sha256": sha256}):
            raise InputError(f"{where}: damaged checkpoint (its sha256 is another); use another one of the run")
        return state

    def to_bytes(self) -> bytes:
        """JSON for people, with its own hash among those of the files."""
        value = dataclasses.asdict(self)
        return orjson.dumps({**value, "sha256": {**self.sha256, STATE: json_digest(value)}}, option=orjson.OPT_INDENT_2)


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def steps(lake: Lake, run: str) -> list[int]:
    """The steps of the run's checkpoints, intact or not, ascending."""
    found = (_STEP.fullmatch(name) for name in lake.names("checkpoints", check_name("run", run)))
    return sorted(int(match[1]) for match in found if match)


def save(lake: Lake, weights: Weights, optimizers: Optimizers, state: State, peers: World) -> State:
    """Publish a checkpoint; returns its state with the hashes. Called by all processes; the first one writes, or, of a
    sharded model, each one its shards. Raises InputError if it cannot be written.
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
                        f"{blind} of {peers.size} processes do not see {folder}, where all write their shards"
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
                "mend that and run the same command again: it goes on from the checkpoint before"
            ) from error
        peers.wait()
    return state


def read_state(lake: Lake, run: str, step: int) -> State:
    """Raises InputError if there is no such checkpoint or its state is damaged."""
    names = ("checkpoints", run, step_name(step), STATE)
    state = State.from_json(lake.read_json(*names), lake.path(*names))
    if state.step != step:
        raise InputError(f"{lake.path(*names)}: damaged checkpoint (it says step {state.step})")
    return dataclasses.replace(state, run=run)  # the run's directory may be a copy of another one's


def check(lake: Lake, run: str, step: int) -> State:
    """The state of an intact checkpoint. Raises InputError that says what is damaged: every file is hashed."""
    state = read_state(lake, run, step)
    for name, sha256 in state.sha256.items():
        with lake.open("checkpoints", run, step_name(step), name) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            where = lake.path("checkpoints", run, step_name(step), name)
            raise InputError(f"{where}: sha256 is {found[:16]}.., {STATE} says {sha256[:16]}..")
    return state


def newest_intact(lake: Lake, run: str) -> tuple[State | None, list[str]]:
    """The state of the newest checkpoint that is whole, and what is wrong with the newer ones.

    Raises OtherFormatError rather than pass one of another version over.
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
    """As ``newest_intact``, with what is used instead in each complaint. Raises InputError if there is none."""
    newest, complaints = newest_intact(lake, run)
    if newest is None:
        damaged = f" ({'; '.join(complaints)})" if complaints else ""
        runs = ", ".join(lake.names("checkpoints")) or "none"
        raise InputError(f"--run {run}: no checkpoint in {lake.root}{damaged}; runs there: {runs}")
    return newest, [f"{complaint}; {step_name(newest.step)} is used" for complaint in complaints]


@torch.no_grad()
def restore(lake: Lake, state: State, weights: Weights, optimizers: Optimizers) -> None:
    """Set the weights and the optimizers to a checkpoint's, bit for bit, however many processes wrote it.

    Called by all processes.
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
    """Remove the checkpoints of the other steps."""
    for step in steps(lake, run):
        if step not in keep:
            lake.remove("checkpoints", run, step_name(step))


def load_model(
    lake: Lake, run: str, step: int | None = None, *, device: str = "cpu", tokenizer: str = "gpt2"
) -> tuple[GPT2, State]:
    """The model of a run's checkpoint (the newest intact one, or that of ``step``) in evaluation mode, and its state.

    Raises InputError if there is none, if it is damaged, or if its vocabulary is not ``tokenizer``'s.
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
    """As ``load_model``, for a checkpoint's own directory, wherever it was copied to."""
    for name in (CONFIG, STATE):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} there, so it is no checkpoint of webtext (transformers' are --hf)")
    state = State.from_json(_json(folder / STATE), str(folder / STATE))
    for name in (name for name in state.sha256 if name != OPTIMIZER):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} there, so it is no checkpoint of webtext (transformers' are --hf)")
        if _sha256(folder / name) != state.sha256[name]:
            raise InputError(f"{folder / name}: damaged, its sha256 is not the one in {STATE}; use another checkpoint")
    return _load(folder, device, tokenizer)


def build(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> GPT2:
    """A model in evaluation mode over these weights. Raises InputError naming ``where`` if they do not fit."""
    with torch.device("meta"):
        model = GPT2(config)
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        want = tuple(expected[name].shape) if name in expected else "nothing"
        have = tuple(tensors[name].shape) if name in tensors else "nothing"
        if want != have:
            raise InputError(f"{where}: weights of another model: {name} is {have}, its {CONFIG} expects {want}")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{where}: not all numbers of {name} are finite, so the model says nothing")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _load(folder: Path, device: str, tokenizer: str) -> tuple[GPT2, State]:
    config = ModelConfig.from_json(_json(folder / CONFIG), str(folder / CONFIG))
    state = State.from_json(_json(folder / STATE), str(folder / STATE))
    if config.tokenizer != tokenizer:
        raise InputError(
            f"{folder}: its vocabulary is {config.tokenizer} ({config.vocab_size} tokens), not {tokenizer}; "
            "use a checkpoint that was trained on a corpus of this tokenizer"
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
    """A directory with the checkpoint's weights, whole, and its shape: WEIGHTS and CONFIG."""
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
    """The checkpoint's directory, or a local copy of these files for a lake in an object store."""
    if lake.is_local:
        yield Path(lake.path("checkpoints", run, step_name(step)))
        return
    with lake.scratch() as scratch:
        for name in names:
            lake.fs.get_file(lake.path("checkpoints", run, step_name(step), name), str(scratch / name))
        yield scratch


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def _json(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}); the file was damaged") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
