"""The training benchmark at its smallest: everybody trains, and it ends with its JSON line. No timing is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _bench(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.train", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= {"bench", "ratios", "ours", "peers", "peak_rss_mb", "machine"}
    return result


def test_ours_beside_transformers() -> None:
    result = _bench("--threads", "1")
    assert result["bench"] == "train"
    assert result["ratios"].keys() == {"transformers", "machine"}
    assert result["cpu_ratios"].keys() == result["ratios"].keys()
    assert all(ratio > 0 for ratio in [*result["ratios"].values(), *result["cpu_ratios"].values()])
    assert result["ours"]["tokens_per_s"] > 0
    assert result["ours"]["peak_rss_mb"] > 100
    assert 0 < result["ours"]["loader_share"] < 1


def test_a_folder_without_nanogpt_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.train", "--quick", "--nanogpt", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no model.py there; name a checkout of nanoGPT" in done.stderr


@pytest.mark.slow
def test_losses_of_the_precisions() -> None:
    result = _bench("--mini", "--seeds", "2")
    assert result["ours"].keys() == {"float32", "bfloat16"}
    assert abs(result["ratios"]["bfloat16_minus_float32"]) < 0.05
