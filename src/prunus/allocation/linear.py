"""Ratios that rise or fall with depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from prunus.allocation.base import ScoredTarget
from prunus.allocation.counts import check_ratio
from prunus.allocation.sharing import settled
from prunus.errors import InputError


@dataclass(frozen=True)
class Linear:
    """Ratios in a straight line from the first target to the last, all times one number so that the total is exact.

    first, last: ratios, 0 <= ratio < 1, not both 0. Where the targets are of one size and their mean is what is asked,
        they are met as they stand.
    """

    first: float
    last: float
    name: ClassVar[str] = "linear"
    uses_progress: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ratio("linear.first", self.first)
        check_ratio("linear.last", self.last)
        if not self.first and not self.last:
            raise InputError("linear.first and linear.last are both 0; one of them has to prune")

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target, in the order of the model; n:m targets keep their fixed number."""
        steps = max(1, len(targets) - 1)
        line = {name: self.first + (self.last - self.first) * i / steps for i, name in enumerate(targets)}
        # A ratio of next to nothing still reaches 1 at the end, where everything may be asked for.
        return settled(
            targets,
            fraction,
            lambda level: {name: level / (1 - level) * ratio for name, ratio in line.items()},
            low=0.0,
            high=1 - 1e-15,
        )
