"""Fixtures that tests of more than one package use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

if not Path("/proc/driver/nvidia/gpus").is_dir():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported

LONG = (
    ("flows/test_pipeline.py", "flows/test_deployments.py"),
    ("flows/test_interrupt.py", "flows/test_stopped_stages.py"),
    ("flows/test_services.py", "flows/test_parts.py", "flows/test_crawl.py", "flows/test_crawlview.py"),
    ("model/test_train.py",),
    ("model/test_loop.py",),
    ("test_bench_crawl.py",),
    ("flows/localweb/test_dump.py", "flows/localweb/test_server.py"),
    ("model/test_sharding.py",),
    ("model/test_evals.py",),
    ("data/pages/test_politeness.py",),
    ("model/test_tracking.py",),
    ("model/test_world.py",),
    ("test_docs_tutorial.py",),
)
"""The files of tests that take longest, longest first. Those of one row share what is costly to make."""

_PLACES = {f"tests/{file}": (number, index) for number, row in enumerate(LONG) for index, file in enumerate(row)}


class Scheduling(LoadScopeScheduling):
    """One worker of pytest-xdist runs all tests of a file, or of a row of ``LONG``, so it makes their fixtures once.

    xdist_group and ``--dist loadgroup`` of pytest-xdist 3.8 have no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return f"row {_PLACES[file][0]}" if file in _PLACES else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    config.option.loadscopereorder = False  # the order of the tests, not of the numbers of tests
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: _PLACES.get(item.nodeid.partition("::")[0], (len(LONG), 0)))


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A server on loopback that speaks the real S3 protocol."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        import fsspec

        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of an earlier server
        fsspec.filesystem("s3").mkdir("corpus")
        yield environment
    finally:
        server.terminate()
        server.wait()
        os.environ.clear()
        os.environ.update(before)
