"""Real servers for the tests of flows/: one Prefect and one MLflow for the session, on SQLite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import services
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
        yield services.ensure(Settings(home=home))
    finally:
        if "prefect" in sys.modules:  # what it still has to send would be tried for minutes after the server is gone
            from prefect.events.worker import EventsWorker
            from prefect.logging.handlers import APILogWorker

            APILogWorker.drain_all()
            EventsWorker.drain_all()
        services.stop(home)
        os.environ.clear()
        os.environ.update(before)
