"""Near-duplicates: MinHash signatures, their bands, and the greedy search for duplicates. Arrays in, arrays out.

A document is the set of its word n-grams, and the similarity of two documents is the Jaccard index of their sets. A
signature has P rows: the minimum hash of the set under each of P permutations. Two signatures agree in a share of rows
that estimates the Jaccard index. Documents are compared only if they agree in all rows of some band, that is, if they
share a bucket. A pair with Jaccard index s shares one with probability 1-(1-s**rows)**bands.

The search goes through the documents in survivor order. It drops a document if one that it kept before, in the same
bucket, has the same exact hash or a signature that agrees in at least ``threshold`` of the rows. A dropped document
drops no others: if A ~ B and B ~ C but not A ~ C, then C is kept. So no kept document has a near-copy among the others.

Buckets come from sorting the hashes of one band at a time; documents that are alone in a bucket are left out. Memory,
measured at a million documents: 60 bytes per document at the peak (id 16, rank 4, the rest for sorting one band), and
45 bytes for each shared bucket of a document. An in-memory LSH index takes 5.3 kB per document. Signatures stay on
disk. Only kept members of a bucket are compared, so each of many copies of a page costs one comparison.

Speed: signatures 1,000 documents/s per core at 700 words each; buckets 0.3 s per band and million documents; search
20,000 candidates/s.

Sources: Broder 1997, "On the resemblance and containment of documents"; Leskovec et al., "Mining of Massive Datasets",
chapter 3 (banding); datasketch 2.0 computes the signatures (scheme ``affine32``).
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd; 2**64 over the golden ratio (Knuth, multiplicative hashing)
_BLOCK = 4_096  # shingles or signatures per numpy call


def exact_hash(text: str) -> bytes:
    """16 bytes, the same for texts that differ only in case and white space. Such texts have the same signature."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()[:16]


def shingles(text: str, ngram: int) -> U32:
    """Hashes [n] of the word n-grams, in order. A text with fewer words, or none, is one shingle."""
    words = _WORD.findall(text.casefold()) or [" ".join(text.split())]
    hashes = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    length = min(ngram, len(words))
    n = len(words) - length + 1
    combined = np.zeros(n, dtype=np.uint64)
    for k in range(length):
        combined = (combined + hashes[k : k + n]) * _MULTIPLIER  # modulo 2**64
    return (combined >> np.uint64(32)).astype(np.uint32)


@functools.lru_cache(maxsize=2**18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def signatures(texts: Iterable[str], *, ngram: int, permutations: int, seed: int) -> U32:
    """Signatures [n, permutations] of the texts."""
    minhash = MinHash(permutations, seed=seed, hashfunc=int, scheme="affine32")
    rows = []
    for text in texts:
        minhash.clear()
        hashes = shingles(text, ngram)
        for start in range(0, len(hashes), _BLOCK):
            minhash.update_batch(hashes[start : start + _BLOCK])
        rows.append(minhash.digest())
    return np.stack(rows) if rows else np.empty((0, permutations), dtype=np.uint32)


def band_hashes(signatures_NP: U32, bands: int) -> U64:
    """Hashes [n, bands]: one for the rows of each band."""
    n, permutations = signatures_NP.shape
    values = signatures_NP.reshape(n, bands, permutations // bands).astype(np.uint64)
    hashes = np.zeros((n, bands), dtype=np.uint64)
    for k in range(values.shape[2]):
        hashes = (hashes + values[:, :, k]) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
    return hashes


def survivor_order(source: npt.NDArray[np.integer], karma: npt.NDArray[np.int64], ids: npt.NDArray[np.void]) -> U32:
    """Places of the documents in survivor order: lower source, then higher karma, smaller id, lower place.

    ``ids`` [n] has numpy's type ``V16``: 16 bytes each.
    """
    halves = np.ascontiguousarray(ids).view(">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0], -karma, source)).astype(np.uint32)


@dataclass(frozen=True)
class Buckets:
    """Which documents share a bucket. A *candidate* is in a shared bucket that has a document not kept already."""

    candidates: U32  # [c] ranks, ascending
    starts: npt.NDArray[np.int64]  # [c + 1] where a candidate's buckets start in `buckets`
    buckets: U32  # bucket numbers
    sizes: npt.NDArray[np.int64]  # members of each bucket


def find_buckets(band_columns: Iterable[U64], rank: U32, n_kept: int) -> Buckets:
    """Group the documents by each band's hash.

    ``band_columns`` yields the hashes [n] of one band at a time, by place. ``rank`` [n] holds each place's rank in
    survivor order. Documents with a rank below ``n_kept`` are kept already; buckets without any other are left out.
    """
    ranks = []
    numbers = []
    sizes = []
    n_buckets = 0
    for hashes in band_columns:
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        firsts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else order
        members = rank[order]
        del hashes, order
        lengths = np.diff(np.append(firsts, len(members)))
        wanted = lengths > 1
        if len(firsts):
            wanted &= np.maximum.reduceat(members, firsts) >= n_kept
        ranks.append(members[np.repeat(wanted, lengths)])
        lengths = lengths[wanted]
        numbers.append(np.repeat(np.arange(n_buckets, n_buckets + len(lengths), dtype=np.uint32), lengths))
        sizes.append(lengths)
        n_buckets += len(lengths)
    every = np.concatenate(ranks) if ranks else np.empty(0, dtype=np.uint32)
    order = np.argsort(every, kind="stable")
    candidates, starts = np.unique(every[order], return_index=True)
    return Buckets(
        candidates,
        np.append(starts, len(every)).astype(np.int64),
        np.concatenate(numbers)[order] if numbers else every,
        np.concatenate(sizes) if sizes else np.empty(0, dtype=np.int64),
    )


@dataclass(frozen=True)
class Duplicate:
    """A dropped candidate."""

    candidate: int  # its index among the candidates
    of: int  # index of the first kept candidate that it duplicates
    is_exact: bool
    similarity: float  # share of equal signature rows


def find_duplicates(
    found: Buckets, signatures_CP: U32, exact_C: npt.NDArray[np.void], n_kept: int, threshold: float
) -> Iterator[Duplicate]:
    """Go through the candidates in survivor order and yield the ones to drop.

    ``signatures_CP`` holds the candidates' signatures, which may be mapped from disk, ``exact_C`` their exact hashes.
    """
    needed = int(np.ceil(threshold * signatures_CP.shape[1] - 1e-9))  # rows; 0.75 x 112 is 84, not 85
    offsets = np.concatenate([[0], np.cumsum(found.sizes)])
    kept_members = np.empty(len(found.buckets), dtype=np.uint32)  # those of bucket b begin at offsets[b]
    n_members = np.zeros(len(found.sizes), dtype=np.int64)
    for candidate, rank in enumerate(found.candidates):
        buckets = found.buckets[found.starts[candidate] : found.starts[candidate + 1]]
        if rank >= n_kept:
            kept = [kept_members[offsets[b] : offsets[b] + n_members[b]] for b in buckets]
            duplicate = _first_match(candidate, np.unique(np.concatenate(kept)), signatures_CP, exact_C, needed)
            if duplicate is not None:
                yield duplicate
                continue
        kept_members[offsets[buckets] + n_members[buckets]] = candidate
        n_members[buckets] += 1


def _first_match(
    candidate: int, kept: U32, signatures_CP: U32, exact_C: npt.NDArray[np.void], needed: int
) -> Duplicate | None:
    same = np.flatnonzero(exact_C[kept] == exact_C[candidate])
    if len(same):
        return Duplicate(candidate, int(kept[same[0]]), True, 1.0)
    for start in range(0, len(kept), _BLOCK):
        block = kept[start : start + _BLOCK]
        equal = np.count_nonzero(signatures_CP[block] == signatures_CP[candidate], axis=1)
        matches = np.flatnonzero(equal >= needed)
        if len(matches):
            first = matches[0]
            return Duplicate(candidate, int(block[first]), False, float(equal[first] / signatures_CP.shape[1]))
    return None
