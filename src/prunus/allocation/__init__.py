"""How much from each target: allocators, ratios, budgets."""

from prunus.allocation.base import Allocator, Measuring, Regrowing, RoundTo, ScoredTarget, auto_step
from prunus.allocation.budget import QUANTITIES, Budget, parse_budget
from prunus.allocation.counts import check_ratio, levelled, num_kept, num_pruned, with_floors
from prunus.allocation.curves import FromCurves, cut
from prunus.allocation.erdos_renyi import ErdosRenyi, ErdosRenyiKernel
from prunus.allocation.kinds import Global, PerLayer, Uniform, allocator
from prunus.allocation.lamp import Lamp, lamp_scores
from prunus.allocation.linear import Linear
from prunus.allocation.meeting import meet
from prunus.allocation.owl import Owl
from prunus.allocation.rulers import (
    Counts,
    Left,
    Ruler,
    check_quantity,
    dropped,
    is_structured,
    latency_ruler,
    left_of,
    ruler_of,
    structure_ruler,
    zeros_ruler,
)
from prunus.allocation.scoring import measure_for, score_for
from prunus.allocation.thresholds import Sensitivity, Splicing, Threshold
from prunus.allocation.timing import TOLERANCE, Timing, approach, meet_latency

__all__ = [
    "QUANTITIES",
    "TOLERANCE",
    "Allocator",
    "Budget",
    "Counts",
    "ErdosRenyi",
    "ErdosRenyiKernel",
    "FromCurves",
    "Global",
    "Lamp",
    "Left",
    "Linear",
    "Measuring",
    "Owl",
    "PerLayer",
    "Regrowing",
    "RoundTo",
    "Ruler",
    "ScoredTarget",
    "Sensitivity",
    "Splicing",
    "Threshold",
    "Timing",
    "Uniform",
    "allocator",
    "approach",
    "auto_step",
    "check_quantity",
    "check_ratio",
    "cut",
    "dropped",
    "is_structured",
    "lamp_scores",
    "latency_ruler",
    "left_of",
    "levelled",
    "measure_for",
    "meet",
    "meet_latency",
    "num_kept",
    "num_pruned",
    "parse_budget",
    "ruler_of",
    "score_for",
    "structure_ruler",
    "with_floors",
    "zeros_ruler",
]
