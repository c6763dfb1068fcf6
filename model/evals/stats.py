"""Estimates with their uncertainty, over examples that come in clusters (documents).

Examples of one document are not independent, so standard errors are clustered (Miller, "Adding Error Bars to Evals",
2024, section 2.2). An accuracy's interval is Wilson's (1927) at the effective number of examples, n divided by the
design effect (Kish, 1965): the clustered variance divided by the binomial variance, and at least 1. With one example
per cluster it is the plain Wilson interval. A mean's interval is normal, 1.96 standard errors to each side; a
perplexity's interval is the exponential of the interval of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Z = NormalDist().inv_cdf(0.975)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, and a 95 % interval."""

    value: float
    stderr: float
    interval: tuple[float, float]

    def exp(self) -> Estimate:
        """The perplexity for a mean in nats, with a standard error by the delta method."""
        low, high = self.interval
        return Estimate(math.exp(self.value), math.exp(self.value) * self.stderr, (math.exp(low), math.exp(high)))

    def scaled(self, factor: float) -> Estimate:
        low, high = self.interval
        return Estimate(self.value * factor, self.stderr * factor, (low * factor, high * factor))

    def baseline(self) -> dict[str, Any]:
        return {"value": self.value, "interval": list(self.interval)}


def ratio(numerators: Sequence[float] | Floats, denominators: Sequence[float] | Floats) -> Estimate:
    """Sum of numerators over sum of denominators, with a standard error by linearization.

    There is one pair per cluster, and at least two clusters.
    """
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.asarray(denominators, dtype=np.float64)
    clusters = len(top)
    assert clusters > 1, "a clustered standard error needs two clusters"
    value = float(top.sum() / bottom.sum())
    residuals = top - value * bottom
    stderr = math.sqrt(clusters / (clusters - 1) * float((residuals**2).sum())) / float(bottom.sum())
    return Estimate(value, stderr, (value - Z * stderr, value + Z * stderr))


def bits_per_byte(nats: Sequence[float] | Floats, n_bytes: Sequence[int] | Sequence[float] | Floats) -> Estimate:
    """All nats, in bits, over all bytes of the texts; one pair per cluster."""
    return ratio(nats, n_bytes).scaled(1 / math.log(2))


def mean(values: Sequence[float] | Floats, clusters: Sequence[object]) -> Estimate:
    """The mean over all values; ``clusters[i]`` names the cluster of ``values[i]``."""
    return ratio(*_by_cluster(values, clusters))


def accuracy(earned: Sequence[float] | Floats, clusters: Sequence[object]) -> Estimate:
    """The mean of the examples' credits, each in [0, 1], with Wilson's interval; see the module."""
    clustered = mean(earned, clusters)
    n = len(earned)
    p = clustered.value
    binomial = p * (1 - p) / n
    design_effect = max(1.0, clustered.stderr**2 / binomial) if binomial > 0 else 1.0
    return Estimate(p, clustered.stderr, wilson(p, n / design_effect))


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion ``p`` of ``n``."""
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return (0.0 if p == 0 else centre - half), (1.0 if p == 1 else centre + half)


def _by_cluster(values: Sequence[float] | Floats, clusters: Sequence[object]) -> tuple[Floats, Floats]:
    """The sum and the number of the values of each cluster."""
    indices: dict[object, int] = {}
    of = np.array([indices.setdefault(cluster, len(indices)) for cluster in clusters])
    sums = np.bincount(of, weights=np.asarray(values, dtype=np.float64))
    return sums.astype(np.float64), np.bincount(of).astype(np.float64)
