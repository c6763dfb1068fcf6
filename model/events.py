"""What ``model.train`` and ``model.evaluate`` report to the process that supervises them, and what they end with.

An event is one line of JSON on standard output, ``{"event": "step", "step": 10, "loss": 6.1, ...}``: the name of its
class, then its fields. The last event is the result: ``TrainSummary`` or ``EvalResult``. ``to_line`` writes a line,
``train_event`` and ``eval_event`` read one, and ``to_json`` is the only way from these classes to JSON.

This module knows no torch, so that a supervisor can import it cheaply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar, get_args

import orjson
from pydantic import TypeAdapter, ValidationError, model_serializer, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import ArgsKwargs, to_jsonable_python

if TYPE_CHECKING:
    from model.evals.stats import Estimate

E = TypeVar("E")
Interval: TypeAlias = tuple[float, float]
"""A 95 % interval: low, high."""


@dataclass(frozen=True)
class Started:
    """Training begins or goes on after ``step``."""

    event: ClassVar[str] = "start"

    run: str
    step: int
    steps: int
    parameters: int
    train_tokens: int
    val_tokens: int
    unigram_entropy: float
    precision: str
    micro_batch_size: int
    compile: bool
    device: str
    processes: int
    peak_flop_per_s: float
    peak: str  # where the peak is from


@dataclass(frozen=True)
class Resumed:
    """A checkpoint was loaded."""

    event: ClassVar[str] = "resumed"

    step: int
    samples_seen: int


@dataclass(frozen=True)
class StepDone:
    """Numbers of a step; rates and shares are means since the event before."""

    event: ClassVar[str] = "step"

    step: int
    steps: int
    eta_s: float
    loss: float  # nats per token
    grad_norm: float
    lr: float
    tokens_per_s: float
    mfu: float
    memory_mb: float
    time_shares: dict[str, float]  # by phase; they sum to 1


@dataclass(frozen=True)
class Validated:
    event: ClassVar[str] = "val"

    step: int
    val_loss: float
    tokens: int


@dataclass(frozen=True)
class CheckpointSaved:
    event: ClassVar[str] = "checkpoint"

    step: int
    val_loss: float | None
    seconds: float


@dataclass(frozen=True)
class Warned:
    """Something a person should know; the work goes on."""

    event: ClassVar[str] = "warning"

    message: str


@dataclass(frozen=True)
class Stopped:
    """Training was asked to stop and has saved a checkpoint."""

    event: ClassVar[str] = "stopped"

    run: str
    step: int


@dataclass(frozen=True)
class Failed:
    """The work ended with an error; ``kind`` is the name of its class."""

    event: ClassVar[str] = "error"

    message: str
    kind: str


@dataclass(frozen=True)
class TrainSummary:
    """A finished run. Losses are nats per token; None stands for a loss that is not a number."""

    event: ClassVar[str] = "done"

    run: str
    steps: int
    first_loss: float | None
    train_loss: float | None  # mean of the last steps
    val_loss: float | None
    best_step: int | None
    best_val_loss: float | None
    unigram_entropy: float
    tokens_per_s: float
    mfu: float
    peak: str
    memory_mb: float
    seconds: float
    tokens_seen: int
    epochs: float
    train_share_seen: float
    steps_left_out: tuple[int, ...]
    parameters: int
    checkpoint: str
    mlflow_run_id: str | None
    skipped: bool  # the run was finished before
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TaskProgress:
    """``done`` of ``total`` requests of a task are scored."""

    event: ClassVar[str] = "task"

    task: str
    done: int
    total: int


@dataclass(frozen=True)
class Baseline:
    """The score of a trivial way to answer, on the same examples."""

    value: float
    interval: Interval


@checked_dataclass(frozen=True)
class TaskScore:
    """One task's score. Its JSON is flat: ``values`` and ``details`` stand between and after the other fields."""

    metric: str  # the main one of ``values``
    values: dict[str, float]  # by metric
    n: int
    stderr: float
    interval: Interval  # of the main metric
    intervals: dict[str, Interval]  # by metric
    baselines: dict[str, Baseline]
    best_baseline: str | None
    limit: int
    truncated: int
    details: dict[str, Any]  # what only this task reports

    @property
    def value(self) -> float:
        """The main metric's value."""
        return self.values[self.metric]

    @property
    def lower_is_better(self) -> bool:
        """Of the main metric."""
        return bool(self.details.get("lower_is_better", False))

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, given: Any) -> Any:
        if isinstance(given, ArgsKwargs) or not isinstance(given, Mapping) or "intervals" not in given:
            return given
        values = {name: given[name] for name in given["intervals"] if name in given}
        own = {name: given[name] for name in _SCORE_FIELDS if name in given}
        details = {name: value for name, value in given.items() if name not in {*values, *own}}
        return {**own, "values": values, "details": details}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        metric, *others = _SCORE_FIELDS
        return {metric: self.metric, **self.values, **{name: getattr(self, name) for name in others}, **self.details}


_SCORE_FIELDS = tuple(name for name in TaskScore.__annotations__ if name not in ("values", "details"))


@dataclass(frozen=True)
class Promotion:
    """Whether a checkpoint is the champion in MLflow now, and why; see model/promotion.py."""

    task: str
    is_champion: bool
    reason: str
    difference: float | None = None  # to the champion before
    p: float | None = None


@dataclass(frozen=True)
class EvalResult:
    """The scores of one model. For each task that could not be scored, ``missing`` says what it needs."""

    event: ClassVar[str] = "done"

    scores: dict[str, TaskScore]  # by task
    missing: dict[str, str]  # by task
    seconds: float
    skipped: bool  # all scores were there
    warnings: tuple[str, ...]
    mlflow_run_id: str | None
    model: str
    step: int
    checkpoint: str
    weights_digest: str
    corpus: tuple[str, ...]
    corpus_digest: str | None
    code_version: str
    promotion: Promotion | None = None  # if one was asked for


@dataclass(frozen=True)
class Variant:
    """A task's main metric by one combination of choices, or ``missing``: why it could not be measured."""

    choices: dict[str, str]  # what was chosen, by what there was to choose
    value: float | None
    interval: Interval | None
    n: int
    published: str  # numbers from elsewhere that this combination is meant to explain
    missing: str

    @classmethod
    def of(cls, choices: dict[str, str], estimate: Estimate | None, n: int, published: str, missing: str) -> Self:
        value, interval = (estimate.value, estimate.interval) if estimate else (None, None)
        return cls(choices, value, interval, n, published, missing)


@dataclass(frozen=True)
class Ablation:
    """One model's scores of one task by all combinations of the task's choices."""

    event: ClassVar[str] = "ablation"

    task: str
    metric: str
    rows: tuple[Variant, ...]
    limit: int
    model: str
    step: int
    checkpoint: str
    weights_digest: str
    files: dict[str, str]  # sha256 by set
    seconds: float
    warnings: tuple[str, ...]


TrainEvent: TypeAlias = (
    Started | Resumed | StepDone | Validated | CheckpointSaved | Warned | Stopped | Failed | TrainSummary
)
EvalEvent: TypeAlias = TaskProgress | Warned | Failed | EvalResult | Ablation
Emit: TypeAlias = Callable[[TrainEvent | EvalEvent], None]
"""Reports an event to the process that supervises this one."""


def to_json(value: object) -> Any:
    """The JSON of an event or a result, or of a dict or list of them: dicts, lists, strings and numbers."""
    return to_jsonable_python(value)


def to_line(event: TrainEvent | EvalEvent) -> bytes:
    """One line, its newline included. A number that is not finite becomes null."""
    return orjson.dumps({"event": event.event, **to_json(event)}, option=orjson.OPT_APPEND_NEWLINE)


def train_event(line: bytes) -> TrainEvent | None:
    """The event of a line that ``model.train`` wrote; None if the line is something else, such as a library's log."""
    return _parse(line, _TRAIN_EVENTS)


def eval_event(line: bytes) -> EvalEvent | None:
    """The event of a line that ``model.evaluate`` wrote; None if the line is something else."""
    return _parse(line, _EVAL_EVENTS)


def _adapters(events: Any) -> dict[str, TypeAdapter[Any]]:
    return {kind.event: TypeAdapter(kind) for kind in get_args(events)}


_TRAIN_EVENTS: dict[str, TypeAdapter[TrainEvent]] = _adapters(TrainEvent)
_EVAL_EVENTS: dict[str, TypeAdapter[EvalEvent]] = _adapters(EvalEvent)


def _parse(line: bytes, adapters: Mapping[str, TypeAdapter[E]]) -> E | None:
    try:
        fields = orjson.loads(line)
        return adapters[fields["event"]].validate_python(fields)
    except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError):
        return None
