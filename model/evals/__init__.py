"""The tasks that a model is scored on, one module a task or family; ``tasks.py`` lists them.

This file knows no torch, so that whoever starts an evaluation can write its ``EvalSpec`` cheaply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from data.errors import InputError
from data.lake.store import check_name


@dataclass(frozen=True)
class EvalSpec:
    """What an evaluation is started with, as the JSON file that ``--spec`` names.

    Exactly one of ``run`` (its newest intact checkpoint), ``checkpoint`` (a directory of one) and ``hf`` (a directory
    that transformers loads) is set.
    """

    lake: str
    run: str | None = None
    checkpoint: str | None = None
    hf: str | None = None
    corpus: tuple[str, ...] = ()  # snapshots whose held-out documents are used; empty: those of the run
    tasks: tuple[str, ...] = ()  # empty: all
    eval_data: str | None = None  # directory with official benchmark files
    limit: int | None = None  # examples a task (documents for perplexity); None: the task's own
    device: str = "auto"
    tracking_uri: str | None = None  # of MLflow; None: scores are not attached
    experiment: str = "webtext"

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.run, self.checkpoint, self.hf)) != 1:
            raise InputError("name exactly one of --run, --checkpoint and --hf")
        if self.run is not None:
            check_name("run", self.run)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit must be positive, got {self.limit}")

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "corpus": list(self.corpus), "tasks": list(self.tasks)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Raises InputError naming ``where`` if the fields are not those of this program."""
        try:
            lists = {name: tuple(value.get(name) or ()) for name in ("corpus", "tasks")}
            return cls(**{**value, **lists})
        except (TypeError, AttributeError) as error:
            raise InputError(f"{where}: not an EvalSpec of this version of webtext ({error})") from error
