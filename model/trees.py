"""Sequences that begin alike, packed into one row so that the tokens they share are computed once.

The ten choices of a cloze, or the four endings of HellaSwag, follow one context. Packed, they are a tree: a token sees
the tokens on the path to it and nothing else, and its position is its depth. So attention with the tree's mask gives
each sequence what it would get alone, up to rounding. The layers between need not know about it.

Sequences are sorted, and a sequence is compared with the one before it. It joins that one's tree if this saves more
than it costs. The saving: 24 C^2 FLOP per layer for each token that is shared. The cost: 4 C FLOP per layer for each
pair of tokens that attention compares in vain, since the mask does not save work. So S shared tokens are worth 6 C S
pairs. Which sequences are packed together depends on the sequences alone, not on their order.

C is the width of the model, T the tokens of a tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MOST = 2_048  # tokens of a tree: its mask has one number per pair, 16 MB in fp32
Ids = npt.NDArray[np.int64]


class Tree:
    """Sequences in one row. ``ids`` and ``depths`` have one entry per token of the row."""

    def __init__(self, index: int, ids: Ids) -> None:
        self.length = len(ids)
        self.is_chain = True  # every sequence begins the next: the mask is the causal one
        self.paths = {index: np.arange(self.length)}  # where the tokens of each sequence are
        self._last = ids
        self._path = self.paths[index]
        self._pieces = [ids]
        self._depths = [self._path]
        self._branches = [(0, self._path[:0])]  # the first token of each piece, and what it has before it

    @property
    def ids(self) -> Ids:
        return np.concatenate(self._pieces)

    @property
    def depths(self) -> Ids:
        return np.concatenate(self._depths)

    def take(self, index: int, ids: Ids, most: int, width: int) -> bool:
        """Add a sequence, which is not before the last one in sorted order; False if that is not worth it.

        The tree grows to at most ``most`` tokens, and to no more than ``MOST``. A width of 0 allows no branches.
        """
        shared = _common(self._last, ids)
        added = len(ids) - shared
        grown = self.length + added
        if not width and added and shared < self.length:
            return False
        if grown > min(most, MOST) or grown**2 - self.length**2 - len(ids) ** 2 // 2 >= 6 * width * shared:
            return False
        before = self._path[:shared]
        self._path = np.concatenate([before, np.arange(self.length, grown)])
        self._last = ids
        self.paths[index] = self._path
        if added:
            self.is_chain = self.is_chain and shared == self.length
            self._branches.append((self.length, before))
            self._pieces.append(ids[shared:])
            self._depths.append(np.arange(shared, len(ids)))
            self.length = grown
        return True

    def mask(self, length: int) -> npt.NDArray[np.bool_]:
        """Which tokens each token sees, ``[length, length]``; padding sees itself, so that its softmax is defined."""
        sees = np.eye(length, dtype=bool)
        ends = [*(first for first, _ in self._branches[1:]), self.length]
        for (first, before), end in zip(self._branches, ends, strict=True):
            sees[first:end, before] = True
            sees[first:end, first:end] = np.tri(end - first, dtype=bool)
        return sees


def plan(sequences: Iterable[tuple[int, Ids]], most: int, width: int) -> list[Tree]:
    """Trees of the numbered sequences, the longest first."""
    trees: list[Tree] = []
    for index, ids in sorted(sequences, key=lambda sequence: sequence[1].astype(">u4").tobytes()):
        if not trees or not trees[-1].take(index, ids, most, width):
            trees.append(Tree(index, ids))
    return sorted(trees, key=lambda tree: -tree.length)


def additive(masks: Sequence[npt.NDArray[np.bool_]], like: Tensor) -> Tensor:
    """``[B, 1, T, T]``: 0 where a token sees another, else minus infinity; type and device are those of ``like``."""
    sees_BTT = torch.from_numpy(np.stack(masks)).to(like.device)
    unseen_BTT = torch.zeros(sees_BTT.shape, dtype=like.dtype, device=like.device)
    return unseen_BTT.masked_fill_(sees_BTT.logical_not_(), float("-inf"))[:, None]


def _common(one: Ids, other: Ids) -> int:
    """How many tokens both begin with."""
    n = min(len(one), len(other))
    differing = np.flatnonzero(one[:n] != other[:n])
    return int(differing[0]) if len(differing) else n
