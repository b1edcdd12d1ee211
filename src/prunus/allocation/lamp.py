"""Layer-adaptive magnitude: a global ranking whose scores are comparable without any number to choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.allocation.base import ScoredTarget
from prunus.allocation.ranking import ranked_counts


@dataclass(frozen=True)
class Lamp:
    """Rank all units by w² / Σ w'², the sum over the units of the same target that are not weaker; the weakest go.

    w is a unit's score: |w| for `l1` on elements, a norm for filters. The strongest unit of every target scores 1, so
    that no target is emptied before all are.
    Source: Lee et al. 2021, arXiv:2010.07611, equation 4.
    """

    name: ClassVar[str] = "lamp"
    uses_progress: ClassVar[bool] = False

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; n:m targets keep their fixed number."""
        return ranked_counts(targets, fraction, lamp_scores)


def lamp_scores(scores: Tensor) -> Tensor:
    """Return w² / Σ_{v >= u} w_v² for scores sorted ascending, equal ones by index, as the paper indexes them.

    scores: (U,), any float dtype; what is below 0 counts as 0.
    Returns (U,) float64, in the order given; rising where scores rise, 1 at the last of the strongest.
    """
    ordered, order = scores.double().clamp(min=0).sort(stable=True)
    squares = (ordered / ordered[-1:].clamp(min=1e-300)).square()  # so that small numbers do not vanish when squared
    rest = squares.flip(0).cumsum(0).flip(0)
    found = torch.where(rest > 0, squares / rest, squares)
    return torch.empty_like(found).scatter_(0, order, found)
