"""``webtext eval --fetch``: the official benchmark files that tasks need, with a progress bar per download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.config import PagesConfig
from data.errors import InputError
from data.evalfetch import FetchedSet, fetch
from data.evalsets.registry import SETS
from flows.progress import Bar
from flows.settings import Settings
from model.evals.task import HELDOUT, Task
from model.evals.tasks import select


@dataclass(frozen=True)
class FetchResult:
    """``directory`` is what --eval-data names."""

    directory: str
    sets: list[FetchedSet]

    @property
    def failed(self) -> list[FetchedSet]:
        return [one for one in self.sets if one.outcome == "failed"]


def _of_choices(task: Task, for_ablation: bool) -> tuple[str, ...]:
    return task.choices.evalsets if for_ablation and task.choices else ()


def fetch_sets(
    settings: Settings,
    tasks: Sequence[str],
    eval_data: str | None,
    network: PagesConfig | None = None,
    *,
    for_ablation: bool = False,
) -> FetchResult:
    """Download what the tasks need; no tasks: all of them. ``network``: by default public addresses only.

    ``for_ablation``: also the files that only ``--ablate`` reads.

    Raises InputError for a task that does not exist, or a directory that cannot be made.
    """
    chosen = [task for task in select(tasks) if task.source != HELDOUT]
    sources = [name for task in chosen for name in (task.source, *_of_choices(task, for_ablation))]
    names = list(dict.fromkeys(name for source in sources for name in (source, *SETS[source].goes_with)))
    folder = Path(eval_data) if eval_data else settings.eval_data
    network = network or (PagesConfig(contact=settings.contact) if settings.contact else PagesConfig())
    bars: dict[str, Bar] = {}

    def on_bytes(name: str, have: int, every: int) -> None:
        if name not in bars:
            for bar in bars.values():
                bar.close()
            bars[name] = Bar(name, every, "bytes")
        bars[name].update(have)

    try:
        found = fetch(folder, [SETS[name] for name in names], network, on_bytes)
    finally:
        for bar in bars.values():
            bar.close()
    return FetchResult(str(folder), found)


def show(result: FetchResult, out: Callable[[str], None] = print) -> None:
    """One line per set, then the directory."""
    for one in result.sets:
        out(f"{one.evalset} {one.outcome.replace('_', ' ')}: {one.detail}")
    out(f"use them with --eval-data {result.directory}")


def require_fetched(result: FetchResult) -> None:
    """Raises InputError if a download failed."""
    if result.failed:
        reasons = "; ".join(f"{one.evalset}: {one.detail}" for one in result.failed)
        raise InputError(f"--fetch: {len(result.failed)} of {len(result.sets)} sets failed: {reasons}")
