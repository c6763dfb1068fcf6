"""All tasks, by name."""

from __future__ import annotations

from collections.abc import Sequence

from data.errors import InputError
from model.evals import cbt, cloze, cnndm, coqa, harness, lambada, lastword, nq, order, perplexity, texts, winograd, wmt
from model.evals.task import Task

_ALL = (
    *(perplexity.TASK, lastword.TASK, cloze.TASK, order.TASK),
    *lambada.TASKS,
    *cbt.TASKS,
    *texts.TASKS,
    winograd.TASK,
    coqa.TASK,
    nq.TASK,
    *cnndm.TASKS,
    *wmt.TASKS,
    *harness.TASKS,
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def select(names: Sequence[str]) -> list[Task]:
    """The tasks of these names; all tasks if there are no names. Raises InputError for an unknown name."""
    for name in names:
        if name not in TASKS:
            raise InputError(f"--tasks {name}: no such task; choose from {', '.join(TASKS)}")
    return [task for name, task in TASKS.items() if not names or name in names]
