"""Tests of models use one thread: on tensors this small, more threads only wait for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from data.lake.store import Lake
from model.train import train
from tests.model.corpora import publish_prose
from tests.model.lakes import tiny_spec
from tests.model.running import ignore


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with a corpus of prose, ``a``, and a run of two steps on it, ``r``."""
    lake = Lake(tmp_path_factory.mktemp("trained") / "lake")
    publish_prose(lake)
    train(tiny_spec(lake, "r"), ignore)
    return lake
