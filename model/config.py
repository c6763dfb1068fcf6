"""Settings of the model and its training, the presets, and what a training process is started with.

The four paper sizes follow table 2 of "Language Models are Unsupervised Multitask Learners" and, where it is silent,
the first later source that is not:

    shape, context, vocabulary, batch of 512      GPT-2 paper, sections 2.2 and 2.3
    heads of 64                                   openai/gpt-2, hparams.json of the released models
    learning rate ("manually tuned", no value)    GPT-3 paper (Brown et al., 2020), table 2.1, same sizes
    Adam betas, clipping, weight decay, cosine    GPT-3 paper, appendix B: 0.9, 0.95; 1.0; 0.1; to 10 % of the peak
    warm-up                                       GPT-3 paper, appendix B: 375 M tokens = 715 steps of 512 x 1,024
    length                                        GPT-3 paper, table 2.1: 300 G tokens = 572,204 steps; use --steps
    dropout                                       0: both papers are silent for pretraining on this much text

The paper's table calls the sizes 117M, 345M, 762M and 1542M; counted by their weights they are 124M, 355M, 774M and
1558M. Both names work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, get_type_hints

from data.errors import InputError
from data.lake.store import check_name

T = TypeVar("T")
PRECISIONS = ("auto", "float32", "tf32", "autocast", "bfloat16")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd")
PARALLEL = ("ddp", "fsdp")
BATCH_PARTS = 8  # the sizes that a batch grows through are multiples of this share of it


def _from_json(cls: type[T], value: Mapping[str, Any], where: str) -> T:
    try:
        return cls(**value)
    except TypeError as error:
        raise InputError(f"{where}: not a {cls.__name__} of this version of webtext ({error})") from error


def _require(holds: bool, name: str, value: object, what: str) -> None:
    if not holds:
        raise InputError(f"{name} must be {what}, got {value}")


def operational(default: Any) -> Any:
    """A field that may differ when a run is resumed: it decides cost or what is recorded, not what is learnt."""
    return field(default=default, metadata={"operational": True})


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT-2. Two models of one shape take each other's weights."""

    layers: int
    heads: int
    width: int
    context: int = 1024
    vocab_size: int = 50_257
    tokenizer: str = "gpt2"  # what the ids mean: the tokenizer of the corpus's manifest
    dropout: float = 0.0
    position_std: float = 0.01  # openai/gpt-2; transformers draws positions from N(0, 0.02)

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "width", "context", "vocab_size"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        _require(self.width % self.heads == 0, "width", self.width, f"divisible by heads={self.heads}")
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        _require(0 <= self.position_std < math.inf, "position_std", self.position_std, "not negative and finite")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Raises InputError naming ``where`` if the fields are not those of this program."""
        return _from_json(cls, value, where)


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. A sequence is one window of ``context`` tokens; a step is one update of the weights."""

    steps: int = 572_204
    batch_size: int = 512  # sequences a step, all processes and micro-batches together
    batch_warmup_steps: int = 0  # in which the batch grows, by eighths of batch_size; 0: all steps have the same
    learning_rate: float = 6e-4  # the peak
    final_lr_share: float = 0.1  # of the peak, at the last step
    warmup_steps: int = 715
    weight_decay: float = 0.1  # of matrices (and embeddings), not of biases and gains
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    seed: int = 0
    precision: str = "auto"  # of products: see model/weights.py and world.precision_for
    optimizer: str = "adamw"  # or muon, see model/optim.py
    schedule: str = "cosine"  # or wsd
    decay_share: float = 0.2  # of the steps, at their end: where wsd falls
    micro_batch_size: int = operational(8)  # sequences a process holds at once
    parallel: str = operational("ddp")  # several processes: each with the whole model, or fsdp (model/sharding.py)
    recompute: bool = operational(False)  # activations of blocks in the backward pass: less memory, a third more time
    compile: bool = operational(False)  # torch.compile each block; minutes at the start
    val_every: int = operational(1_000)  # steps
    val_sequences: int = operational(1_024)  # evenly spread over the validation tokens; 0: all of them
    checkpoint_every: int = operational(1_000)  # steps
    keep_last: int = operational(2)  # checkpoints, beside the best
    keep_every: int = operational(10_000)  # and those whose step is divisible by this; 0: none
    log_every: int = operational(10)  # steps
    max_steps_left_out: int = operational(0)  # batches that diverge may be left out, so many a run (model/failure.py)

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "learning_rate", "clip_norm", "micro_batch_size", "val_every")
        for name in (*positive, "checkpoint_every", "keep_last", "log_every"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        if self.batch_warmup_steps:
            _require(self.batch_size % BATCH_PARTS == 0, "batch_size", self.batch_size, "divisible by 8 to warm up")
        not_negative = ("warmup_steps", "batch_warmup_steps", "weight_decay", "val_sequences", "keep_every", "seed")
        for name in (*not_negative, "max_steps_left_out"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "not negative")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        for name in ("learning_rate", "clip_norm", "weight_decay"):
            _require(math.isfinite(getattr(self, name)), name, getattr(self, name), "finite")
        _require(0 <= self.final_lr_share <= 1, "final_lr_share", self.final_lr_share, "in [0, 1]")
        _require(0 < self.decay_share <= 1, "decay_share", self.decay_share, "in (0, 1]")
        choices = {"precision": PRECISIONS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES, "parallel": PARALLEL}
        for name, allowed in choices.items():
            _require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        if self.precision == "bfloat16" and self.parallel == "fsdp":
            raise InputError(
                "precision=bfloat16 with parallel=fsdp: its shards are fp32; use --set precision=autocast for a new "
                "run, --set parallel=ddp for one that began with bfloat16"
            )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        return _from_json(cls, value, where)

    def batch_at(self, step: int) -> int:
        """Sequences of a step, counted from 0."""
        return self.samples_before(step + 1) - self.samples_before(step)

    def samples_before(self, step: int) -> int:
        """Sequences that the steps before this one have seen.

        With ``batch_warmup_steps`` the first eighth of these steps has an eighth of the batch, the next one two eighths
        and so on: the linear growth of GPT-3 (Brown et al., 2020, appendix B), in sizes that micro-batches divide.
        """
        parts = BATCH_PARTS if self.batch_warmup_steps else 1
        starts = (-(-self.batch_warmup_steps * part // parts) for part in range(parts))
        return sum(max(0, step - start) for start in starts) * (self.batch_size // parts)

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        return self.keep_every > 0 and step % self.keep_every == 0

    def require_divisible(self, processes: int) -> None:
        """Raises InputError if the batch, or the first one of a warm-up, is not whole micro-batches of each process."""
        batch = self.batch_at(0)
        what = f"batch_size={self.batch_size}"
        if self.batch_warmup_steps:
            what = f"{what} warms up from {batch}, which"
        share = self.micro_batch_size * processes
        if batch % share:
            raise InputError(
                f"{what} is not divisible by micro_batch_size={self.micro_batch_size} x {processes} process(es) = "
                f"{share}; change one of them with --set"
            )

    def content(self) -> dict[str, Any]:
        """What decides the result of a run that is as long as this one."""
        fields = (f.name for f in dataclasses.fields(self) if not f.metadata.get("operational"))
        return {name: getattr(self, name) for name in fields if name != "steps"}


@dataclass(frozen=True)
class Preset:
    """A name for a model and its training."""

    model: ModelConfig
    train: TrainConfig


PRESETS: dict[str, Preset] = {
    # The demo: about 85 s on two cores. Nine tenths of the work is the head over 50,257 words, so the width is small;
    # at this width bfloat16 products are slower than fp32 ones on a CPU with avx512_bf16.
    "nano": Preset(
        ModelConfig(layers=3, heads=4, width=96, context=128),
        TrainConfig(
            steps=440,
            batch_size=4,
            learning_rate=3e-3,
            warmup_steps=22,
            precision="float32",
            micro_batch_size=4,
            val_every=110,
            val_sequences=128,
            checkpoint_every=110,
            keep_every=220,
        ),
    ),
    # 30 M parameters, 1.6 M tokens: 9 minutes on two cores with avx512_bf16 (docs/benchmarks.md).
    "mini": Preset(
        ModelConfig(layers=6, heads=6, width=384, context=256),
        TrainConfig(
            steps=800,
            batch_size=8,
            learning_rate=1e-3,
            warmup_steps=40,
            micro_batch_size=8,
            val_every=100,
            val_sequences=64,
            checkpoint_every=100,
            keep_every=400,
        ),
    ),
    # The paper's four, of width C and L layers, with the arithmetic that --dry-run prints:
    #   parameters    (50,257 + 1,024) C + L (12 C^2 + 13 C) + 2 C
    #   FLOP a token  6 x parameters + 12 L C x 1,024                                       0.86   2.43   5.21  10.29 G
    #   memory        18 bytes a parameter + micro-batch x 1,024 x 36 L C of activations
    #                 + the loss (model/memory.py), autocast on one GPU                      6.4   15.1   21.8   34.7 GB
    #                 the same with 8 GPUs, fsdp and recompute                               2.8    4.9    6.9   11.3 GB
    #   time          512 x 1,024 tokens a step, an A100 at 40 % of its peak of 312 TFLOP/s  3.6   10.2   21.9   43.2 s
    # The micro-batches are chosen so that a size should fit a GPU of 24 GB, the largest one of 40, without recompute.
    "124M": Preset(ModelConfig(layers=12, heads=12, width=768), TrainConfig(learning_rate=6e-4)),
    "355M": Preset(ModelConfig(layers=24, heads=16, width=1024), TrainConfig(learning_rate=3e-4)),
    "774M": Preset(ModelConfig(layers=36, heads=20, width=1280), TrainConfig(learning_rate=2.5e-4, micro_batch_size=4)),
    "1558M": Preset(ModelConfig(layers=48, heads=25, width=1600), TrainConfig(learning_rate=2e-4, micro_batch_size=2)),
}
ALIASES = {"117M": "124M", "345M": "355M", "762M": "774M", "1542M": "1558M"}
"""The names of the paper's table 2."""


def resolve(preset: str, overrides: Mapping[str, str]) -> Preset:
    """The preset's settings with ``--set key=value`` applied.

    Raises InputError for an unknown preset or key (listing those there are), and for a value of another type.
    """
    name = ALIASES.get(preset, preset)
    if name not in PRESETS:
        raise InputError(f"--preset {preset}: no such preset; there are {', '.join([*PRESETS, *ALIASES])}")
    parts: dict[str, Any] = {"model": PRESETS[name].model, "train": PRESETS[name].train}
    kinds = {part: get_type_hints(type(config)) for part, config in parts.items()}
    for key, text in overrides.items():
        part = next((part for part in parts if key in kinds[part]), None)
        if part is None:
            known = sorted(key for names in kinds.values() for key in names)
            raise InputError(f"--set {key}={text}: no such setting; there are {', '.join(known)}")
        parts[part] = dataclasses.replace(parts[part], **{key: _parse(key, text, kinds[part][key])})
    return Preset(**parts)


def _parse(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"--set {key}={text}: expects true or false")
        return text == "true"
    try:
        value = kind(text.replace("_", "") if kind is int else text)
    except ValueError as error:
        raise InputError(f"--set {key}={text}: expects {'a whole number' if kind is int else 'a number'}") from error
    if kind is int and not -(2**63) <= value < 2**63:
        raise InputError(f"--set {key}={text}: expects a whole number of 64 bits")
    return value


@dataclass(frozen=True)
class TrainSpec:
    """What a training process is started with, as the JSON file that ``--spec`` names."""

    lake: str
    corpus: tuple[str, ...]  # snapshots of the tokens stage, in this order
    run: str
    preset: str
    cache_dir: str  # local; holds the corpus as a memory map
    overrides: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    steps: int | None = None  # instead of the preset's
    init_from: str | None = None  # a directory of transformers: its weights instead of random ones
    tracking_uri: str | None = None  # of MLflow; None: nothing is tracked
    experiment: str = "webtext"
    tags: dict[str, str] = field(default_factory=dict)  # of the MLflow run: who started it

    def __post_init__(self) -> None:
        check_name("run", self.run)
        if not self.corpus:
            raise InputError("--corpus is empty: name at least one snapshot")
        if len(set(self.corpus)) != len(self.corpus):
            raise InputError(f"--corpus {','.join(self.corpus)}: a snapshot is named twice")

    def resolve(self) -> Preset:
        """The settings of the run; ``steps`` goes before the overrides' and the preset's."""
        steps = {} if self.steps is None else {"steps": str(self.steps)}
        return resolve(self.preset, {**self.overrides, **steps})

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "corpus": list(self.corpus)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        spec = _from_json(cls, value, where)
        return dataclasses.replace(spec, corpus=tuple(spec.corpus))
