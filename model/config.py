"""Settings of the model and its training, the presets, and what a training process is started with.

The shapes of the four paper sizes are from table 2 of "Language Models are Unsupervised Multitask Learners". Where that
paper is silent, the value is from the first later source that states it:

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_type_hints

from pydantic import Field, NonNegativeInt, PositiveInt

from data.errors import InputError
from data.lake.names import check_name
from data.settings import checked, operational

T = TypeVar("T")
Auto = Literal["auto"]
"""A setting that model/machine.py chooses when training starts."""
Parallel = Literal["ddp", "fsdp"]
Precision = Literal["auto", "float32", "tf32", "autocast", "bfloat16"]
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFinite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
BATCH_PARTS = 8  # a batch that warms up grows in steps of this fraction of its size
WARMUP_SHARE = 0.05  # of a run that is shorter than its preset: the most that warms up, as in mini
FITTED = ("warmup_steps", "batch_warmup_steps")
"""Settings that ``resolve`` fits to the length of a short run. A run keeps those that it began with."""


def from_json(cls: type[T], value: Mapping[str, Any], where: str) -> T:
    """An object of a dataclass of settings; JSON's lists become tuples. Raises InputError naming ``where``."""
    try:
        return cls(**{name: tuple(one) if isinstance(one, list) else one for name, one in value.items()})
    except (InputError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: not a valid {cls.__name__} for this version of webtext ({error})") from error


@checked
@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT-2. Models of the same shape can load each other's weights."""

    layers: PositiveInt
    heads: PositiveInt
    width: PositiveInt
    context: PositiveInt = 1024
    vocab_size: PositiveInt = 50_257
    tokenizer: str = "gpt2"  # what the ids mean: the tokenizer in the corpus's manifest
    dropout: BelowOne = 0.0
    position_std: NonNegativeFinite = 0.01  # openai/gpt-2; transformers draws positions from N(0, 0.02)

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"width must be divisible by heads={self.heads}, got {self.width}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Raises InputError naming ``where`` if a field is missing, unknown or has a bad value."""
        return from_json(cls, value, where)


@checked
@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. A sequence is one window of ``context`` tokens; a step is one update of the weights."""

    steps: PositiveInt = 572_204
    batch_size: PositiveInt = 512  # sequences per step, over all processes and micro-batches
    batch_warmup_steps: NonNegativeInt = 0  # steps in which the batch grows, by eighths of batch_size; 0: none
    learning_rate: PositiveFinite = 6e-4  # the peak
    final_lr_share: Annotated[float, Field(ge=0, le=1)] = 0.1  # of the peak, at the last step
    warmup_steps: NonNegativeInt = 715
    weight_decay: NonNegativeFinite = 0.1  # of matrices and embeddings, not of biases and gains
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.95
    clip_norm: PositiveFinite = 1.0
    seed: NonNegativeInt = 0
    precision: Precision = "auto"  # of products; see model/weights.py and world.precision_for
    optimizer: Literal["adamw", "muon"] = "adamw"  # see model/optim.py
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2  # of the steps, at their end: where wsd falls
    micro_batch_size: PositiveInt | Auto = operational("auto")  # the most sequences that a process holds at once
    parallel: Parallel = operational("ddp")  # ddp: every process holds the whole model
    recompute: bool = operational(False)  # activations in the backward pass: less memory, a third more time
    compile: bool | Auto = operational("auto")  # by torch, blocks and loss; auto: on a GPU
    val_every: PositiveInt = operational(1_000)  # steps
    val_sequences: NonNegativeInt = operational(1_024)  # evenly spread over the validation tokens; 0: all of them
    val_batch_tokens: PositiveInt | Auto = operational("auto")  # positions in a pass (model/capacity.py)
    checkpoint_every: PositiveInt = operational(1_000)  # steps
    keep_last: PositiveInt = operational(2)  # checkpoints, besides the best one
    keep_every: NonNegativeInt = operational(10_000)  # keep checkpoints whose step is divisible by this; 0: none
    log_every: PositiveInt = operational(10)  # steps
    max_steps_left_out: NonNegativeInt = operational(0)  # batches per run that may diverge (model/failure.py)

    def __post_init__(self) -> None:
        if self.batch_warmup_steps and self.batch_size % BATCH_PARTS:
            raise InputError(
                f"batch_size must be divisible by {BATCH_PARTS} to warm up, got {self.batch_size}; "
                "choose another one, or set batch_warmup_steps=0"
            )
        if self.precision == "bfloat16" and self.parallel == "fsdp":
            raise InputError(
                "precision=bfloat16 does not work with parallel=fsdp, whose shards are fp32; use --set "
                "precision=autocast for a new run, --set parallel=ddp for one that began with bfloat16"
            )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        return from_json(cls, value, where)

    def batch_at(self, step: int) -> int:
        """Sequences in a step; steps count from 0."""
        return self.samples_before(step + 1) - self.samples_before(step)

    def samples_before(self, step: int) -> int:
        """Sequences in all steps before this one.

        With ``batch_warmup_steps``, the first eighth of these steps has an eighth of the batch, the second two eighths,
        and so on. GPT-3 grew its batch linearly (Brown et al., 2020, appendix B).
        """
        parts = BATCH_PARTS if self.batch_warmup_steps else 1
        starts = (-(-self.batch_warmup_steps * part // parts) for part in range(parts))
        return sum(max(0, step - start) for start in starts) * (self.batch_size // parts)

    def is_permanent(self, step: int) -> bool:
        """Whether the checkpoint of a step is kept for good."""
        return self.keep_every > 0 and step % self.keep_every == 0

    def require_divisible(self, processes: int) -> None:
        """Raises InputError unless the processes share the batch equally, from the first step of a warm-up on."""
        batch = self.batch_at(0)
        what = f"batch_size={self.batch_size}"
        if self.batch_warmup_steps:
            what = f"{what} warms up from {batch}, which"
        if batch % processes:
            raise InputError(f"{what} is not divisible by {processes} processes; change it with --set batch_size=N")

    def falling_steps(self, steps: int) -> int:
        """The last steps of a run of ``steps``, in which wsd lowers the learning rate."""
        is_falling = self.schedule == "wsd" and self.final_lr_share < 1
        return max(1, round(self.decay_share * steps)) if is_falling else 0

    def require_apart(self) -> None:
        """Raise InputError if the learning rate would have to rise and fall at the same time."""
        fall = self.falling_steps(self.steps)
        if self.warmup_steps + fall > self.steps:
            what = f"warmup_steps={self.warmup_steps}"
            if fall:
                what += f" and the last {fall} steps, in which the rate falls (decay_share={self.decay_share:g}),"
            raise InputError(
                f"{what} do not fit into a run of {self.steps} steps; lower them with --set, or give more --steps"
            )

    def content(self) -> dict[str, Any]:
        """The settings that decide the result, without the number of steps."""
        fields = (f.name for f in dataclasses.fields(self) if not f.metadata.get("operational"))
        return {name: getattr(self, name) for name in fields if name != "steps"}


@dataclass(frozen=True)
class Preset:
    """A model and how it is trained."""

    model: ModelConfig
    train: TrainConfig
    notes: tuple[str, ...] = ()  # what was fitted to the length of the run


PRESETS: dict[str, Preset] = {
    # The demo: 248,832 tokens by the recipe of docs/benchmarks.md: Muon, wsd, a batch that grows from 1 to 8 sequences.
    # Nine tenths of the work is the head over 50,257 words, so the width is small; at this width bfloat16 products are
    # slower than fp32 ones on a CPU with avx512_bf16.
    "nano": Preset(
        ModelConfig(layers=3, heads=4, width=96, context=128),
        TrainConfig(
            steps=432,
            batch_size=8,
            batch_warmup_steps=432,
            learning_rate=5.5e-3,
            final_lr_share=0.0,
            beta2=0.99,  # the first batches are small; 0.95 ended 0.075 nats higher (with 8e-3)
            warmup_steps=20,
            precision="float32",
            optimizer="muon",
            schedule="wsd",
            decay_share=0.5,
            val_every=144,
            val_sequences=128,
            checkpoint_every=144,
            keep_every=288,
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
            val_every=100,
            val_sequences=64,
            checkpoint_every=100,
            keep_every=400,
        ),
    ),
    # The paper's four, of width C and L layers, with the numbers that --dry-run prints:
    #                                                                                 124M   355M   774M  1558M
    #   parameters    (50,257 + 1,024) C + L (12 C^2 + 13 C) + 2 C
    #   FLOP/token    6 x parameters + 12 L C x 1,024                                 0.86   2.43   5.21  10.29 G
    #   micro-batch   the largest for one GPU of 80 GB (model/memory.py)                32     32     32      8
    #                 for one of 24 GB (the largest size does not fit)                  32      8      2      1
    #   memory        micro-batches of one sequence, one GPU                           3.1    8.2   17.4   34.1 GB
    #                 the same with 8 GPUs, fsdp and recompute                         1.2    2.7    5.5   10.4 GB
    #   time          512 x 1,024 tokens per step, an A100 at 40 % of 312 TFLOP/s      3.6   10.2   21.9   43.2 s
    "124M": Preset(ModelConfig(layers=12, heads=12, width=768), TrainConfig(learning_rate=6e-4)),
    "355M": Preset(ModelConfig(layers=24, heads=16, width=1024), TrainConfig(learning_rate=3e-4)),
    "774M": Preset(ModelConfig(layers=36, heads=20, width=1280), TrainConfig(learning_rate=2.5e-4)),
    "1558M": Preset(ModelConfig(layers=48, heads=25, width=1600), TrainConfig(learning_rate=2e-4)),
}
ALIASES = {"117M": "124M", "345M": "355M", "762M": "774M", "1542M": "1558M"}
"""The names of the paper's table 2."""


def resolve(preset: str, overrides: Mapping[str, str]) -> Preset:
    """The preset's settings with ``--set key=value`` applied, and what is in ``FITTED`` fitted to a shorter run.

    Raises InputError for an unknown preset or key, listing the known ones, and for a bad value.
    """
    name = ALIASES.get(preset, preset)
    if name not in PRESETS:
        raise InputError(f"--preset {preset}: no such preset; choose from {', '.join([*PRESETS, *ALIASES])}")
    parts: dict[str, Any] = {"model": PRESETS[name].model, "train": PRESETS[name].train}
    kinds = {part: get_type_hints(type(config)) for part, config in parts.items()}
    changes: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, text in overrides.items():
        part = next((part for part in parts if key in kinds[part]), None)
        if part is None:
            known = sorted(key for names in kinds.values() for key in names)
            raise InputError(f"--set {key}={text}: no such setting; choose from {', '.join(known)}")
        changes[part][key] = _parse(key, text, kinds[part][key])
    planned = PRESETS[name].train
    fitted = _fitted(planned, changes["train"].get("steps", planned.steps))
    fitted = {key: value for key, value in fitted.items() if key not in overrides and value != getattr(planned, key)}
    changes["train"] |= fitted
    steps = changes["train"].get("steps", planned.steps)
    notes = tuple(
        f"{key} is {value} instead of {getattr(planned, key)}, because the run has {steps:,} steps and the preset "
        f"{planned.steps:,}; --set {key}=N chooses another"
        for key, value in fitted.items()
    )
    return Preset(
        model=dataclasses.replace(parts["model"], **changes["model"]),
        train=dataclasses.replace(parts["train"], **changes["train"]),
        notes=notes,
    )


def _fitted(planned: TrainConfig, steps: int) -> dict[str, int]:
    """The values of ``FITTED`` for a run of so many steps: as planned unless it is shorter than the preset's.

    The learning rate then warms up for ``WARMUP_SHARE`` of the run at most, the batch for the same share as planned.
    """
    share = min(1.0, steps / planned.steps)
    warmup = planned.warmup_steps
    if share < 1:
        warmup = min(warmup, max(1, round(WARMUP_SHARE * steps)), max(0, steps - planned.falling_steps(steps)))
    growing = planned.batch_warmup_steps and max(1, round(planned.batch_warmup_steps * share))
    return dict(zip(FITTED, (warmup, growing), strict=True))


def _parse(key: str, text: str, kind: Any) -> Any:
    """The value of a setting of type ``kind``, which may be a union with Auto."""
    or_auto = ""
    if Auto in get_args(kind):
        if text == "auto":
            return text
        kind = next(one for one in get_args(kind) if one is not Auto)
        or_auto = " or auto"
    if kind not in (bool, int, float):
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise InputError(f"--set {key}={text}: must be true{',' if or_auto else ' or'} false{or_auto}")
        return text == "true"
    try:
        value = int(text.replace("_", "")) if kind is int else float(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"--set {key}={text}: must be {what}{or_auto}") from error
    if kind is int and not -(2**63) <= value < 2**63:
        raise InputError(f"--set {key}={text}: must be a whole number of 64 bits")
    return value


@checked
@dataclass(frozen=True)
class TrainSpec:
    """What a training process is started with, as the JSON file that ``--spec`` names."""

    lake: str
    corpus: tuple[str, ...]  # snapshots of the tokens stage, in this order
    run: str
    preset: str
    cache_dir: str  # a local directory for the corpus as a memory map
    overrides: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    steps: PositiveInt | None = None  # instead of the preset's
    init_from: str | None = None  # a directory that transformers loads, for its weights instead of random ones
    tracking_uri: str | None = None  # of MLflow; None: no tracking
    experiment: str = "webtext"
    tags: dict[str, str] = field(default_factory=dict)  # of the MLflow run, such as the flow run that started it

    def __post_init__(self) -> None:
        check_name("run", self.run)
        if not self.corpus:
            raise InputError("--corpus is empty; name at least one snapshot")
        if len(set(self.corpus)) != len(self.corpus):
            raise InputError(f"--corpus {','.join(self.corpus)}: names a snapshot twice")

    def resolve(self) -> Preset:
        """The settings of the run; ``steps`` wins over the overrides and the preset."""
        steps = {} if self.steps is None else {"steps": str(self.steps)}
        return resolve(self.preset, {**self.overrides, **steps})

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "corpus": list(self.corpus)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        return from_json(cls, value, where)
