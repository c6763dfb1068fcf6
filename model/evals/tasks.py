"""All tasks, by name."""

from __future__ import annotations

from collections.abc import Sequence

from data.errors import InputError
from model.evals import cloze, lambada, lastword, order, perplexity, wikitext
from model.evals.task import Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (perplexity.TASK, lastword.TASK, cloze.TASK, order.TASK, *lambada.TASKS, *wikitext.TASKS)
}


def select(names: Sequence[str]) -> list[Task]:
    """The tasks of these names; all tasks if there are no names. Raises InputError for an unknown name."""
    for name in names:
        if name not in TASKS:
            raise InputError(f"--tasks {name}: no such task; choose from {', '.join(TASKS)}")
    return [task for name, task in TASKS.items() if not names or name in names]
