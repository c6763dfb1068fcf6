"""Sums of decision trees over whole numbers, read from a file of arrays.

The trees are trained by benchmarks/blocks.py. Thresholds and leaves are whole numbers, so a sum of leaves is exact and
the same on any machine. A tree has ``2**depth`` leaves at most; shorter branches end in nodes that lead to themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_ROWS = 4_096  # at once, so that a page of 100,000 blocks needs little memory


@dataclass(frozen=True)
class Trees:
    """``t`` trees of at most ``m`` nodes. Node 0 is the root; a leaf leads to itself."""

    feature: npt.NDArray[np.int64]  # [t, m] column that the node looks at
    threshold: Ints  # [t, m] a row goes left if its value is at most this
    left: npt.NDArray[np.int64]  # [t, m]
    right: npt.NDArray[np.int64]  # [t, m]
    leaf: Ints  # [t, m] what a row that ends here adds
    depth: int  # steps from the root to the lowest leaf

    @classmethod
    def read(cls, arrays: Mapping[str, Any], name: str) -> Trees:
        """The trees that the arrays ``name.feature``, ``name.threshold`` .. describe."""
        feature, threshold, left, right, leaf = (
            np.asarray(arrays[f"{name}.{field}"], np.int64)
            for field in ("feature", "threshold", "left", "right", "leaf")
        )
        return cls(feature, threshold, left, right, leaf, int(arrays[f"{name}.depth"]))

    def sums(self, rows: Ints) -> Ints:
        """The sum of the leaves [n] that each of the rows [n, f] ends in."""
        blocks = [self._sums(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)

    def _sums(self, rows: Ints) -> Ints:
        n_trees, n_nodes = self.feature.shape
        starts = np.arange(n_trees) * n_nodes
        at = np.broadcast_to(starts, (len(rows), n_trees))
        feature, threshold = self.feature.ravel(), self.threshold.ravel()
        left, right = (self.left + starts[:, None]).ravel(), (self.right + starts[:, None]).ravel()
        first = (np.arange(len(rows)) * rows.shape[1])[:, None]
        values = rows.ravel()
        for _ in range(self.depth):
            at = np.where(values[first + feature[at]] <= threshold[at], left[at], right[at])
        sums: Ints = self.leaf.ravel()[at].sum(axis=1)
        return sums
