"""Real servers for the tests of flows/: one Prefect and one MLflow for the session, on SQLite."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from data.config import LinksConfig, TokensConfig
from data.urls.canonical import canonical_url
from flows import services
from flows.localweb import server as localweb
from flows.localweb.plan import KINDS
from flows.localweb.site import Site
from flows.settings import Settings


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def servers(home: Path) -> Iterator[services.Servers]:
    """Both servers; this process and its children are pointed at them until the session ends."""
    before = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    try:
        found = services.ensure(Settings(home=home))
        if "prefect" in sys.modules:  # a test before this one imported it, which is when it reads its settings
            from prefect.context import refresh_global_settings_context

            refresh_global_settings_context()
        yield found
    finally:
        if "prefect" in sys.modules:  # what it still has to send would be tried for minutes after the server is gone
            from prefect.events.worker import EventsWorker
            from prefect.logging.handlers import APILogWorker

            APILogWorker.drain_all()
            EventsWorker.drain_all()
        services.stop(home)
        os.environ.clear()
        os.environ.update(before)


@dataclass(frozen=True)
class Pipeline:
    """A small corpus made through the flows from part of the local web, and a small model trained and scored on it."""

    lake: Path
    home: Path
    dump: Path
    lines: int
    site: Site
    refreshed: dict[str, Any]
    trained: dict[str, Any]
    scored: dict[str, Any]

    def environment(self) -> dict[str, str]:
        """For `webtext` as a child process: this lake, and the session's servers found by their state directory."""
        outside = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME")
        environment = {name: value for name, value in os.environ.items() if name not in outside}
        return environment | {"WEBTEXT_LAKE": str(self.lake), "WEBTEXT_HOME": str(self.home), "COLUMNS": "200"}


def webtext(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "webtext")
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)


TINY = {"layers": "2", "heads": "2", "width": "32", "context": "64", "batch_size": "4", "micro_batch_size": "4"}
TINY |= {"val_every": "10", "checkpoint_every": "10", "log_every": "5"}


@pytest.fixture(scope="session")
def pipeline(servers: services.Servers, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    from flows.cli.demo import pages_config
    from flows.evaluate import evaluate
    from flows.pretrain import pretrain
    from flows.refresh import refresh

    folder = tmp_path_factory.mktemp("pipeline")
    lake, dump = folder / "lake", folder / "RS_2026-10.zst"
    with localweb.running(home) as web:
        lines = _part_of(web.dump, web.site, dump)
        refreshed = refresh(
            [str(dump)],
            "small",
            str(lake),
            links=LinksConfig(part_links=100),
            pages=pages_config(web.connect_to),
            tokens=TokensConfig(val_share=0.1),
        )
        site = web.site
    before = os.environ.get("WEBTEXT_HOME")
    os.environ["WEBTEXT_HOME"] = str(home)
    try:
        trained = pretrain(["small"], "nano", "tiny", str(lake), steps=20, overrides=TINY)
        scored = evaluate(run="tiny", lake=str(lake), limit=40)
    finally:
        if before is not None:
            os.environ["WEBTEXT_HOME"] = before
    return Pipeline(lake, home, dump, lines, site, refreshed, trained, scored)


def _part_of(dump: Path, site: Site, to: Path) -> int:
    """Some of every kind of page that takes no time, and whatever is no page of the site; returns the lines."""
    some: set[str] = set()
    quick = {url for url, expected in site.expected.items() if expected.page not in ("timeout", "too_large")}
    for kind in KINDS:
        urls = [url for url in site.urls(kind) if url in quick]
        some |= set(urls[: 200 if kind == "article" else 6])
    while more := {site.routes[url].original for url in some} - some - {""}:  # an original may repeat another page
        some |= more
    lines = 0
    with dump.open("rb") as read, zstandard.open(to, "wb") as write:
        for line in zstandard.ZstdDecompressor(max_window_size=2**31).stream_reader(read).readall().splitlines(True):
            found = re.search(rb'"url": ?"([^"]+)"', line)
            url = found[1].decode().replace("\\/", "/").replace("&amp;", "&") if found else ""
            canonical = ""  # of what is no URL that can be fetched
            with contextlib.suppress(ValueError):
                canonical = canonical_url(url)
            if ".example/" not in canonical or canonical in some:
                write.write(line)
                lines += bool(line.strip())
    return lines
