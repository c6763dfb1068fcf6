"""Who is compared with whom: documents that share a bucket, that is, the hash of a band. Arrays in, arrays out.

Documents are known by their *rank*: the place in the survivor order of all documents. Those that earlier snapshots
kept have ranks below ``n_before``. A document is compared with documents of lower rank.

In a bucket of at most ``ALL_PAIRS`` documents, each is compared with all before it. More are a *crowd*: copies of one
page, or unlike pages with the same boilerplate. Comparing all pairs of a crowd would take quadratic time, so each is
compared with a few *pivots*, one after the other:

- the first ``PIVOTS`` documents that earlier snapshots kept;
- then, at most ``PIVOTS`` times, the first document that resembles no pivot yet. Such a pivot is likely to be kept. In
  case it is not, the first ``_SPARE`` documents that do resemble one are pivots, too.

A document that resembles two pivots, spare ones aside, leaves the crowd. So in a crowd of copies, a few comparisons per
document are enough. If the pivots run out while unlike documents are left, the bucket says nothing about them: that is
reported, and only the other bands can still find their near-copies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.select.minhash import U32
from data.select.shingles import U64, unique

ALL_PAIRS = 32
PIVOTS = 64
_RESEMBLED = 2  # a document leaves a crowd after this many pivots
_SPARE = 2
_CHUNK = 100_000  # documents of a crowd whose signatures are in memory
_BLOCK = 8_192  # pairs per numpy call

Index = npt.NDArray[np.intp]


def shared_buckets(new: tuple[U64, U32], kept: Iterable[tuple[U64, U32]]) -> tuple[U64, U32]:
    """The hashes and ranks of the documents that share a bucket with a new one, sorted by hash, then rank.

    ``new`` and each of ``kept`` are the hashes of one band and the ranks. Memory grows with ``new`` and with what is
    found, not with ``kept``.
    """
    order = np.argsort(new[0])
    hashes = new[0][order]
    ranks = new[1][order]
    del order
    if not len(hashes):
        return hashes, ranks
    is_shared = np.zeros(len(hashes), dtype=np.bool_)
    same = hashes[1:] == hashes[:-1]
    is_shared[1:] |= same
    is_shared[:-1] |= same
    del same
    found: list[tuple[U64, U32]] = []
    for theirs, their_ranks in kept:
        order = np.argsort(theirs)  # near queries look at near places
        theirs = theirs[order]
        at = np.searchsorted(hashes, theirs)
        at[at == len(hashes)] = 0
        meets = hashes[at] == theirs
        is_shared[at[meets]] = True  # a bucket with several new documents is marked already
        found.append((theirs[meets], their_ranks[order[meets]]))
    all_hashes = np.concatenate([hashes[is_shared], *(one for one, _ in found)])
    all_ranks = np.concatenate([ranks[is_shared], *(one for _, one in found)])
    order = np.lexsort((all_ranks, all_hashes))
    return all_hashes[order], all_ranks[order]


@dataclass(frozen=True)
class Meetings:
    """The pairs of small buckets, and the members of crowds."""

    pairs: U64  # rank of the later document << 32 | rank of the earlier one; sorted, each once
    crowds: U32  # [m] the number of a member's crowd, ascending
    members: U32  # [m] its rank, ascending within a crowd


def meetings(hashes: U64, ranks: U32, n_before: int) -> Meetings:
    """What to compare, given the result of ``shared_buckets``."""
    firsts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.zeros(0, int)
    lengths = np.diff(np.append(firsts, len(hashes)))
    is_crowd = np.repeat(lengths > ALL_PAIRS, lengths)
    ends = np.repeat(firsts + lengths, lengths)
    pairs = []
    earlier = np.flatnonzero(~is_crowd)
    for distance in range(1, ALL_PAIRS):
        earlier = earlier[earlier + distance < ends[earlier]]
        if not len(earlier):
            break
        later = ranks[earlier + distance]
        chosen = later >= n_before
        pairs.append((later[chosen].astype(np.uint64) << np.uint64(32)) | ranks[earlier[chosen]])
    numbers = np.repeat(np.cumsum(lengths > ALL_PAIRS) - 1, lengths)
    place = np.arange(len(ranks)) - np.repeat(firsts, lengths)
    wanted = is_crowd & ((ranks >= n_before) | (place < PIVOTS))
    return Meetings(
        unique(np.concatenate(pairs)) if pairs else np.empty(0, dtype=np.uint64),
        numbers[wanted].astype(np.uint32),
        ranks[wanted],
    )


def split(pairs: U64) -> tuple[U32, U32]:
    """The later and the earlier documents of pairs."""
    return (pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32)


def equal_rows(signatures: U32, a: Index, b: Index) -> U32:
    """In how many rows the signatures at the indexes ``a`` and ``b`` agree, pair by pair."""
    counts = np.empty(len(a), dtype=np.uint32)
    for start in range(0, len(a), _BLOCK):
        some = slice(start, start + _BLOCK)
        counts[some] = np.count_nonzero(signatures[a[some]] == signatures[b[some]], axis=1)
    return counts


@dataclass
class Crowd:
    """One crowd. Iterating compares; afterwards ``left`` holds indexes of unlike documents that no pivot was left for.

    ``members`` are indexes into ``signatures``, in survivor order, ``n_kept`` of them kept by earlier snapshots.
    """

    signatures: U32
    members: Index
    n_kept: int
    lowest: int  # rows that must agree for a pair to be worth verifying
    needed: int  # rows that must agree for a document to resemble a pivot

    def __post_init__(self) -> None:
        self.left = np.empty(0, dtype=np.intp)

    def __iter__(self) -> Iterator[tuple[Index, int, U32]]:
        """Yields the indexes of documents, the index of their pivot, and the number of equal rows."""
        pivots = [int(one) for one in self.members[: min(self.n_kept, PIVOTS)]]
        spare: set[int] = set()
        n_allowed = len(pivots) + PIVOTS
        left = []
        new = self.members[self.n_kept :]
        for start in range(0, len(new), _CHUNK):
            chunk = new[start : start + _CHUNK]
            signed = np.ascontiguousarray(self.signatures[chunk])
            resembled = np.zeros(len(chunk), dtype=np.uint8)
            waiting = np.arange(len(chunk))  # in the crowd still
            turn = 0
            while len(waiting):
                if turn == len(pivots):
                    fresh = waiting if len(spare) < _SPARE else waiting[resembled[waiting] == 0]
                    if not len(fresh) or len(pivots) - len(spare) == n_allowed:
                        break
                    pivots.append(int(chunk[fresh[0]]))
                    if resembled[fresh[0]]:
                        spare.add(turn)
                    waiting = waiting[waiting > fresh[0]]
                pivot = pivots[turn]
                equal = np.count_nonzero(signed[waiting] == self.signatures[pivot], axis=1).astype(np.uint32)
                worth = equal >= self.lowest
                if worth.any():
                    yield chunk[waiting[worth]], pivot, equal[worth]
                    if turn not in spare:
                        resembled[waiting[equal >= self.needed]] += 1
                        waiting = waiting[resembled[waiting] < _RESEMBLED]
                turn += 1
            left.append(chunk[waiting[resembled[waiting] == 0]])
        if left:
            self.left = np.concatenate(left)
