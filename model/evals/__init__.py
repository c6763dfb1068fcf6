"""The tasks that a model is scored on, one module per task or family; ``tasks.py`` lists them.

This file imports no torch, so that the process that starts an evaluation can write its ``EvalSpec`` cheaply.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import PositiveInt

from data.errors import InputError
from data.lake.names import check_name
from data.settings import checked
from model.config import from_json


@checked
@dataclass(frozen=True)
class EvalSpec:
    """What an evaluation is started with, as the JSON file that ``--spec`` names.

    Set exactly one of ``run`` (its newest intact checkpoint is scored), ``checkpoint`` (a checkpoint's directory) and
    ``hf`` (a directory that transformers loads).
    """

    lake: str
    run: str | None = None
    checkpoint: str | None = None
    hf: str | None = None
    corpus: tuple[str, ...] = ()  # snapshots with the held-out documents; empty: the run's
    tasks: tuple[str, ...] = ()  # empty: all
    eval_data: str | None = None  # directory with official benchmark files
    any_file: bool = False  # score files that are not the official ones, too
    limit: PositiveInt | None = None  # examples per task (documents for perplexity); None: the task's own
    stride: PositiveInt | None = None  # tokens by which the window of a text moves; None: half the model's context
    device: str = "auto"
    control: bool = False  # measure what the answers alone give away, too (model/evals/control.py)
    ablate: str | None = None  # compare the choices of this task instead of scoring ``tasks``
    batch_tokens: PositiveInt | None = None  # positions in one forward pass; None: what the device holds
    tracking_uri: str | None = None  # of MLflow; None: do not attach scores
    experiment: str = "webtext"  # also the name of the registered model
    promote: str | None = None  # make the checkpoint the champion if it is better at this task

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.run, self.checkpoint, self.hf)) != 1:
            raise InputError("name exactly one of --run, --checkpoint and --hf")
        if self.run is not None:
            check_name("run", self.run)
        if self.promote is not None and (self.run is None or self.tracking_uri is None):
            raise InputError(f"--promote {self.promote}: needs --run and an MLflow server")

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "corpus": list(self.corpus), "tasks": list(self.tasks)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> Self:
        """Raises InputError naming ``where`` if a field is missing, unknown or has a bad value."""
        return from_json(cls, value, where)
