"""A task: a name, a version, what it needs, and a function from a model to a score.

A score is a JSON object. Every score has ``metric``, the name of its main number; that number, its ``n``, ``stderr``
and 95 % ``interval``; ``baselines``, trivial answers to the same examples, each with ``value`` and ``interval``;
``best_baseline``, the name of the best one; and ``truncated``, the number of requests whose context did not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.errors import InputError
from data.evalsets import official
from data.evalsets.files import PATTERNS
from model.capacity import Capacity
from model.causal import Causal
from model.completion import Completion, complete
from model.evals.heldout import HeldOut
from model.evals.stats import Estimate
from model.events import Emit, TaskProgress, Variant
from model.gpt2 import GPT2
from model.scoring import Request, Score, score
from model.tokenizer import GPT2_TOKENIZER, Tokenizer

SCORES = dict[str, Any]
MIN_CLUSTERS = 2
HELDOUT = "heldout"
EXCERPT_CHARS = 300
PROGRESS_S = 0.5  # between two reports


class NotScored(Exception):  # noqa: N818 - an outcome, not an error
    """The task cannot be scored on this model or corpus; the message says why."""


@dataclass
class Subject:
    """What a task scores and with what; ``limit`` is the user's or the task's own."""

    model: GPT2 | Causal
    heldout: HeldOut | None
    files: Mapping[str, Path]  # official files by set
    limit: int
    progress: Callable[[int, int], None]  # gets the requests done and their total
    capacity: Capacity | None = None  # of all batches; None: what the device suggests
    control: bool = False  # measure the control, too (model/evals/control.py)
    writing_capacity: Capacity | None = None  # of batches that are written, whose cache takes memory too
    stride: int | None = None  # tokens by which a window moves; None: half the model's context
    any_file: bool = True  # score a file that has not as much in it as the official one
    truncated: int = field(default=0, init=False)
    items: list[dict[str, Any]] = field(default_factory=list, init=False)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer if isinstance(self.model, Causal) else GPT2_TOKENIZER

    def encode(self, text: str) -> list[int]:
        """The model's tokens of a text."""
        tokens: list[int] = self.tokenizer.encode(text).tolist()
        return tokens

    def score(self, requests: Sequence[Request], exclude_first: Sequence[int] = ()) -> list[Score]:
        """``scoring.score`` with progress; counts the contexts that were cut."""
        total = len(requests)
        scores = score(self.model, requests, exclude_first, lambda done: self.progress(done, total), self.capacity)
        self.truncated += sum(one.n_dropped > 0 for one in scores)
        return scores

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        is_over: Callable[[str], bool] | None = None,
        top_k: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> list[Completion]:
        """``completion.complete`` with progress; counts the prompts that were cut."""
        assert isinstance(self.model, GPT2), "a task in which the model writes needs GPT-2's tokenizer"
        written = complete(
            self.model,
            prompts,
            max_new_tokens,
            is_over,
            top_k=top_k,
            seeds=seeds,
            on_done=lambda done: self.progress(done, len(prompts)),
            capacity=self.writing_capacity,
        )
        self.truncated += sum(one.n_dropped > 0 for one in written)
        return written

    def keep(self, item: str, **numbers: float | int | str | None) -> None:
        """Keep what came of an item, a row of the file beside the score: its name, and the same columns for each.

        These columns have a meaning; ``webtext eval --compare`` and the report read them. A task may add others.

        - ``document``: items of one document are resampled together; without it an item is a document.
        - ``text``: what was scored, or an excerpt, with the ``answer`` that is right and the model's ``prediction``.
        - ``credit``, or a column with the name of the main metric: the main metric is its mean. Or
        - ``nats`` and ``per``: the main metric is sum(nats) / sum(per), as a perplexity its exponential, in bits over
          ln 2. Without ``per`` it is 1.
        - ``confidence``: how sure the model is of its prediction; without it, the report takes ``log_prob`` or
          -``nats`` / ``per``.
        """
        self.items.append({"item": item, **numbers})

    def stride_for(self, context: int) -> int:
        """The stride of a window of ``context`` tokens. Raises NotScored if the user's stride is longer."""
        stride = max(1, context // 2) if self.stride is None else self.stride
        if stride > context:
            raise NotScored(f"--stride {stride} would leave tokens out: the model's context has {context} tokens")
        return stride

    def check_count(self, evalset: str, n: int) -> None:
        """Raises NotScored if a reader found ``n`` where the official file has another number, unless ``any_file``."""
        try:
            official.check_count(evalset, n, any_file=self.any_file)
        except InputError as error:
            raise NotScored(str(error)) from error

    def lacks(self, evalset: str) -> str:
        """What is missing if the set's file is not there; otherwise an empty text."""
        if evalset in self.files:
            return ""
        return f"needs a file {' or '.join(PATTERNS[evalset])}; {official.how_to_get(evalset)}"

    def documents(self) -> HeldOut:
        assert self.heldout is not None, "a held-out task is run with held-out documents"
        return self.heldout


@dataclass(frozen=True)
class Choices:
    """What could have been chosen differently in a task. ``measure`` yields all combinations, each with its score."""

    metric: str
    evalsets: tuple[str, ...]  # that are read
    measure: Callable[[Subject], Iterator[Variant]]


@dataclass(frozen=True)
class Task:
    """``source`` is ``heldout`` or a set of data/evalsets/. Raise ``version`` when scores change.

    ``also`` names the further files that it reads, of those that were found; a score is kept for the same files only.
    A task that ``slides`` has a window whose stride the user can choose.
    ``any_tokenizer``: the task encodes with ``Subject.encode``; otherwise it needs a model with GPT-2's tokenizer.
    """

    name: str
    version: int
    source: str
    default_limit: int
    min_context: int  # tokens that the model's context must hold
    run: Callable[[Subject], SCORES]
    has_control: bool = False  # whether it measures ``control_accuracy``, if asked
    also: Callable[[Mapping[str, Path]], Sequence[Path]] = lambda _: ()
    slides: bool = False
    choices: Choices | None = None  # for ``webtext eval --ablate``
    any_tokenizer: bool = False


def result(
    subject: Subject,
    metric: str,
    metrics: Mapping[str, Estimate],
    n: int,
    baselines: Mapping[str, Estimate],
    *,
    lower_is_better: bool = False,
    **more: Any,
) -> SCORES:
    """A task's score. ``metrics`` includes ``metric``, the main one; ``baselines`` are estimates of the main one."""
    best = None
    if baselines:
        order = min if lower_is_better else max
        best = order(baselines, key=lambda name: baselines[name].value)
    main = metrics[metric]
    return {
        "metric": metric,
        **{name: estimate.value for name, estimate in metrics.items()},
        "n": n,
        "stderr": main.stderr,
        "interval": list(main.interval),
        "intervals": {name: list(estimate.interval) for name, estimate in metrics.items()},
        "baselines": {name: estimate.baseline() for name, estimate in baselines.items()},
        "best_baseline": best,
        "lower_is_better": lower_is_better,
        "limit": subject.limit,
        "truncated": subject.truncated,
        **more,
    }


def excerpt(text: str, of: Literal["start", "end"] = "end") -> str:
    """The first or the last 300 characters, so that the files of items stay small."""
    if len(text) <= EXCERPT_CHARS:
        return text
    return f"{text[:EXCERPT_CHARS]} ..." if of == "start" else f"... {text[-EXCERPT_CHARS:]}"


def require_clusters(clusters: Sequence[object], what: str) -> None:
    """Raises NotScored if there are too few clusters for a standard error; ``what`` names the examples."""
    found = len(set(clusters))
    if found < MIN_CLUSTERS:
        raise NotScored(f"{len(clusters)} {what} in {found} cluster(s); at least {MIN_CLUSTERS} clusters are needed")


def reporter(task: Task, emit: Emit, clock: Callable[[], float]) -> Callable[[int, int], None]:
    """What ``Subject.progress`` is: an event for the first report, the last one, and twice a second in between."""
    reported = clock() - PROGRESS_S

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if clock() - reported >= PROGRESS_S or done == total:
            reported = clock()
            emit(TaskProgress(task.name, done, total))

    return progress
