"""Densities of a random graph: thin and small layers keep more, large ones less."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from prunus.allocation.base import ScoredTarget
from prunus.allocation.sharing import settled


@dataclass(frozen=True)
class ErdosRenyiKernel:
    """Keep a share of each layer that goes with (n_in + n_out + k_h + k_w) / (n_in · n_out · k_h · k_w).

    One factor ε for all layers is chosen so that the total is exact; a layer whose share would exceed what may stay of
    it stays whole, and ε is found for the others. A coupled group counts with the weights that make its units.
    Source: Evci et al. 2020, arXiv:1911.11134, section 3 (1).
    """

    name: ClassVar[str] = "erdos_renyi_kernel"
    uses_progress: ClassVar[bool] = False

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target."""
        return _counts(targets, fraction, kernel=True)


@dataclass(frozen=True)
class ErdosRenyi:
    """Keep a share of each layer that goes with (n_in + n_out) / (n_in · n_out), whatever its kernel.

    Source: Mocanu et al. 2018, arXiv:1707.04780, equation 1.
    """

    name: ClassVar[str] = "erdos_renyi"
    uses_progress: ClassVar[bool] = False

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; otherwise as `ErdosRenyiKernel`."""
        return _counts(targets, fraction, kernel=False)


def _counts(targets: Mapping[str, ScoredTarget], fraction: float, *, kernel: bool) -> dict[str, int]:
    shares = {name: _share(target, kernel=kernel) for name, target in targets.items()}
    # exp(-level) is ε over the least share: at -50 all is kept, at 50 nothing.
    least = min(shares.values(), default=1.0)
    return settled(
        targets,
        fraction,
        lambda level: {name: 1 - math.exp(-level) * share / least for name, share in shares.items()},
        low=-50.0,
        high=50.0,
    )


def _share(target: ScoredTarget, *, kernel: bool) -> float:
    """Return sum / product of the sizes that count; of several tensors, sums and products are added first."""
    shapes = [shape if kernel else shape[:2] for shape in target.shapes]
    product = sum(math.prod(shape) for shape in shapes)
    return sum(map(sum, shapes)) / product if product else 1.0
