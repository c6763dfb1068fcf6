"""Which tokens a sample holds, and how the corpus gets from the lake into memory."""

from __future__ import annotations

import logging
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.lake.store import Lake
from model.loader import Sampler, open_corpus, rank_samples, val_windows
from tests.model.lakes import documents, make_lake, publish_tokens


@settings(max_examples=60, deadline=None)
@given(
    windows=st.integers(1, 3_000),
    context=st.integers(1, 9),
    rest=st.integers(0, 8),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
)
def test_an_epoch_reads_every_window_once(windows: int, context: int, rest: int, seed: int, epoch: int) -> None:
    """Every token is an input once, except that fewer than ``context`` of them are an input twice."""
    sampler = Sampler("digest", seed, windows * context + max(1, rest % context), context)
    first = epoch * sampler.windows
    starts = sampler.starts(np.arange(first, first + sampler.windows))
    assert len(set(starts.tolist())) == sampler.windows
    times = inputs(sampler, starts)
    assert times.min() == 1
    assert times.max() <= 2
    assert (times == 2).sum() == sampler.windows * context - sampler.n_tokens < context


def inputs(sampler: Sampler, starts: np.ndarray) -> np.ndarray:
    """How often each token of the corpus is an input of these windows."""
    covered = (starts[:, None] + np.arange(sampler.context)) % sampler.n_tokens
    return np.bincount(covered.ravel(), minlength=sampler.n_tokens)


@settings(max_examples=40, deadline=None)
@given(n_tokens=st.integers(10, 500), context=st.integers(1, 9), seed=st.integers(0, 2**40))
def test_the_last_window_of_an_epoch_runs_on_into_the_next(n_tokens: int, context: int, seed: int) -> None:
    """An epoch reads the ring once: no token is an input more than once more often than another."""
    sampler = Sampler("digest", seed, n_tokens, context)
    samples = np.arange(4 * sampler.windows)
    epochs = [set(part.tolist()) for part in np.split(sampler.starts(samples), 4)]
    begin = next(iter(epochs[0] - {(start + context) % n_tokens for start in epochs[0]}), min(epochs[0]))
    for epoch in epochs:
        assert epoch == {(begin + i * context) % n_tokens for i in range(sampler.windows)}
        begin = (begin + sampler.windows * context) % n_tokens
    for n_epochs in (1, 2, 3, 4):
        times = inputs(sampler, sampler.starts(samples[: n_epochs * sampler.windows]))
        assert times.max() - times.min() <= 1


def test_share_of_tokens_seen_matches_a_count() -> None:
    """Compared with counting them."""
    sampler = Sampler("digest", 0, 1_003, 10)
    for samples in (0, 1, 50, 99, 100, 101, 300):
        counted = (inputs(sampler, sampler.starts(np.arange(samples))) > 0).mean()
        assert sampler.share_seen(samples) == pytest.approx(counted, abs=10 / 1_003)
    assert sampler.windows == 101
    assert sampler.share_seen(100) < 1
    assert sampler.share_seen(101) == 1


def test_a_sample_depends_only_on_its_number() -> None:
    sampler = Sampler("digest", 3, 10_000, 16)
    together = sampler.starts(np.arange(2_000))
    one_by_one = np.array([sampler.starts(np.array([n]))[0] for n in range(2_000)])
    assert (together == one_by_one).all()
    later = Sampler("digest", 3, 10_000, 16).starts(np.arange(1_999, -1, -1))
    assert (together[::-1] == later).all()


def test_sample_order_is_pinned() -> None:
    """A change here changes every resumed run: raise the checkpoint format with it."""
    starts = Sampler("digest", 0, 1_000_003, 128).starts(np.array([0, 1, 2, 7_812, 7_813, 10**9]))
    assert starts.tolist() == [496409, 159385, 304793, 237465, 251734, 984351]


@pytest.mark.parametrize("change", ["seed", "corpus_digest", "context", "epoch"])
def test_sample_order_depends_on_each_input(change: str) -> None:
    base = {"corpus_digest": "digest", "seed": 0, "n_tokens": 80_000, "context": 8}
    other = {"seed": {"seed": 1}, "corpus_digest": {"corpus_digest": "x"}, "context": {"context": 9}}.get(change, {})
    one = Sampler(**base)
    two = Sampler(**{**base, **other})
    samples = np.arange(1_000)
    there = two.starts(samples + (two.windows if change == "epoch" else 0))
    # the starts differ anyway: compare the order of the windows, which a shift does not change
    order = np.argsort(np.argsort((one.starts(samples) - one.starts(samples)[0]) % 80_000))
    assert (order != np.argsort(np.argsort((there - there[0]) % 80_000))).mean() > 0.9


def test_windows_are_shuffled_evenly() -> None:
    """The first tenth of an epoch's samples falls evenly over the corpus (chi square, 9 degrees of freedom, p 1e-6)."""
    sampler = Sampler("digest", 0, 1_000_000, 10)
    counts = np.histogram(sampler.starts(np.arange(10_000)), bins=10, range=(0, 1_000_000))[0]
    assert ((counts - 1_000) ** 2 / 1_000).sum() < 44.8


def test_a_batch_holds_a_window_and_the_same_window_shifted_by_one() -> None:
    train = np.arange(100, dtype=np.uint16)
    sampler = Sampler("digest", 0, 100, 8)
    ids, targets = sampler.batch(train, np.arange(26))
    assert ids.shape == targets.shape == (26, 8)
    assert (ids[:, 0] == sampler.starts(np.arange(26))).all()
    assert ((ids + 1) % 100 == targets).all()
    assert (ids[:, 1:] == targets[:, :-1]).all()


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 7, 8, 16, 32, 100])
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_step_has_the_same_samples_for_any_number_of_processes(world_size: int, micro_batch_size: int) -> None:
    """Micro-batches are dealt in turn, like cards."""
    sampler = Sampler("digest", 0, 50_000, 16)
    for seen in (0, 32, 3_104):  # the last one crosses the end of an epoch
        per_rank = [list(rank_samples(seen, 32, micro_batch_size, rank, world_size)) for rank in range(world_size)]
        assert {len(batches) for batches in per_rank} == {-(-32 // (micro_batch_size * world_size))}
        sizes = {len(batch) for batches in per_rank for batch in batches}
        assert min(sizes) > 0
        assert max(sizes) <= micro_batch_size
        assert max(sizes) - min(sizes) <= 1
        dealt = np.concatenate([batch for turn in zip(*per_rank, strict=True) for batch in turn])
        assert dealt.tolist() == list(range(seen, seen + 32))
        starts = np.concatenate([sampler.starts(batch) for turn in zip(*per_rank, strict=True) for batch in turn])
        assert (starts == sampler.starts(np.arange(seen, seen + 32))).all()


def test_the_order_needs_no_torch() -> None:
    code = "import sys, model.loader; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_validation_windows_cover_the_split() -> None:
    assert val_windows(10, 4, 0) == [(0, 4), (4, 4), (8, 1)]
    assert val_windows(9, 4, 0) == [(0, 4), (4, 4)]
    assert val_windows(2, 4, 0) == [(0, 1)]
    assert val_windows(401, 4, 3) == [(0, 4), (200, 4), (396, 4)]


def test_a_corpus_is_its_documents_in_order(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    publish_tokens(lake, "2026-11", [documents(5, 7)], [documents(2, 8)])
    corpus = open_corpus(lake, ("2026-11", "2026-10"), tmp_path / "cache")
    expected = [*documents(5, 7), *documents(40, 0), *documents(30, 1)]
    assert (corpus.train == np.concatenate(expected)).all()
    assert (corpus.val == np.concatenate([*documents(2, 8), *documents(6, 2)])).all()
    assert (corpus.train_documents, corpus.val_documents, corpus.max_token) == (75, 8, 63)
    counts = np.bincount(np.concatenate(expected))
    share = counts[counts > 0] / counts.sum()
    assert corpus.unigram_entropy == pytest.approx(-(share * np.log(share)).sum())
    assert corpus.digest != open_corpus(lake, ("2026-10",), tmp_path / "cache").digest
    assert corpus.digest != open_corpus(lake, ("2026-10", "2026-11"), tmp_path / "cache").digest


def test_an_error_names_the_damaged_shard(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    shard = Path(lake.path("tokens", "2026-10", "train", "part-00001.parquet"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"train/part-00001.parquet: sha256 is"):
        open_corpus(lake, ("2026-10",), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("corpus-*/"))


def test_a_damaged_cache_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lake = make_lake(tmp_path / "lake")
    before = open_corpus(lake, ("2026-10",), tmp_path / "cache").train.copy()
    (cached,) = (tmp_path / "cache").glob("corpus-*/train.bin")
    content = bytearray(cached.read_bytes())
    content[10] ^= 1
    cached.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert (open_corpus(lake, ("2026-10",), tmp_path / "cache").train == before).all()
    assert "train.bin does not match its sha256; copying it again" in caplog.text


def _open(arguments: tuple[str, str]) -> int:
    corpus = open_corpus(Lake(arguments[0]), ("2026-10",), Path(arguments[1]))
    return int(corpus.train.astype(np.int64).sum())


def test_processes_may_open_a_corpus_at_the_same_time(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        sums = pool.map(_open, [(lake.root, str(tmp_path / "cache"))] * 3)
    assert sums == [int(np.concatenate([*documents(40, 0), *documents(30, 1)]).astype(np.int64).sum())] * 3
    assert len(list((tmp_path / "cache").glob("corpus-*/"))) == 1


def test_bad_corpora_are_refused(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake")
    cache = tmp_path / "cache"
    publish_tokens(lake, "no-val", [documents(5, 1)], [[]])
    publish_tokens(lake, "no-train", [[]], [documents(5, 1)])
    publish_tokens(lake, "one-val", [documents(5, 1)], [[np.array([63], dtype=np.uint16)]])
    publish_tokens(lake, "other", [documents(5, 1)], [documents(5, 1)], tokenizer="gpt2")
    for snapshots, message in (
        (("no-val",), "no validation documents"),
        (("one-val",), "the validation documents have one token, too few"),
        (("no-train",), "no training documents"),
        (("2026-10", "other"), r"mixes tokenizers \(2026-10: sixty-four, other: gpt2\)"),
        (
            ("2026-10", "absent"),
            r"tokens/absent: no such dataset in .* \(published: 2026-10, no-train, no-val, one-val, other\)",
        ),
    ):
        with pytest.raises(InputError, match=message):
            open_corpus(lake, snapshots, cache)
    assert Sampler("digest", 0, 9, 8).windows == 2
    with pytest.raises(InputError, match="8 training tokens, too few for one sample of context=8; add snapshots"):
        Sampler("digest", 0, 8, 8)
