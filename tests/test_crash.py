"""The demo survives SIGKILL in every stage, at seeded points of its progress, and ends in the same digests.

Slow: two whole demos. One runs undisturbed. The other is killed at each point, started again each time, and must end
with the same digests and the same validation loss.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows import services

ROOT = Path(__file__).parents[1]
SEED = 20261123

# (stage, unit, largest amount): after the kills before it, the run is sure to get that far. The seed picks a point.
POINTS = [
    ("links", "bytes", 300_000),
    ("links", "rows", 2_000),
    ("pages", "bytes", 8_000_000),
    ("pages", "rows", 1_200),
    ("text", "bytes", 2_500_000),
    ("text", "rows", 1_000),
    ("select", "bytes", 800_000),
    ("select", "rows", 2_000),
    ("tokens", "bytes", 2_000_000),
    ("tokens", "rows", 1_000),
    ("checkpoints", "bytes", 100_000_000),
    ("scores", "bytes", 1),
]


def webtext(folder: Path, *arguments: str, kill: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WEBTEXT_HOME": str(folder / "home"), "WEBTEXT_LAKE": str(folder / "lake")}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    if kill:
        environment |= {
            "WEBTEXT_KILL": kill,
            "WEBTEXT_KILL_MARK": str(folder / "killed"),
            "PYTHONPATH": f"{ROOT / 'tests' / 'crash'}",
        }
    program = str(Path(sys.executable).parent / "webtext")
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)


def demo(folder: Path) -> dict[str, Any]:
    run = webtext(folder, "demo", "--json")
    assert run.returncode == 0, run.stderr[-3000:]
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
def test_a_demo_killed_in_every_stage_ends_in_the_same_digests(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    seeded = random.Random(SEED)
    try:
        expected = demo(whole)
        for stage, what, most in POINTS:
            point = seeded.randint(1, most)
            run = webtext(killed, "demo", "--json", kill=f"{stage}:{what}:{point}")
            mark = killed / "killed"
            assert mark.exists(), f"{stage}:{what}:{point} was not reached: {run.stderr[-2000:]}"
            assert run.returncode == -9
            mark.unlink()
        resumed = demo(killed)
        for stage, summary in expected["refresh"]["stages"].items():
            assert resumed["refresh"]["stages"][stage]["digest"] == summary["digest"], stage
            assert resumed["refresh"]["stages"][stage]["by_status"] == summary["by_status"], stage
        assert resumed["train"]["val_loss"] == expected["train"]["val_loss"]
        assert resumed["train"]["val_loss"] < resumed["train"]["unigram_entropy"]

        again = demo(killed)
        assert again["skipped"]
        assert again["eval"]["scores"] == resumed["eval"]["scores"]

        shard = next((killed / "lake" / "tokens" / "demo" / "train").glob("*.parquet"))
        body = bytearray(shard.read_bytes())
        body[len(body) // 2] ^= 1
        shard.write_bytes(body)
        damaged = webtext(killed, "demo")
        assert damaged.returncode == 1
        assert f"{shard.name}: sha256 is" in damaged.stderr
    finally:
        for folder in (whole, killed):
            services.stop(folder / "home")
