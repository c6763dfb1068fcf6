"""Fixtures that tests of more than one package use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest


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
