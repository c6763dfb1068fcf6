"""Real servers for the tests of flows/: one Prefect and one MLflow for the session, on SQLite."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from data.urls.canonical import canonical_url
from flows import services
from flows.localweb import server as localweb
from flows.localweb.plan import KINDS
from flows.localweb.site import Site
from flows.settings import Settings
from tests.flows.serving import TINY, Pipeline, refresh_small


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory. The workers of pytest-xdist share its local web, which one of them builds."""
    home = tmp_path_factory.mktemp("home")
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = tmp_path_factory.getbasetemp().parent / "localweb"
        shared.mkdir(exist_ok=True)
        (home / "localweb").symlink_to(shared)
    return home


@pytest.fixture(scope="session")
def servers(home: Path) -> Iterator[services.Servers]:
    """Both servers. This process and its children use them until the session ends."""
    before = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    try:
        found = services.ensure(Settings(home=home))
        if "prefect" in sys.modules:  # an earlier test imported it; it reads its settings then
            from prefect.context import refresh_global_settings_context

            refresh_global_settings_context()
        yield found
    finally:
        if "prefect" in sys.modules:  # otherwise it retries for minutes to send to a server that is gone
            from prefect.events.worker import EventsWorker
            from prefect.logging.handlers import APILogWorker

            APILogWorker.drain_all()
            EventsWorker.drain_all()
        services.stop(home)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def pipeline(servers: services.Servers, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    from flows.evaluate import evaluate
    from flows.pretrain import pretrain

    folder = tmp_path_factory.mktemp("pipeline")
    lake = folder / "lake"
    dump = folder / "RS_2026-10.zst"
    with localweb.running(home) as web:
        lines = _part_of(web.dump, web.site, dump)
        refreshed = refresh_small(dump, lake, web.connect_to)
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
    """Write some of every kind of quick page, and all links that lead elsewhere. Returns the number of lines."""
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
            canonical = ""  # stays empty if the URL cannot be fetched
            with contextlib.suppress(ValueError):
                canonical = canonical_url(url)
            if ".example/" not in canonical or canonical in some:
                write.write(line)
                lines += bool(line.strip())
    return lines


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that uses the pipeline also waits for its creation, which takes minutes on a busy machine."""
    for item in items:
        if "pipeline" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(900))
