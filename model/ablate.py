"""One task by every combination of its choices: which one gives which published number. Started by model/evaluate.py.

The combinations are those of ``Task.choices``. Their scores are printed, not kept in the lake: an interrupted ablation
begins again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from data.errors import InputError
from data.evalsets import files as evalsets
from data.evalsets import official
from data.lake.store import Lake
from model import scoring, world
from model.evals import EvalSpec, source
from model.evals.task import Choices, NotScored, Subject, Task, reporter
from model.evals.tasks import TASKS
from model.events import Ablation, Emit, Warned


def ablate(spec: EvalSpec, emit: Emit, clock: Callable[[], float] = time.monotonic) -> Ablation:
    """Score the model of ``spec`` by all combinations of the choices of the task ``spec.ablate``.

    Raises InputError if there is no such task, if none of its files is there, if one is not the official file (unless
    ``any_file``), or if the model's context is too short.
    """
    began = clock()
    task, choices = _chosen(str(spec.ablate))
    model = source.find(spec, Lake(spec.lake))
    device = world.join(spec.device).device
    warnings: list[str] = []

    def warn(message: str) -> None:
        warnings.append(message)
        emit(Warned(message))

    for warning in source.warnings_of(model, spec):
        warn(warning)
    at_hand = evalsets.find(Path(spec.eval_data)) if spec.eval_data else {}
    files = {name: at_hand[name] for name in choices.evalsets if name in at_hand}
    for file in files.values():
        official.check_file(file, any_file=spec.any_file)
    gpt2 = model.load(str(device))
    if gpt2.config.context < task.min_context:
        raise InputError(
            f"--ablate {task.name}: needs a context of {task.min_context} tokens, the model has {gpt2.config.context}"
        )
    subject = Subject(
        gpt2,
        None,
        {name: file.path for name, file in files.items()},
        spec.limit or task.default_limit,
        reporter(task, emit, clock),
        scoring.capacity_for(gpt2, spec.batch_tokens or "auto", warn),
        any_file=spec.any_file,
    )
    try:
        rows = list(choices.measure(subject))
    except NotScored as reason:
        raise InputError(f"--ablate {task.name}: {reason}") from reason
    if all(row.value is None for row in rows):
        where = f"not in {spec.eval_data}" if spec.eval_data else "name its directory with --eval-data"
        raise InputError(f"--ablate {task.name}: {rows[0].missing}: {where}")
    found = Ablation(
        task=task.name,
        metric=choices.metric,
        rows=tuple(rows),
        limit=subject.limit,
        model=model.name,
        step=model.step,
        checkpoint=model.where,
        weights_digest=model.digest,
        files={name: file.sha256 for name, file in files.items()},
        seconds=round(clock() - began, 2),
        warnings=tuple(warnings),
    )
    emit(found)
    return found


def _chosen(name: str) -> tuple[Task, Choices]:
    task = TASKS.get(name)
    if task is None or task.choices is None:
        known = ", ".join(one.name for one in TASKS.values() if one.choices)
        raise InputError(f"--ablate {name}: no such task with choices to compare; choose from {known}")
    return task, task.choices
