"""What one update does: AdamW with clipping and decay, Muon, and their schedules, against arithmetic written here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data.lake.store import Lake
from model.optim import learning_rate
from tests.model.lakes import make_lake
from tests.model.running import trainer_of

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(tmp_path_factory.mktemp("optim") / "lake")


class Recorded:
    """A Trainer in fp64 that keeps the weights before a step and the gradients before clipping."""

    def __init__(self, lake: Lake, **settings: Any) -> None:
        self.trainer = trainer_of(lake, dropout=0.0, **settings)
        self.gradients: Tensors = {}
        sum_gradients = self.trainer.weights.sum_gradients

        def recording(processes: int) -> None:
            sum_gradients(processes)
            self.gradients = {name: weight.grad.double() for name, weight in self.trainer.weights.named.items()}

        self.trainer.weights.sum_gradients = recording  # type: ignore[method-assign]

    def weights(self) -> Tensors:
        return {name: weight.detach().double() for name, weight in self.trainer.weights.named.items()}

    def step(self) -> tuple[Tensors, Tensors, float]:
        """The weights before and after a step, and the norm that the step returned."""
        before = self.weights()
        norm = self.trainer.train_step().read().grad_norm
        return before, self.weights(), norm


def clipped(gradients: Tensors, limit: float) -> tuple[Tensors, float]:
    norm = float(sum(gradient.square().sum() for gradient in gradients.values())) ** 0.5
    return {name: gradient * min(1.0, limit / norm) for name, gradient in gradients.items()}, norm


@pytest.mark.parametrize("clip_norm", [0.05, 100.0])
def test_adamw_with_clipping_and_decay_matches_the_arithmetic(lake: Lake, clip_norm: float) -> None:
    """Decay on matrices and embeddings only; the rate of each step is the schedule's."""
    settings = {"steps": 6, "warmup_steps": 2, "learning_rate": 0.01}
    run = Recorded(lake, beta1=0.8, beta2=0.9, weight_decay=2.0, clip_norm=clip_norm, **settings)
    config = run.trainer.config
    first: Tensors = {name: torch.zeros_like(weight) for name, weight in run.weights().items()}
    second = {name: torch.zeros_like(weight) for name, weight in run.weights().items()}
    for step in range(6):
        before, after, returned = run.step()
        gradients, norm = clipped(run.gradients, clip_norm)
        assert returned == pytest.approx(norm, rel=1e-5)
        assert (norm > clip_norm) == (clip_norm < 1)
        rate = learning_rate(step, config)
        for name, gradient in gradients.items():
            first[name] = 0.8 * first[name] + 0.2 * gradient
            second[name] = 0.9 * second[name] + 0.1 * gradient.square()
            moved = (first[name] / (1 - 0.8 ** (step + 1))) / ((second[name] / (1 - 0.9 ** (step + 1))).sqrt() + 1e-8)
            decay = 2.0 if before[name].ndim == 2 else 0.0
            expected = before[name] * (1 - rate * decay) - rate * moved
            assert torch.allclose(after[name], expected, rtol=1e-4, atol=1e-6), (step, name)


def test_the_first_step_of_muon_matches_the_arithmetic(lake: Lake) -> None:
    """The first step applies the decay, then the orthogonalised gradient, scaled to the size of AdamW's update.

    It takes five Newton-Schulz steps with Jordan's coefficients, which torch computes in bfloat16.
    """
    run = Recorded(lake, optimizer="muon", weight_decay=40.0, learning_rate=0.01, warmup_steps=0, clip_norm=0.05)
    before, after, _ = run.step()
    names = [name for name, weight in before.items() if name.startswith("blocks.") and weight.ndim == 2]
    assert len(names) == 8
    for name in names:
        x = run.gradients[name]
        is_tall = x.shape[0] > x.shape[1]
        x = (x.T if is_tall else x) / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
        x = x.T if is_tall else x
        rate = 0.01 * 0.2 * max(x.shape) ** 0.5
        moved = (before[name] * (1 - 0.01 * 40.0) - after[name]) / rate
        assert float((moved - x).norm() / x.norm()) < 0.12, name  # without its factor it is 0.25 off
