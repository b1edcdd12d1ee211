"""Scores and measures as an allocator reads them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunus.allocation.base import Allocator, Measuring
from prunus.criteria import Criterion, score_target
from prunus.granularity import Target
from prunus.statistics import Statistics, wide


def score_for(
    share: Allocator,
    target: Target,
    tensors: Mapping[str, Tensor],
    rank: Criterion,
    statistics: Statistics | None = None,
) -> Tensor:
    """Score a target as its allocator compares it, (U,), on the CPU.

    Where thresholds are in the criterion's own unit, nothing is normalised, and a coupled unit counts as much as its
    largest part: it goes when all of them are below. A criterion that says how its parts are joined has its way.
    """
    if getattr(share, "is_absolute", False):
        return score_target(target, tensors, rank, statistics, normalise="none", join="max").cpu()
    return score_target(target, tensors, rank, statistics).cpu()


@torch.no_grad()
def measure_for(share: Allocator, target: Target, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Return what the allocator goes by, read off all scored tensors of the target; nothing for most allocators."""
    if not isinstance(share, Measuring):
        return {}
    return share.measure(torch.cat([wide(tensors[part.param]).flatten() for part in target.scored]))
