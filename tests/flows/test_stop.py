"""What a signal does to a command and its children, whichever they are. The stages: test_stopped_stages.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows import services

ROOT = Path(__file__).parents[2]

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", file=sys.stderr, flush=True)
time.sleep(3000)
"""

COMMAND = """
import subprocess, sys, time
from multiprocessing import resource_tracker
from pathlib import Path
from flows import supervise
from flows.stop import stop_on_signals
from model.events import train_event

home, kind = Path(sys.argv[1]), sys.argv[2]
stop_on_signals(home)
resource_tracker.ensure_running()
if kind == "plain":
    child = subprocess.Popen([sys.executable, str(home / "stubborn.py")])
    time.sleep(3000)
if kind == "localweb":
    from flows.localweb.build import build
    build(home)
if kind == "building":
    from flows.localweb.build import building
    with building(home):
        time.sleep(3000)
if kind == "servers":
    from flows import services
    from flows.settings import Settings
    services.ensure(Settings(home=home))
supervise.TRAINING = "stubborn" if kind == "training" else "another"
with supervise.spec_file({"tracking_uri": "http://user:password@host"}, home) as spec:
    supervise.run_child("stubborn", [str(spec)], home / "log", train_event, print)
"""

STOPPED = "stopping\nstopped; what is done is kept: run the same command again to go on from there\n"


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    (tmp_path / "command.py").write_text(COMMAND)
    begun: list[subprocess.Popen[str]] = []
    yield begun
    for one in begun:
        if one.poll() is None:
            services.end_tree(psutil.Process(one.pid), 0.0)
        one.communicate()


def start(commands: list[subprocess.Popen[str]], home: Path, kind: str) -> subprocess.Popen[str]:
    outside = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_HOME", "WEBTEXT_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in outside}
    process = subprocess.Popen(
        [sys.executable, str(home / "command.py"), str(home), kind],
        env=environment | {"PYTHONPATH": f"{ROOT}:{home}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    commands.append(process)
    return process


def children_of(process: subprocess.Popen[str], home: Path, kind: str) -> list[psutil.Process]:
    """The stubborn child and CPython's resource tracker, once both run."""
    assert process.stderr is not None
    if kind == "plain":
        assert process.stderr.readline() == "ready\n"
    else:
        log = home / "log"
        while "ready" not in (log.read_text() if log.exists() else ""):
            assert process.poll() is None, process.stderr.read()
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    return children


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["plain", "scoring"])
def test_only_training_gets_time_to_save(
    commands: list[subprocess.Popen[str]], tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    """A child that ignores SIGTERM, and CPython's resource tracker, which does so too."""
    process = start(commands, tmp_path, kind)
    children = children_of(process, tmp_path, kind)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == STOPPED
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert list(tmp_path.glob("spec-*")) == [], "it holds a password"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_does_not_wait_for_training(
    commands: list[subprocess.Popen[str]], tmp_path: Path, second: signal.Signals
) -> None:
    process = start(commands, tmp_path, "training")
    children = children_of(process, tmp_path, "training")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("stopping: a training run saves a checkpoint first (press Ctrl-C again")
    process.send_signal(second)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == ""
    for child in children:
        if child.is_running():
            child.kill()
    psutil.wait_procs(children, timeout=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("kind", "n_processes"), [("localweb", 3), ("building", 5)])
def test_building_the_local_web_can_be_stopped(
    commands: list[subprocess.Popen[str]], tmp_path: Path, kind: str, n_processes: int, number: signal.Signals
) -> None:
    process = start(commands, tmp_path, kind)
    family: list[psutil.Process] = []
    while len(family) < n_processes:  # two readers, a resource tracker or two, and the child that builds
        assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == STOPPED
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_can_be_stopped_while_its_servers_start(
    commands: list[subprocess.Popen[str]], tmp_path: Path, number: signal.Signals
) -> None:
    """The servers go on, as they would after the command, and the next command finds them."""
    process = start(commands, tmp_path, "servers")
    try:
        while not all(services.find(kind, tmp_path) for kind in services.KINDS):
            assert process.poll() is None
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors == STOPPED
    finally:
        assert sorted(services.stop(tmp_path)) == ["mlflow", "prefect"]


def test_a_tree_ends_without_waiting_for_the_resource_tracker(tmp_path: Path) -> None:
    program = "import time\nfrom multiprocessing import resource_tracker\nresource_tracker.ensure_running()\n"
    program += "print('ready', flush=True)\ntime.sleep(3000)\n"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    family = psutil.Process(process.pid).children()
    assert len(family) == 1
    assert services.end_tree(psutil.Process(process.pid), grace_s=3000.0) == -signal.SIGTERM
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    process.stdout.close()
