"""Sums of decision trees over whole numbers, read from a file of arrays.

The trees are trained by benchmarks/blocks.py. Thresholds and leaves are whole numbers, so a sum of leaves is exact and
the same on any machine.
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
    """``t`` trees, whose nodes are numbered through. A leaf leads to itself."""

    feature: Ints  # [nodes] column that the node looks at
    threshold: Ints  # [nodes] a row goes left if its value is at most this
    children: Ints  # [2 * nodes] the left and the right child of each node
    leaf: Ints  # [nodes] what a row that ends here adds
    roots: Ints  # [t]
    depth: int  # steps from the root to the lowest leaf

    @classmethod
    def read(cls, arrays: Mapping[str, Any], name: str) -> Trees:
        """The trees that the arrays ``name.feature``, ``name.threshold`` .. [t, m] describe. Node 0 is the root."""
        feature, threshold, left, right, leaf = (
            np.asarray(arrays[f"{name}.{field}"], np.int64)
            for field in ("feature", "threshold", "left", "right", "leaf")
        )
        roots = np.arange(len(feature)) * feature.shape[1]
        children = np.stack([left, right], axis=2) + roots[:, None, None]
        depth = int(arrays[f"{name}.depth"])
        return cls(feature.ravel(), threshold.ravel(), children.ravel(), leaf.ravel(), roots, depth)

    def sums(self, rows: Ints) -> Ints:
        """The sum of the leaves [n] that each of the rows [n, f] ends in."""
        blocks = [self._sums(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)

    def _sums(self, rows: Ints) -> Ints:
        at = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        values = rows.ravel()
        first = (np.arange(len(rows)) * rows.shape[1])[:, None]
        for _ in range(self.depth):
            is_right = values.take(first + self.feature.take(at)) > self.threshold.take(at)
            at = self.children.take(2 * at + is_right)
        sums: Ints = self.leaf.take(at).sum(axis=1)
        return sums
