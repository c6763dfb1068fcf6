from __future__ import annotations

import numpy as np
import pytest
from datasketch import MinHash

from data.config import SelectConfig
from data.select import minhash
from data.select.shingles import U64, shingles

CONFIG = SelectConfig()
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"]


def sign(texts: list[str]) -> minhash.U32:
    documents = (shingles(text, "en", CONFIG) for text in texts)
    return minhash.signatures(documents, permutations=CONFIG.permutations, seed=CONFIG.minhash_seed)


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


def reference(documents: list[U64], permutations: int, seed: int) -> minhash.U32:
    """datasketch, one document at a time."""
    rows = []
    for hashes in documents:
        one = MinHash(permutations, seed=seed, hashfunc=int, scheme="affine32")
        one.update_batch((hashes >> np.uint64(32)).astype(np.uint32))
        rows.append(one.digest())
    return np.stack(rows)


@pytest.mark.parametrize(("permutations", "seed"), [(112, 1), (7, 3)])
def test_signatures_are_those_of_datasketch(permutations: int, seed: int) -> None:
    rng = np.random.default_rng(8)
    sizes = [1, 1, 730, 5, 2**15 - 1, 2**15, 2**15 + 1, 3, 100_000, 12_000, 12_000, 12_000, 1]
    documents = [rng.integers(0, 2**64, size, dtype=np.uint64) for size in sizes]
    ours = minhash.signatures(documents, permutations=permutations, seed=seed)
    assert ours.dtype == np.uint32
    assert np.array_equal(ours, reference(documents, permutations, seed))
    assert minhash.signatures([], permutations=permutations, seed=seed).shape == (0, permutations)


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


def test_survivors_are_ordered_by_karma_then_id() -> None:
    firsts_and_lasts = [(200, 0), (1, 9), (1, 2), (3, 0), (3, 0)]
    ids = np.frombuffer(b"".join(bytes([a]) + bytes(14) + bytes([b]) for a, b in firsts_and_lasts), "V16")
    karma = np.array([9, 5, 5, 10, 5], dtype=np.int64)
    assert minhash.survivor_order(karma, ids).tolist() == [3, 0, 2, 1, 4]
