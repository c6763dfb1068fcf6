"""``webtext doctor``: what is wrong with this set-up."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from data import bpe
from data.config import PagesConfig
from data.errors import InputError
from data.lake.store import Lake
from data.schema import STAGES
from flows import services
from flows.cli.status import server_state
from flows.crawl import files_needed
from flows.settings import Settings

MIN_FREE_BYTES = 5_000_000_000

Check = dict[str, Any]


def examine(settings: Settings) -> list[Check]:
    """One entry a check: ``{"what", "state": good|note|bad, "detail"}``. Every published file of the lake is hashed."""
    lake = Lake(settings.lake)
    return [
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


def _check(what: str, state: str, detail: str) -> Check:
    return {"what": what, "state": state, "detail": detail}


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return _check("python", "good" if good else "bad", f"{platform.python_version()} (3.11 or later is needed)")


def _packages() -> list[Check]:
    checks = []
    for line in requires("webtext") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            checks.append(_check(requirement.name, "bad", "not installed; run `make install`"))
            continue
        if not requirement.specifier.contains(found.partition("+")[0], prereleases=True):
            wanted = f"{found} does not fit {requirement.specifier}; run `make install`"
            checks.append(_check(requirement.name, "bad", wanted))
    return checks or [_check("packages", "good", "all installed in fitting versions")]


def _bpe() -> Check:
    try:
        bpe.encoding()
    except InputError as error:
        return _check("GPT-2 BPE", "bad", str(error))
    return _check("GPT-2 BPE", "good", f"ranks verified, {bpe.VOCAB_SIZE:,} tokens")


def _accelerator() -> Check:
    import torch

    if torch.cuda.is_available():
        return _check(
            "accelerator", "good", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        )
    return _check(
        "accelerator", "note", f"no GPU that torch {torch.__version__} can use: presets above mini take weeks"
    )


def _disk(settings: Settings, lake: Lake) -> list[Check]:
    folders = {"state directory": settings.home.absolute()}
    if lake.is_local:
        folders["lake"] = Path(lake.base)
    checks = []
    for what, folder in folders.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        state = "good" if free >= MIN_FREE_BYTES else "note"
        checks.append(_check(f"disk of the {what}", state, f"{free / 1e9:.1f} GB free"))
        if not os.access(existing, os.W_OK):
            checks.append(_check(f"disk of the {what}", "bad", f"{existing} cannot be written"))
    return checks


def _service(kind: services.Kind, settings: Settings) -> Check:
    server = server_state(kind, settings)
    state = {"running": "good", "outside": "good", "not running": "note"}.get(server["state"], "bad")
    if server["state"] == "outside":
        outside = str(settings.prefect_api_url if kind is services.PREFECT else settings.mlflow_tracking_uri)
        if outside.startswith("http") and not services.responds(outside.rstrip("/") + "/health"):
            return _check(kind.name, "bad", f"{server['url']} does not answer")
    return _check(kind.name, state, f"{server['state']} {server.get('url', '(started when needed)')}")


def _open_files() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = files_needed(PagesConfig.max_connections)
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return _check("open files", "good", f"a crawl raises its limit to the {needed:,} that it may need")
    return _check("open files", "note", f"at most {hard:,}, a crawl may need {needed:,}: fewer connections are used")


def _user_agent(settings: Settings) -> Check:
    if settings.contact:
        return _check("crawler's contact", "good", settings.contact)
    return _check(
        "crawler's contact", "note", "set WEBTEXT_CONTACT to your own page or address before you crawl the web"
    )


def _datasets(lake: Lake) -> list[Check]:
    checks = []
    for stage in STAGES:
        for snapshot in lake.datasets(stage):
            dataset = lake.dataset(stage, snapshot)
            try:
                manifest = dataset.manifest()
                if manifest is None:
                    checks.append(_check(dataset.label, "note", "begun, not finished"))
                    continue
                dataset.verify()
                detail = f"{manifest.rows_out:,} rows, digest {manifest.digest[:16]}, every file as published"
                checks.append(_check(dataset.label, "good", detail))
            except InputError as error:
                checks.append(_check(dataset.label, "bad", str(error)))
    return checks
