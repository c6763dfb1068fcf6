"""The residual stream of a new model at every depth, with and without the paper's scaling of residual layers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.residual import Growth, measure
from model.config import ModelConfig

DEPTHS = (2, 8, 32)


@pytest.fixture(scope="module")
def grown() -> dict[tuple[int, bool], Growth]:
    """By depth and whether residual layers are scaled."""
    configs = {layers: ModelConfig(layers, 4, 256, context=64, vocab_size=500) for layers in DEPTHS}
    return {
        (layers, is_scaled): measure(config, is_scaled=is_scaled, sequences=64, length=8)
        for layers, config in configs.items()
        for is_scaled in (True, False)
    }


@pytest.mark.parametrize("is_scaled", [True, False])
@pytest.mark.parametrize("layers", DEPTHS)
def test_the_residual_stream_grows_as_predicted(
    grown: dict[tuple[int, bool], Growth], layers: int, is_scaled: bool
) -> None:
    """Variances add up. At the first position they equal the sum of all layers' contributions; later positions have
    less.
    """
    growth = grown[layers, is_scaled]
    assert len(growth.measured) == layers + 1
    assert growth.measured_first == pytest.approx(growth.predicted_first, rel=0.1)
    assert all(all_of <= first * 1.05 for all_of, first in zip(growth.measured, growth.predicted_first, strict=True))
    assert growth.measured == sorted(growth.measured)


def test_scaling_makes_the_residual_stream_independent_of_depth(grown: dict[tuple[int, bool], Growth]) -> None:
    shallow = DEPTHS[0]
    deep = DEPTHS[-1]
    assert grown[deep, True].final_std == pytest.approx(grown[shallow, True].final_std, rel=0.1)
    # without it the variance is proportional to the depth
    times = grown[deep, False].final_std / grown[shallow, False].final_std
    assert times == pytest.approx(math.sqrt(deep / shallow), rel=0.15)
    assert grown[deep, False].final_std > 5 * grown[deep, True].final_std


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    arguments = ["--to", str(tmp_path / "images" / "plot.svg"), "--width", "64", "--depths", "2,4"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.residual", *arguments], capture_output=True, text=True, check=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["bench"] == "residual"
    assert set(result["ours"]) == {"not_scaled_2", "scaled_2", "not_scaled_4", "scaled_4"}
    assert (tmp_path / "images" / "plot.svg").read_text().startswith("<svg")
