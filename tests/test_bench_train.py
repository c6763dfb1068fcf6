"""The training benchmarks at their smallest: each subject trains, and the last line is JSON. No timing is asserted.

They train on one thread and have no time limit of their own, so a busy machine only slows them down. Those that train
are slow tests: each starts several programs that import torch, and what they run is tested faster in tests/model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import nanogpt

ROOT = Path(__file__).parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.timeout(1_800)  # a hang ends, a busy machine does not reach it


def _bench(*arguments: str, module: str = "train") -> dict[str, Any]:
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= {"bench", "ratios", "ours", "peers", "peak_rss_mb", "machine"}
    assert result["peak_rss_mb"] > 100
    return result


@pytest.mark.slow
def test_our_training_is_compared_with_its_peers(tmp_path: Path) -> None:
    nanogpt.write(tmp_path, bias=True)
    result = _bench("--threads", "1", "--nanogpt", str(tmp_path))
    assert result["bench"] == "train"
    assert result["peers"].keys() == {"transformers", "nanogpt", "nanogpt-bf16"}
    assert result["ratios"].keys() == {"machine", *result["peers"]}
    assert result["cpu_ratios"].keys() == result["ratios"].keys()
    assert all(ratio > 0 for ratio in [*result["ratios"].values(), *result["cpu_ratios"].values()])
    assert result["ours"]["tokens_per_s"] > 0
    assert result["ours"]["peak_rss_mb"] > 100
    assert 0 < result["ours"]["loader_share"] < 1


def test_a_folder_without_nanogpt_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.train", "--quick", "--nanogpt", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no model.py there; name a checkout of nanoGPT" in done.stderr


@pytest.mark.slow
def test_each_recipe_has_its_number_of_tokens(tmp_path: Path) -> None:
    plot = tmp_path / "recipe.svg"
    result = _bench("--tokens", "4000", "--seeds", "2", "--target", "10.7", "--to", str(plot), module="recipe")
    assert result["bench"] == "recipe"
    assert [name.partition(",")[0] for name in result["tokens_to_target"]] == ["paper", "muon", "modern"]
    for name, seeds in result["tokens_to_target"].items():
        for tokens, curve in zip(seeds, result["curves"][name], strict=True):
            assert tokens < curve[-1][0]
            assert min(loss for _, loss in curve) <= 10.7
    assert plot.read_text().count("<path") > 4
    assert [*result["peers"], *result["ours"]] == [*result["tokens_to_target"]]
    assert result["ratios"][next(iter(result["peers"]))] == 1.0


def test_an_unknown_recipe_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.recipe", "--recipes", "paper,soup"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such recipe soup; choose from paper, muon, modern" in done.stderr


@pytest.mark.slow
def test_losses_of_the_precisions_are_compared() -> None:
    result = _bench("--mini", "--seeds", "2")
    assert result["ours"].keys() == {"float32", "bfloat16"}
    assert abs(result["ratios"]["bfloat16_minus_float32"]) < 0.05
