from __future__ import annotations

import itertools
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.select import buckets
from data.select.buckets import ALL_PAIRS, PIVOTS, Crowd, meetings, shared_buckets, split


def meet(hashes: dict[int, int], n_before: int, n_files: int = 3) -> buckets.Meetings:
    """The meetings of documents, given the hash by rank."""
    ranks = np.array(list(hashes), dtype=np.uint32)
    values = np.array([hashes[rank] for rank in ranks.tolist()], dtype=np.uint64)
    is_new = ranks >= n_before
    files = [np.flatnonzero(~is_new)[k::n_files] for k in range(n_files)]
    kept = ((values[file], ranks[file]) for file in files)
    return meetings(*shared_buckets((values[is_new], ranks[is_new]), kept), n_before)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 90), st.integers(0, 60), st.sampled_from([2, 9, 40]))
def test_everyone_in_a_small_bucket_meets(seed: int, n: int, n_before: int, n_hashes: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = dict(zip(rng.permutation(n).tolist(), rng.integers(0, n_hashes, n).tolist(), strict=True))
    found = meet(hashes, n_before)
    by_hash = defaultdict(list)
    for rank in sorted(hashes):
        by_hash[hashes[rank]].append(rank)
    shared = [bucket for bucket in by_hash.values() if len(bucket) > 1 and bucket[-1] >= n_before]
    small = [bucket for bucket in shared if len(bucket) <= ALL_PAIRS]
    pairs = {(b, a) for bucket in small for a, b in itertools.combinations(bucket, 2) if b >= n_before}
    assert set(zip(*(one.tolist() for one in split(found.pairs)), strict=True)) == pairs
    assert np.all(np.diff(found.pairs.astype(object)) > 0)
    crowds = [bucket for bucket in shared if len(bucket) > ALL_PAIRS]
    members = np.split(found.members, np.flatnonzero(np.diff(found.crowds)) + 1)
    ours = sorted(one.tolist() for one in members if len(one))
    assert ours == sorted(
        [*[rank for rank in one if rank < n_before][:PIVOTS], *(rank for rank in one if rank >= n_before)]
        for one in crowds
    )


def test_a_crowd_keeps_few_documents_of_the_history() -> None:
    found = meet(dict.fromkeys(range(1_000), 7), n_before=990)
    assert found.members.tolist() == [*range(PIVOTS), *range(990, 1_000)]
    assert len(found.pairs) == 0


def test_memory_does_not_grow_with_the_history() -> None:
    rng = np.random.default_rng(6)
    new = rng.integers(0, 2**63, 50_000, dtype=np.uint64), np.arange(50_000, dtype=np.uint32) + 10**8

    def peak(n_files: int) -> int:
        kept = (
            (rng.integers(0, 2**63, 50_000, dtype=np.uint64), np.arange(50_000, dtype=np.uint32))
            for _ in range(n_files)
        )
        tracemalloc.start()
        try:
            assert len(shared_buckets(new, kept)[0]) == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(20) < 1.1 * peak(2)


def compared(signatures: np.ndarray, n_kept: int = 0, needed: int = 84) -> tuple[set[tuple[int, int]], Crowd, int]:
    """The edges of a crowd of all signatures, the crowd afterwards, and the number of comparisons."""
    crowd = Crowd(signatures, np.arange(len(signatures)), n_kept, lowest=75, needed=needed)
    edges = set()
    for who, pivot, rows in crowd:
        assert np.array_equal(rows, np.count_nonzero(signatures[who] == signatures[pivot], axis=1))
        assert (who > pivot).all()
        assert (who >= n_kept).all()
        edges |= {(int(one), pivot) for one in who}
    return edges, crowd, 0


def near_copies(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Signatures whose rows equal those of one original with probability ``share``."""
    original = rng.integers(0, 2**32, 112, dtype=np.uint32)
    own = rng.integers(0, 2**32, (n, 112), dtype=np.uint32)
    return np.where(rng.random((n, 112)) < share, original, own)


def test_copies_need_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "_CHUNK", 1_000)
    signatures = near_copies(np.random.default_rng(1), 20_000, 0.97)
    work = 0
    real = np.count_nonzero

    def counting(values: np.ndarray, axis: int) -> np.ndarray:
        nonlocal work
        work += len(values)
        return real(values, axis=axis)

    monkeypatch.setattr(buckets.np, "count_nonzero", counting)
    crowd = Crowd(signatures, np.arange(len(signatures)), 0, lowest=75, needed=84)
    edges = [pair for who, pivot, _ in crowd for pair in zip(who.tolist(), itertools.repeat(pivot))]
    monkeypatch.undo()
    assert work < 3 * len(signatures)
    assert {one for one, _ in edges} == set(range(1, len(signatures)))
    assert len(crowd.left) == 0


def test_each_document_resembles_a_pivot_that_is_compared_with_all_after_it() -> None:
    rng = np.random.default_rng(2)
    families = [near_copies(rng, 50, 0.95) for _ in range(20)]
    signatures = np.concatenate(families)[rng.permutation(1_000)]
    edges, crowd, _ = compared(signatures)
    assert len(crowd.left) == 0
    assert len({one for one, _ in edges}) == 1_000 - 20  # all but the first of each family


def test_unlike_documents_use_up_the_pivots_and_are_left() -> None:
    rng = np.random.default_rng(3)
    signatures = rng.integers(0, 2**32, (500, 112), dtype=np.uint32)
    signatures[499] = signatures[0]
    signatures[498] = signatures[497]
    edges, crowd, _ = compared(signatures, n_kept=100)
    assert edges == {(499, 0)}
    assert crowd.left.tolist() == list(range(100 + PIVOTS, 499))  # 497 and 498 too: other bands must find them
    edges, crowd, _ = compared(signatures[:PIVOTS])
    assert len(crowd.left) == 0
