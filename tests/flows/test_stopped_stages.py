"""Signals to a running command, in every stage and to every kind of its processes, at points drawn from a seed.

Whatever is stopped or killed, the command or its second run ends in the digests of an undisturbed run. The whole
matrix is slow; its fastest rows run always.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data.lake.store import Lake
from data.schema import STAGES
from flows.localweb import server as localweb
from tests.flows.serving import Pipeline, start_webtext, wait_until, webtext

ROOT = Path(__file__).parents[2]
SEED = 20261128
MOST = {"links": 3, "pages": 150, "text": 60, "select": 60, "tokens": 30}  # the run is sure to get that far

STOPS = [
    (stage, number, target)
    for stage in STAGES
    for number in (signal.SIGTERM, signal.SIGINT)
    for target in ("main", "group")
]
KILLS = [
    ("text", signal.SIGKILL, "extractor"),
    ("text", signal.SIGTERM, "extractor"),
    ("text", signal.SIGINT, "extractor"),
    ("text", signal.SIGHUP, "extractor"),
    ("text", signal.SIGKILL, "server"),
    ("text", signal.SIGTERM, "server"),
]
FAST = [("text", signal.SIGTERM, "group"), ("text", signal.SIGKILL, "extractor")]


def name_of(row: tuple[str, signal.Signals, str]) -> str:
    return f"{row[0]}-{row[1].name}-{row[2]}"


def rows(of: list[tuple[str, signal.Signals, str]]) -> list[object]:
    return [pytest.param(row, id=name_of(row), marks=[] if row in FAST else pytest.mark.slow) for row in of]


class Refresh:
    """The small snapshot in a lake of its own, which has everything before the stage."""

    def __init__(self, pipeline: Pipeline, folder: Path, stage: str, connect_to: str = "") -> None:
        self.pipeline = pipeline
        self.folder = folder
        self.stage = stage
        self.connect_to = connect_to
        self.lake = folder / "lake"
        for earlier in STAGES[: STAGES.index(stage)]:
            shutil.copytree(pipeline.lake / earlier / "small", self.lake / earlier / "small")

    def start(self, *point: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.crash.refresh", str(self.pipeline.dump), self.connect_to]
        return subprocess.Popen(
            [*command, *map(str, point)],
            cwd=ROOT,
            env=self.pipeline.environment() | {"WEBTEXT_LAKE": str(self.lake)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def signalled(self, number: signal.Signals, target: str) -> subprocess.Popen[str]:
        """A run that sends itself the signal at a point drawn from the seed. Returns when the point is reached."""
        row = name_of((self.stage, number, target))
        amount = random.Random(f"{SEED} {row}").randint(1, MOST[self.stage])
        print(f"seed {SEED}: {row} after {amount} rows")
        mark = self.folder / "reached"
        process = self.start(self.stage, amount, int(number), target, mark)
        wait_until(lambda: mark.exists() or process.poll() is not None, 280)
        assert mark.exists(), process.communicate()[1]
        return process

    def check(self) -> None:
        """The datasets are the ones of an undisturbed run."""
        for stage, expected in self.pipeline.refreshed.stages.items():
            manifest = Lake(self.lake).dataset(stage, "small").require()
            assert manifest.counts == expected.by_status, stage
            assert manifest.digest == expected.digest, stage


@pytest.mark.parametrize("row", rows(STOPS))
def test_a_stopped_stage_seals_nothing_more_and_resumes(
    pipeline: Pipeline, tmp_path: Path, row: tuple[str, signal.Signals, str]
) -> None:
    stage, number, target = row
    with localweb.running(pipeline.home) as web:
        refresh = Refresh(pipeline, tmp_path, stage, web.connect_to[0])
        process = refresh.signalled(number, target)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert errors.endswith("stopped; what is done is kept: run the same command again to go on from there\n")
        assert "Traceback" not in errors
        assert left_in_group(process.pid) == []
        assert Lake(refresh.lake).dataset(stage, "small").manifest() is None
        again = refresh.start()
        _, errors = again.communicate(timeout=280)
    assert again.returncode == 0, errors
    refresh.check()


@pytest.mark.parametrize("row", rows(KILLS))
def test_a_killed_child_changes_no_row(
    pipeline: Pipeline, tmp_path: Path, row: tuple[str, signal.Signals, str]
) -> None:
    stage, number, target = row
    refresh = Refresh(pipeline, tmp_path, stage)
    process = refresh.signalled(number, target)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    refresh.check()


@pytest.mark.slow
def test_pages_survive_a_pause_longer_than_their_time(pipeline: Pipeline, tmp_path: Path) -> None:
    """Ctrl-Z, a frozen container, a machine that sleeps: the text stage gives a page 30 s."""
    refresh = Refresh(pipeline, tmp_path, "text")
    process = refresh.signalled(signal.SIGSTOP, "group")
    time.sleep(40)
    os.killpg(process.pid, signal.SIGCONT)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    refresh.check()


def left_in_group(group: int) -> list[psutil.Process]:
    """Processes of the group that do not end."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                found.append(process)
        except ProcessLookupError:
            continue
    return psutil.wait_procs(found, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_scoring_ends_at_once_and_resumes(pipeline: Pipeline, number: signal.Signals) -> None:
    arguments = ["eval", "--run", "tiny", "--limit", "38", "--json"]
    process = start_webtext(pipeline.environment(), *arguments)
    wait_until(lambda: any("model.evaluate" in one.cmdline() for one in psutil.Process(process.pid).children()))
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines() == [
        "stopping",
        "stopped; what is done is kept: run the same command again to go on from there",
    ]
    assert left_in_group(process.pid) == []
    again = webtext(pipeline.environment(), *arguments)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["scores"]
