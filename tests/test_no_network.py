"""The tests need no network: the whole suite passes in a network namespace that has only loopback.

Slow, because it runs the suite once more.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LOOPBACK_UP = """
import fcntl, socket, struct, subprocess, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:  # what `ip link set lo up` does
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
    sys.exit("the namespace has a network")
except OSError:
    sys.exit(subprocess.call(sys.argv[1:]))
"""


@pytest.mark.slow
def test_the_suite_passes_with_loopback_only() -> None:
    if not shutil.which("unshare"):
        pytest.skip("unshare (util-linux) is not installed")
    namespace = ["unshare", "--map-root-user", "--net", sys.executable, "-c"]
    probe = subprocess.run([*namespace, "pass"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"network namespaces are not allowed here: {probe.stderr.strip()}")
    suite = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--numprocesses", "2"]
    root = Path(__file__).parents[1]
    ours = ("PREFECT_", "MLFLOW_", "WEBTEXT_")  # this session's servers, which that namespace cannot reach
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [*namespace, LOOPBACK_UP, *suite]
    run = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-5000:]
    assert " passed" in run.stdout
