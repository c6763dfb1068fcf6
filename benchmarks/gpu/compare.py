"""How far two results are apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def deviation(found: Tensor, reference: Tensor) -> float:
    """The norm of the difference as a share of the reference's norm; infinite if shapes differ or a number is not
    finite.
    """
    if found.shape != reference.shape:
        return math.inf
    wide = found.detach().double()
    reference = reference.detach().to(wide)
    norm = float(reference.norm())
    apart = float((wide - reference).norm())
    if not math.isfinite(apart):
        return math.inf
    return apart / norm if norm else (0.0 if apart == 0 else math.inf)


def largest_deviation(found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> tuple[str, float]:
    """The tensor that deviates most, and its deviation, which is infinite for a name that only one side has."""
    alone = sorted(found.keys() ^ reference.keys())
    if alone:
        return alone[0], math.inf
    return max(((name, deviation(found[name], reference[name])) for name in reference), key=lambda pair: pair[1])


def differing_bits(found: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that are not equal in every bit, those of one side included."""
    both = found.keys() & reference.keys()
    differing = {name for name in both if not _are_equal(found[name].cpu(), reference[name].cpu())}
    return sorted((found.keys() ^ reference.keys()) | differing)


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def furthest(found: Sequence[float], reference: Sequence[float]) -> float:
    """The largest difference of two series, infinite if their lengths differ or a number is not finite."""
    if len(found) != len(reference):
        return math.inf
    apart = [abs(a - b) for a, b in zip(found, reference, strict=True)]
    return max(apart, default=math.inf) if all(map(math.isfinite, apart)) else math.inf
