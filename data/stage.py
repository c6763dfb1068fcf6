"""How every stage runs: begin, make the parts that are not sealed yet, publish the manifest.

A stage supplies the names of its parts and a function that makes one part. The caller supplies the mapper that calls
the function for each name: one after the other here, as Prefect tasks in flows/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from data.config import StageConfig, content_settings, operational_settings
from data.lake.manifest import Manifest, Part
from data.lake.store import Dataset

MakePart = Callable[[str], Part]
"""Makes and seals the part with the given name. A picklable partial of a module-level function."""

Mapper = Callable[[MakePart, Sequence[str]], None]
"""Calls the function for every name, in any order and in any number of processes; raises if a call raised."""


def in_turn(make_part: MakePart, names: Sequence[str]) -> None:
    for name in names:
        make_part(name)


@dataclass(frozen=True)
class StageResult:
    """What ``run_stage`` returns."""

    manifest: Manifest
    skipped: bool  # the dataset was published before


def run_stage(
    dataset: Dataset,
    config: StageConfig,
    inputs: dict[str, str],
    rounds: Callable[[], Iterable[list[str]]],
    make_part: MakePart,
    mapper: Mapper = in_turn,
    temporary: str | None = None,
) -> StageResult:
    """Make the parts that are missing and publish the dataset, or return the manifest if it is published already.

    ``rounds()`` yields lists of part names. It is advanced only when all parts of the previous list are sealed, so a
    round may depend on earlier ones. Published datasets and sealed parts are verified by hash before they are reused.

    Parts named ``<temporary>-...``, with their files in a folder of that name, serve later rounds only: they are not in
    the manifest, and are removed once it is published.
    """
    started = time.monotonic()
    manifest = dataset.begin(content_settings(config), inputs)
    if manifest is not None:
        if temporary:
            dataset.discard(temporary)  # a process that was killed may have left them
        dataset.verify()
        return StageResult(manifest, skipped=True)
    sealed = dataset.sealed()
    dataset.verify(list(sealed.values()))
    every: list[str] = []
    for names in rounds():
        every += [name for name in names if not (temporary and name.startswith(f"{temporary}-"))]
        mapper(make_part, [name for name in names if name not in sealed])
    manifest = dataset.finish(every, operational_settings(config), time.monotonic() - started)
    if temporary:
        dataset.discard(temporary)
    return StageResult(manifest, skipped=False)
