"""Micro-batches that are read ahead are the sampler's, from whatever step on."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest
import torch

from data.lake.store import Lake
from model import world
from model.batches import Batches
from model.config import TrainConfig
from model.loader import Corpus, Sampler, open_corpus
from model.world import World
from tests.model.lakes import make_lake, make_spec

CONFIG = TrainConfig(batch_size=24, batch_warmup_steps=4, micro_batch_size=2, warmup_steps=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    lake: Lake = make_lake(tmp_path_factory.mktemp("batches") / "lake")
    return open_corpus(lake, ("2026-10",), Path(make_spec(lake).cache_dir))


@pytest.mark.parametrize("rank", [0, 2])
def test_steps_have_the_samplers_tokens_in_whatever_order_they_are_asked_for(corpus: Corpus, rank: int) -> None:
    sampler = Sampler(corpus.digest, 0, len(corpus.train), 16)
    batches = Batches(CONFIG, sampler, corpus.train, World(rank, 3, torch.device("cpu")))
    for step in (0, 1, 2, 7, 8, 2, 0):  # resumed, and begun again
        found = list(batches.of_step(step))
        assert [one.samples.tolist() for one in found] == [one.tolist() for one in batches.samples(step)]
        for one in found:
            ids, targets = sampler.batch(corpus.train, one.samples)
            assert torch.equal(one.ids, torch.from_numpy(ids.copy()))
            assert torch.equal(one.targets, torch.from_numpy(targets.copy()))


def test_the_processes_share_every_step(corpus: Corpus) -> None:
    sampler = Sampler(corpus.digest, 0, len(corpus.train), 16)
    worlds = [World(rank, 3, torch.device("cpu")) for rank in range(3)]
    readers = [Batches(CONFIG, sampler, corpus.train, peers) for peers in worlds]
    for step in range(6):
        seen = [one.samples.tolist() for reader in readers for one in reader.of_step(step)]
        first = CONFIG.samples_before(step)
        assert sorted(itertools.chain(*seen)) == list(range(first, first + CONFIG.batch_at(step)))


def test_the_reading_thread_uses_the_gpu_of_its_process(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple[str, torch.device]] = []
    name = lambda: threading.current_thread().name  # noqa: E731 - read in the thread
    monkeypatch.setattr("torch.cuda.set_device", lambda device: chosen.append((name(), device)))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    device = torch.device("cuda", 3)
    sampler = Sampler(corpus.digest, 0, len(corpus.train), 16)
    list(Batches(CONFIG, sampler, corpus.train, World(3, 4, device, local_rank=3)).of_step(0))
    assert chosen == [("batches_0", device)]


def test_an_error_of_the_reading_thread_is_raised_where_the_batch_is_used(corpus: Corpus) -> None:
    sampler = Sampler(corpus.digest, 0, len(corpus.train), 16)
    batches = Batches(CONFIG, sampler, corpus.train[:20], world.join("cpu"))  # cut behind the sampler's back
    with pytest.raises(IndexError):
        list(batches.of_step(5))
