"""How every stage runs: begin, make the parts that are not sealed yet, publish the manifest.

A stage module gives a function that makes one part and a plan that names the parts. Who maps the one over the other is
decided outside: in turn here, as Prefect tasks in flows/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from data.config import StageConfig, content_settings, operational_settings
from data.lake.manifest import Manifest, Part
from data.lake.store import Dataset

MakePart = Callable[[str], Part]
"""Makes and seals the part of that name. A picklable partial of a module-level function."""

Mapper = Callable[[MakePart, Sequence[str]], None]
"""Calls the function for every name, in any order and number of processes; raises if one of the calls raised."""


def in_turn(make_part: MakePart, names: Sequence[str]) -> None:
    for name in names:
        make_part(name)


@dataclass(frozen=True)
class StageResult:
    """A stage's manifest, and whether it was found done."""

    manifest: Manifest
    skipped: bool


def run_stage(
    dataset: Dataset,
    config: StageConfig,
    inputs: dict[str, str],
    rounds: Callable[[], Iterable[list[str]]],
    make_part: MakePart,
    mapper: Mapper = in_turn,
) -> StageResult:
    """Bring a dataset to its manifest.

    ``rounds()`` yields lists of part names; a list is asked for when the parts of the earlier ones are sealed, so later
    rounds may depend on earlier ones. What is reused, a published dataset or a sealed part, is verified by hash first.
    """
    started = time.monotonic()
    manifest = dataset.begin(content_settings(config), inputs)
    if manifest is not None:
        dataset.verify()
        return StageResult(manifest, skipped=True)
    sealed = dataset.sealed()
    dataset.verify(list(sealed.values()))
    every: list[str] = []
    for names in rounds():
        every += names
        mapper(make_part, [name for name in names if name not in sealed])
    manifest = dataset.finish(every, operational_settings(config), time.monotonic() - started)
    return StageResult(manifest, skipped=False)
