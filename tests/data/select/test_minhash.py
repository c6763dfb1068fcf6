from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import SelectConfig
from data.select import minhash

CONFIG = SelectConfig()
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]


def sign(texts: list[str]) -> minhash.U32:
    return minhash.signatures(texts, ngram=CONFIG.ngram, permutations=CONFIG.permutations, seed=CONFIG.minhash_seed)


def some_text(rng: np.random.Generator, n_words: int = 600) -> list[str]:
    return list(rng.choice(WORDS, n_words))


def edited(rng: np.random.Generator, words: list[str], n_edits: int) -> list[str]:
    words = list(words)
    for at in rng.choice(len(words), n_edits, replace=False):
        words[at] = "edited"
    return words


def exact_jaccard(a: list[str], b: list[str]) -> float:
    """The reference: sets of tuples of words, no hashing."""
    sets = [{tuple(words[k : k + CONFIG.ngram]) for k in range(len(words) - CONFIG.ngram + 1)} for words in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def drop(texts: list[str], n_kept: int = 0) -> dict[int, tuple[int, bool]]:
    """The complete method, given the survivor order: dropped -> (duplicate of, whether exact)."""
    signatures = sign(texts)
    exact = np.frombuffer(b"".join(map(minhash.exact_hash, texts)), "V16")
    bands = minhash.band_hashes(signatures, CONFIG.bands)
    rank = np.arange(len(texts), dtype=np.uint32)
    found = minhash.find_buckets(iter(bands.T.copy()), rank, n_kept)
    c = found.candidates
    duplicates = minhash.find_duplicates(found, signatures[c], exact[c], n_kept, CONFIG.threshold)
    return {int(c[d.candidate]): (int(c[d.of]), d.is_exact) for d in duplicates}


def test_equal_rows_estimate_the_exact_jaccard_similarity() -> None:
    rng = np.random.default_rng(1)
    for n_edits in (3, 10, 30, 80):
        words = some_text(rng)
        pairs = [(words, edited(rng, words, n_edits)) for _ in range(20)]
        exact = np.mean([exact_jaccard(a, b) for a, b in pairs])
        signed = [sign([" ".join(a), " ".join(b)]) for a, b in pairs]
        estimate = np.mean([np.mean(s[0] == s[1]) for s in signed])
        error = np.sqrt(exact * (1 - exact) / (CONFIG.permutations * len(pairs)))
        assert estimate == pytest.approx(exact, abs=4 * error + 0.005)


def test_only_planted_near_copies_are_found() -> None:
    rng = np.random.default_rng(2)
    near = []
    far = []
    for _ in range(150):
        words = some_text(rng)
        near.append((words, edited(rng, words, 8)))
        far.append((words, edited(rng, words, 60)))
    assert min(exact_jaccard(a, b) for a, b in near) > 0.85
    assert max(exact_jaccard(a, b) for a, b in far) < 0.55
    texts = [" ".join(words) for pair in near for words in pair]
    dropped = drop(texts)
    assert set(dropped.items()) <= {(2 * k + 1, (2 * k, False)) for k in range(150)}
    # At Jaccard 0.87 a band is shared with probability 1-(1-0.87**8)**14 = 0.995; 84 of 112 rows are equal in 0.9995
    assert len(dropped) >= 146
    assert drop([" ".join(words) for pair in far for words in pair]) == {}


def test_a_chain_is_not_followed() -> None:
    rng = np.random.default_rng(3)
    a = some_text(rng)
    b = edited(rng, a, 13)
    c = edited(rng, b, 13)
    assert exact_jaccard(a, b) > 0.79
    assert exact_jaccard(b, c) > 0.79
    assert exact_jaccard(a, c) < 0.70
    texts = [" ".join(words) for words in (a, b, c)]
    assert drop(texts) == {1: (0, False)}  # c is like b, but b was dropped
    assert drop([texts[1], texts[0], texts[2]]) == {1: (0, False), 2: (0, False)}


def test_texts_that_differ_in_case_and_space_are_exact_duplicates() -> None:
    text = " ".join(some_text(np.random.default_rng(4)))
    assert drop([text, text.upper().replace(" ", "\n\t ")]) == {1: (0, True)}
    assert drop([text, text.replace(" ", ", ")]) == {
        1: (0, False)
    }  # punctuation makes another text with the same words


def test_short_texts_and_texts_without_words_are_distinguished() -> None:
    texts = ["one", "two", "one two", "two one", "!?", "...", "one two three four five"]
    assert drop(texts) == {}
    assert drop([*texts, "One", "! ?"]) == {7: (0, True)}
    assert minhash.shingles("a b c", 5).shape == (1,)
    assert minhash.shingles("a b c d e f", 5).shape == (2,)


def test_a_long_texts_signature_is_the_minimum_over_its_pieces() -> None:
    words = [str(n) for n in range(3 * 4_096)]
    cuts = [0, 4_096, 8_192, len(words)]
    pieces = [" ".join(words[start : stop + CONFIG.ngram - 1]) for start, stop in itertools.pairwise(cuts)]
    assert np.array_equal(sign([" ".join(words)])[0], sign(pieces).min(axis=0))


def test_band_hashes_are_equal_if_all_their_rows_are() -> None:
    rng = np.random.default_rng(5)
    signatures = rng.integers(0, 2**32, (2_000, 112), dtype=np.uint32)
    signatures[1_000:] = signatures[:1_000]
    signatures[1_000:, 17] ^= 1  # a row of band 2
    hashes = minhash.band_hashes(signatures, 14)
    same = hashes[:1_000] == hashes[1_000:]
    assert not same[:, 2].any()
    assert np.delete(same, 2, axis=1).all()
    assert len(np.unique(hashes)) == 13 * 1_000 + 2_000


def test_survivors_are_ordered_by_age_then_karma_then_id() -> None:
    ids = np.frombuffer(
        b"".join(
            bytes([first]) + bytes(14) + bytes([last]) for first, last in [(200, 0), (1, 9), (1, 2), (3, 0), (3, 0)]
        ),
        "V16",
    )
    source = np.array([0, 1, 1, 1, 1])
    karma = np.array([1, 5, 5, 9, 5], dtype=np.int64)
    assert minhash.survivor_order(source, karma, ids).tolist() == [0, 3, 2, 1, 4]


def brute_force(signatures: minhash.U32, exact: list[bytes], bands: int, n_kept: int, threshold: float) -> dict:
    """Greedy over all pairs, straight from the definition."""
    rows = signatures.shape[1] // bands
    kept: list[int] = []
    dropped = {}
    for i, mine in enumerate(signatures.tolist()):
        if i >= n_kept:
            meets = []
            for j in kept:
                other = signatures[j].tolist()
                if any(mine[k : k + rows] == other[k : k + rows] for k in range(0, bands * rows, rows)):
                    meets.append((j, sum(x == y for x, y in zip(mine, other, strict=True))))
            same = [j for j, _ in meets if exact[j] == exact[i]]
            near = [j for j, equal in meets if equal >= threshold * len(mine)]
            if same or near:
                dropped[i] = (same[0], True) if same else (near[0], False)
                continue
        kept.append(i)
    return dropped


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 70), st.integers(0, 30), st.sampled_from([0.5, 0.75, 1.0]))
def test_duplicates_match_brute_force(seed: int, n: int, n_kept: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    n_kept = min(n, n_kept)
    signatures = rng.integers(0, 2, (n, 8), dtype=np.uint32)  # few values, so that many share a bucket
    exact = [bytes([v]) * 16 for v in signatures.dot(1 << np.arange(8, dtype=np.uint32)).astype(int).tolist()]
    place = rng.permutation(n)  # the documents are not in survivor order
    rank = place.astype(np.uint32)
    columns = minhash.band_hashes(signatures[place], 4).T.copy()
    found = minhash.find_buckets(iter(columns), rank, n_kept)
    c = found.candidates
    exact_array = np.frombuffer(b"".join(exact), "V16") if n else np.empty(0, "V16")
    duplicates = list(minhash.find_duplicates(found, signatures[c], exact_array[c], n_kept, threshold))
    ours = {int(c[d.candidate]): (int(c[d.of]), d.is_exact) for d in duplicates}
    assert ours == brute_force(signatures, exact, 4, n_kept, threshold)
    for d in duplicates:
        assert d.similarity == np.mean(signatures[c[d.candidate]] == signatures[c[d.of]])


def test_copies_are_compared_only_with_the_kept_document() -> None:
    n = 6_000
    signatures = np.tile(np.arange(112, dtype=np.uint32), (n, 1))
    exact = np.frombuffer(np.arange(2 * n, dtype=np.uint64).tobytes(), "V16")  # near, not exact
    columns = minhash.band_hashes(signatures, 14).T.copy()
    found = minhash.find_buckets(iter(columns), np.arange(n, dtype=np.uint32), 0)
    assert found.sizes.tolist() == [n] * 14

    duplicates = minhash.find_duplicates(found, signatures, exact, 0, 0.75)
    first = next(duplicates)
    tracemalloc.start()
    try:
        of = Counter(duplicate.of for duplicate in duplicates)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert first.of == 0
    assert of == {0: n - 2}
    assert (
        peak < 100 * signatures[0].nbytes
    )  # each copy is compared with the kept document, not with every copy before it


def test_memory_is_below_60_bytes_per_document() -> None:
    n = 200_000
    rng = np.random.default_rng(6)
    ids = np.frombuffer(rng.bytes(16 * n), "V16")
    tracemalloc.start()
    try:
        order = minhash.survivor_order(np.zeros(n, np.uint16), rng.integers(0, 9, n), ids)
        rank = np.empty(n, dtype=np.uint32)
        rank[order] = np.arange(n, dtype=np.uint32)
        columns = (rng.integers(0, 2**63, n, dtype=np.uint64) for _ in range(14))
        found = minhash.find_buckets(columns, rank, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found.candidates) == 0
    assert peak / n < 60
