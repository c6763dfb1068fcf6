"""What a run needs before its first step: its corpus, settings, record in the lake and newest checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data.bpe import TOKENIZER_ID, VOCAB_SIZE
from data.errors import InputError
from data.lake.manifest import settings_diff
from data.lake.store import Lake
from model import checkpoint, runs
from model.checkpoint import State
from model.config import FITTED, Preset, TrainSpec
from model.events import Emit, Resumed, Warned
from model.initial import load_initial
from model.loader import Corpus, open_corpus
from model.machine import settle
from model.trainer import Trainer
from model.weights import Weights
from model.world import World, unused_gpu


@dataclass(frozen=True)
class Setup:
    """What stays the same while a run trains. Every process builds its own; the methods are called by all of them."""

    spec: TrainSpec
    lake: Lake
    world: World
    corpus: Corpus
    manifests: dict[str, str]  # snapshot to the digest of its tokens
    preset: Preset  # nothing left at "auto" but val_batch_tokens

    @classmethod
    def of(cls, spec: TrainSpec, lake: Lake, peers: World) -> Self:
        """Raises InputError for bad settings, and for a corpus that is missing, damaged or does not fit the model."""
        corpus = _open_corpus(spec, lake, peers)
        manifests = {name: lake.dataset("tokens", name).require().digest for name in spec.corpus}
        preset = _resolve(spec, lake, peers)
        _require_vocabulary(spec, corpus, preset)
        return cls(spec, lake, peers, corpus, manifests, preset)

    def beginning(self) -> State:
        """The state before the first step."""
        return State.beginning(
            self.spec.run,
            self.preset.model,
            self.preset.train,
            corpus=self.corpus.digest,
            manifests=self.manifests,
        )

    def newest(self, emit: Emit) -> tuple[State | None, set[int]]:
        """The newest intact checkpoint, and the steps of the newer ones, which are damaged.

        The first process chooses for all.
        """
        run = self.spec.run
        state, complaints = checkpoint.newest_intact(self.lake, run) if self.world.is_first else (None, [])
        for complaint in complaints:
            emit(Warned(f"{complaint}; training goes on from an older one, or from the start"))
        step = int(self.world.sum(state.step if state else 0)[0])
        damaged = {other for other in checkpoint.steps(self.lake, run) if other > step}
        if state is None and step:
            state = checkpoint.read_state(self.lake, run, step)
        return state, damaged

    def begin(self, newest: State | None, weights: Weights) -> runs.Record:
        """Load the initial weights if the spec names some, and publish ``run.json``.

        Raises InputError if the ``run.json`` that is there, or the ``newest`` checkpoint, has other settings.
        """
        begun = runs.read_record(self.lake, self.spec.run)
        folder = self.spec.init_from
        if folder is None and begun and newest is None:
            folder = begun["spec"].get("init_from")  # no intact checkpoint: start again from the same weights
        init_from = None
        if folder is not None:
            initial, init_from = load_initial(folder, self.preset.model)
            weights.load(initial)
        record = runs.make_record(self.spec, self.preset, self.manifests, self.corpus.digest, init_from, begun)
        if newest is not None:
            self._require_same_run(newest)
        self.world.wait()
        if self.world.is_first:
            self.lake.publish_json(record, "checkpoints", self.spec.run, runs.RUN)
        return record

    def _require_same_run(self, newest: State) -> None:
        config = self.preset.train
        trained = {name: newest.train.get(name) for name in config.content()}
        found = {**newest.model, **trained, "corpus": newest.corpus_digest}
        wanted = {**self.preset.model.to_json(), **config.content(), "corpus": self.corpus.digest}
        if found != wanted:
            raise InputError(
                f"checkpoint {self.spec.run}/{checkpoint.step_name(newest.step)} belongs to another run "
                f"({settings_diff(found, wanted)}); choose another --run, or use its settings"
            )
        if newest.step > config.steps:
            raise InputError(
                f"--steps {config.steps}: run {self.spec.run} has already done {newest.step}; give at least as many, "
                "or choose another --run"
            )

    def resume(self, newest: State, trainer: Trainer, emit: Emit) -> State:
        """Restore a checkpoint into the trainer; returns the state to go on from."""
        checkpoint.restore(self.lake, newest, trainer.weights, trainer.optimizers)
        trainer.step = newest.step
        emit(Resumed(newest.step, newest.samples_seen))
        return dataclasses.replace(newest, train=self.preset.train.to_json(), manifests=self.manifests, sha256={})


def _open_corpus(spec: TrainSpec, lake: Lake, peers: World) -> Corpus:
    """The first process of each machine copies and verifies the corpus; the others map its copy."""
    cache_dir = Path(spec.cache_dir)
    if peers.is_first_of_machine:
        corpus = open_corpus(lake, spec.corpus, cache_dir)
    peers.wait()
    if not peers.is_first_of_machine:
        corpus = open_corpus(lake, spec.corpus, cache_dir, verify=False)
    return corpus


def _resolve(spec: TrainSpec, lake: Lake, peers: World) -> Preset:
    """The settings, completed by what the run began with and by what the machine can do.

    Raises InputError if a new run's learning rate would have to rise and fall at the same time. An older version began
    such runs, which may go on.
    """
    preset = spec.resolve()
    begun = _begun_with(spec, lake)
    train = preset.train
    if begun:
        chosen: dict[str, Any] = {name: begun[name] for name in FITTED if name in begun and name not in spec.overrides}
        if spec.steps is None and "steps" not in spec.overrides:
            chosen["steps"] = int(begun["steps"])
        train = dataclasses.replace(train, **chosen)
    else:
        train.require_apart()
    train.require_divisible(peers.size)
    train, notes = settle(preset.model, train, peers, begun)
    unused = unused_gpu() if spec.device == "auto" else None
    return Preset(preset.model, train, (*([unused] if unused else []), *(() if begun else preset.notes), *notes))


def _begun_with(spec: TrainSpec, lake: Lake) -> dict[str, Any] | None:
    """The training settings of an existing run: its record's or, if someone removed that, its newest checkpoint's."""
    record = runs.read_record(lake, spec.run)
    if record is not None:
        return dict(record["train"])
    for step in reversed(checkpoint.steps(lake, spec.run)):
        with contextlib.suppress(InputError):  # ``Setup.newest`` reports it
            return dict(checkpoint.read_state(lake, spec.run, step).train)
    return None


def _require_vocabulary(spec: TrainSpec, corpus: Corpus, preset: Preset) -> None:
    model = preset.model
    if model.tokenizer != corpus.tokenizer or corpus.max_token >= model.vocab_size:
        raise InputError(
            f"--corpus {','.join(spec.corpus)} has tokenizer {corpus.tokenizer} and ids up to {corpus.max_token}, "
            f"the model has {model.tokenizer} and a vocabulary of {model.vocab_size}; "
            "set tokenizer and vocab_size to the corpus's"
        )
    if model.tokenizer == TOKENIZER_ID and model.vocab_size != VOCAB_SIZE:
        raise InputError(f"vocab_size={model.vocab_size}: {TOKENIZER_ID} has {VOCAB_SIZE} tokens")
