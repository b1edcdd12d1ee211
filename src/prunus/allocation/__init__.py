"""How much from each target: allocators, ratios, budgets."""

from prunus.allocation.base import Allocator, ScoredTarget
from prunus.allocation.budget import QUANTITIES, Budget, parse_budget
from prunus.allocation.counts import check_ratio, levelled, num_pruned, with_floors
from prunus.allocation.kinds import Global, PerLayer, Threshold, Uniform, allocator

__all__ = [
    "QUANTITIES",
    "Allocator",
    "Budget",
    "Global",
    "PerLayer",
    "ScoredTarget",
    "Threshold",
    "Uniform",
    "allocator",
    "check_ratio",
    "levelled",
    "num_pruned",
    "parse_budget",
    "with_floors",
]
