"""Estimates with their uncertainty, over examples that come in clusters (documents).

Examples of one document are not independent, so standard errors are clustered (Miller, "Adding Error Bars to Evals",
2024, section 2.2). An accuracy's interval is Wilson's (1927) at the effective number of examples, n divided by the
design effect (Kish, 1965): the clustered variance divided by the binomial variance, and at least 1. With one example
per cluster it is the plain Wilson interval. A mean's interval is normal, 1.96 standard errors to each side; a
perplexity's interval is the exponential of the interval of its mean. BLEU, which is no ratio of sums, has
its error by the bootstrap over clusters.

Two models on the same examples are compared by the paired bootstrap (Efron and Tibshirani, 1993, chapters 13 and 16;
Koehn, 2004, for tests of NLP systems): whole documents are drawn, with the same draw for both models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Z = NormalDist().inv_cdf(0.975)
BOOTSTRAP_DRAWS = 1_000  # their standard error has an error of 1/sqrt(2 x 1,000) = 2.2 %
Floats = npt.NDArray[np.float64]
MAX_DRAWS = 10_000  # of the bootstrap: p = 0.05 is found to 0.0044 (two standard errors)
MIN_DRAWS = 1_000
MAX_DRAWN = 10**8  # clusters in all draws, about 5 s
CHUNK = 2**21  # clusters drawn at a time: 16 MB for their indices


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


@dataclass(frozen=True)
class Difference:
    """``value`` = b - a, with a 95 % interval and the two-sided p of no difference; see ``paired``."""

    a: float
    b: float
    value: float
    interval: tuple[float, float]
    p: float
    clusters: int
    draws: int


def paired(
    a: tuple[Sequence[float], Sequence[float]],
    b: tuple[Sequence[float], Sequence[float]],
    clusters: Sequence[object],
    statistic: Callable[[Floats, Floats], Floats],
    seed: int = 0,
) -> Difference:
    """The difference between two models, b - a, by the paired bootstrap over clusters.

    ``a`` and ``b`` are numerators and denominators of the same examples, and ``statistic`` makes a score of their sums:
    their quotient for a mean. The interval holds the middle 95 % of the differences of resampled clusters. p is the
    share of draws that are at least as far from the difference as it is from 0, with the difference itself counted as
    a draw, so p is never 0. There are 10,000 draws; for more than 10,000 clusters 1e8 / clusters, but at least 1,000.
    """
    sums = [_by_cluster(values, clusters)[0] for values in (*a, *b)]
    n = len(sums[0])
    draws = max(MIN_DRAWS, min(MAX_DRAWS, MAX_DRAWN // n))

    def difference(a_top: Floats, a_bottom: Floats, b_top: Floats, b_bottom: Floats) -> Floats:
        return statistic(b_top, b_bottom) - statistic(a_top, a_bottom)

    random = np.random.default_rng(seed)
    at_once = max(1, CHUNK // n)
    drawn = []
    for begin in range(0, draws, at_once):
        indices = random.integers(0, n, (min(at_once, draws - begin), n))
        drawn.append(difference(*(values[indices].sum(axis=1) for values in sums)))
    resampled = np.concatenate(drawn)
    tops = [np.array([values.sum()]) for values in sums]
    value = float(difference(*tops)[0])
    low, high = np.quantile(resampled, [0.025, 0.975])
    rounding = 1e-12 * float(np.abs(resampled).max(initial=abs(value)))  # equal differences must count as equal
    extreme = int((np.abs(resampled - value) >= abs(value) - rounding).sum())
    a_value, b_value = (float(statistic(*tops[i : i + 2])[0]) for i in (0, 2))
    p = (1 + extreme) / (1 + draws)
    return Difference(a_value, b_value, value, (float(low), float(high)), p, n, draws)


def bootstrap(
    rows: Floats, clusters: Sequence[object], of_sums: Callable[[Floats], float], draws: int = BOOTSTRAP_DRAWS
) -> Estimate:
    """A function of the sums of the columns of ``rows``, one row per example, such as BLEU of a corpus.

    Clusters are drawn with replacement (Efron, 1979), always with the same seed. The interval is between the 2.5 % and
    the 97.5 % quantile of the draws.
    """
    of_clusters = np.stack([_by_cluster(column, clusters)[0] for column in rows.T], axis=1)
    n = len(of_clusters)
    assert n > 1, "a clustered standard error needs two clusters"
    random = np.random.default_rng(0)
    found = [of_sums(np.bincount(random.integers(0, n, n), minlength=n) @ of_clusters) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(of_sums(rows.sum(0)), float(np.std(found, ddof=1)), (float(low), float(high)))


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
