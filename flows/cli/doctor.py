"""``webtext doctor``: find what is wrong with this installation."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from data import bpe
from data.config import PagesConfig
from data.errors import InputError
from data.lake.store import Lake
from data.schema import DATASETS
from flows import services
from flows.cli.status import server_state
from flows.crawl import files_needed
from flows.progress import size
from flows.settings import Settings

MIN_FREE_BYTES = 5_000_000_000

State = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Check:
    """One check and its finding. ``note`` is worth reading, ``bad`` must be fixed."""

    what: str
    state: State
    detail: str


@dataclass(frozen=True)
class Checks:
    checks: list[Check]

    @property
    def has_bad(self) -> bool:
        return any(check.state == "bad" for check in self.checks)


def examine(settings: Settings) -> Checks:
    """Check the installation and hash every published file of the lake."""
    lake = Lake(settings.lake)
    checks = [
        _python(),
        *_packages(),
        _bpe(),
        _accelerator(),
        *_disk(settings, lake),
        *(_service(kind, settings) for kind in services.KINDS),
        _open_files(),
        _user_agent(settings),
        *_datasets(lake),
    ]
    return Checks(checks)


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check("python", "good" if good else "bad", f"{platform.python_version()} (needs 3.11 or later)")


def _packages() -> list[Check]:
    checks = []
    for line in requires("webtext") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            checks.append(Check(requirement.name, "bad", "not installed; run `make install`"))
            continue
        if not requirement.specifier.contains(found.partition("+")[0], prereleases=True):
            wanted = f"{found} is installed, {requirement.specifier} is required; run `make install`"
            checks.append(Check(requirement.name, "bad", wanted))
    return checks or [Check("packages", "good", "all installed, in the required versions")]


def _bpe() -> Check:
    try:
        bpe.encoding()
    except InputError as error:
        return Check("GPT-2 BPE", "bad", str(error))
    return Check("GPT-2 BPE", "good", f"ranks verified, {bpe.VOCAB_SIZE:,} tokens")


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("accelerator", "good", ", ".join(names))
    from model import world

    why = world.unused_gpu() or "finds no GPU"
    return Check("accelerator", "note", f"torch {torch.__version__}: {why}; presets above mini take weeks")


def _disk(settings: Settings, lake: Lake) -> list[Check]:
    folders = {"state directory": settings.home.absolute()}
    if lake.is_local:
        folders["lake"] = Path(lake.base)
    checks = []
    for what, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        checks.append(Check(f"disk of the {what}", "good" if free >= MIN_FREE_BYTES else "note", f"{size(free)} free"))
        if not os.access(existing, os.W_OK):
            checks.append(Check(f"disk of the {what}", "bad", f"{existing} is not writable"))
    return checks


def _service(kind: services.Kind, settings: Settings) -> Check:
    server = server_state(kind, settings)
    if server.state == "outside":
        outside = str(settings.prefect_api_url if kind is services.PREFECT else settings.mlflow_tracking_uri)
        if outside.startswith("http") and not services.responds(outside.rstrip("/") + "/health"):
            return Check(kind.name, "bad", f"{server.url} does not answer")
    states: dict[str, State] = {"running": "good", "outside": "good", "not running": "note"}
    where = server.url or "(started when needed)"
    return Check(kind.name, states.get(server.state, "bad"), f"{server.state} {where}")


def _open_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_needed(PagesConfig.max_connections)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return Check("open files", "good", f"a crawl may raise its limit to the {needed:,} files it needs")
    return Check(
        "open files", "note", f"at most {hard:,} of the {needed:,} that a crawl may need: it will use fewer connections"
    )


def _user_agent(settings: Settings) -> Check:
    if settings.contact:
        return Check("crawler's contact", "good", settings.contact)
    return Check("crawler's contact", "note", "set WEBTEXT_CONTACT to your page or address before you crawl the web")


def _datasets(lake: Lake) -> list[Check]:
    checks = []
    for stage in DATASETS:
        for snapshot in lake.datasets(stage):
            dataset = lake.dataset(stage, snapshot)
            try:
                manifest = dataset.manifest()
                if manifest is None:
                    checks.append(Check(dataset.label, "note", "begun but not finished"))
                    continue
                dataset.verify()
                detail = f"{manifest.rows_out:,} rows, digest {manifest.digest[:16]}, every file as published"
                checks.append(Check(dataset.label, "good", detail))
            except InputError as error:
                checks.append(Check(dataset.label, "bad", str(error)))
    return checks
