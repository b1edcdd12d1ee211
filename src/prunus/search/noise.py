"""The normal distribution cut to an interval: AMC's exploration noise."""

from __future__ import annotations

import math

import torch


def truncated_normal(mean: float, sigma: float, low: float, high: float, generator: torch.Generator) -> float:
    """Draw from N(mean, sigma²) given that the value lies in [low, high], by the inverse of its distribution function.

    low <= mean <= high; sigma > 0.
    """
    below, above = (_phi((bound - mean) / sigma) for bound in (low, high))
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    value = mean + sigma * math.sqrt(2) * float(torch.erfinv(2 * (below + uniform * (above - below)) - 1))
    return min(high, max(low, value))


def _phi(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2
