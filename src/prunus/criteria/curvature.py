"""Second order: what the loss's curvature says of removing a weight, without (OBD) or with mending the rest (OBS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from prunus.errors import InputError, NameNotFound, naming
from prunus.granularity import Piece
from prunus.solvers.exact_obs import removal_cost
from prunus.solvers.problem import factored
from prunus.statistics import Statistics, wide

Estimator = Literal["hutchinson", "ggn", "fisher"]
PROBES = 8


@dataclass(frozen=True)
class OptimalBrainDamage:
    """Score ½ H_qq w², summed over the unit: what the loss grows by at a minimum when weights do not interact.

    estimator: of H_qq. `hutchinson`: of the Hessian itself, by `probes` (8) random vectors per mini-batch; a score can
        be negative, where the loss would fall. `ggn`: of the Gauss-Newton matrix, exactly, by as many backward passes
        per sample as the output has numbers. `fisher`: mean of g² over single samples' gradients.
    Memory: one float32 per weight.
    Source: LeCun et al. 1990, Optimal Brain Damage.
    """

    estimator: Estimator = "hutchinson"
    probes: int | None = None

    def __post_init__(self) -> None:
        if self.estimator not in get_args(Estimator):
            raise NameNotFound.of("estimator of obd", str(self.estimator), get_args(Estimator))
        if self.probes is not None and self.estimator != "hutchinson":
            raise InputError(f"probes is {self.probes!r}, but {self.estimator} draws none; only hutchinson does")
        if self.probes is not None and (type(self.probes) is not int or self.probes < 1):
            raise InputError(f"probes of obd is {self.probes!r}; a whole number of at least 1 is wanted")

    @property
    def name(self) -> str:
        """`obd`, `obd(probes=…)`, `obd(estimator=…)`."""
        if self.estimator != "hutchinson":
            return f"obd(estimator={self.estimator})"
        return "obd" if self.probes is None else f"obd(probes={self.probes})"

    @property
    def needs(self) -> frozenset[str]:
        """The diagonal that the estimator gives."""
        probes = PROBES if self.probes is None else self.probes
        return frozenset(
            {{"hutchinson": f"hessian(probes={probes})", "ggn": "gauss_newton", "fisher": "fisher"}[self.estimator]}
        )

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        (need,) = self.needs
        curvature = statistics.mean(need, piece.param).to(wide(piece.tensor).dtype)
        return piece.table(curvature * wide(piece.tensor).square() / 2).sum(dim=1)


@dataclass(frozen=True)
class OptimalBrainSurgeon:
    """Score w² / (2 [H⁻¹]_qq), summed over the unit: what a layer's squared error grows by when the rest makes up.

    H = 2 (G + damping·mean(diag G)·I) of the layer, G = XᵀX over all calibration rows. What a weight reads that was
    always 0 scores 0. Where G is not positive definite, its damping grows as in the solvers, with a warning.
    A transposed convolution is exact where its kernel positions do not overlap (stride at least the kernel's size).
    Memory: G, and two float64 matrices of its size while a layer is scored.
    Source: Hassibi and Stork 1992; Frantar et al. 2022 (arXiv:2208.11580).
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        number = isinstance(self.damping, (int, float)) and not isinstance(self.damping, bool)
        if not number or not 0 <= self.damping < float("inf"):
            raise InputError(f"damping of obs is {self.damping!r}; a number of at least 0 is wanted")

    @property
    def name(self) -> str:
        """`obs` or `obs(damping=…)`."""
        return "obs" if self.damping == 0.01 else f"obs(damping={self.damping})"

    @property
    def needs(self) -> frozenset[str]:
        """The Gram matrix of what the weight reads."""
        return frozenset({"gram"})

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        with naming(piece.param):
            diagonals = [self._inverse_diagonal(gram) for gram in statistics.sum("gram", piece.param)]
        inverse = statistics.layers[piece.param].per_weight(torch.stack(diagonals))
        costs = removal_cost(piece.tensor.double(), inverse.expand(piece.tensor.shape))
        return piece.table(costs).sum(dim=1).to(wide(piece.tensor).dtype)

    def _inverse_diagonal(self, gram: Tensor) -> Tensor:
        """Return diag H⁻¹ of one group, (columns,) float64; infinite where the input was always 0."""
        alive = gram.diagonal() > 0
        inverse = torch.full((len(gram),), torch.inf, dtype=torch.float64, device=gram.device)
        if bool(alive.any()):
            lower = factored(gram[alive][:, alive], self.damping).lower
            inverse[alive] = torch.cholesky_inverse(lower).diagonal() / 2
        return inverse
