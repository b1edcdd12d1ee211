"""The regularizers: each a term of the loss that is small where units are, or where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.allocation.counts import check_ratio, num_pruned
from prunus.criteria import criterion, score_target
from prunus.errors import InputError, NameNotFound
from prunus.granularity import Granularity, Target, weight_targets
from prunus.granularity.targets import GraphLike
from prunus.regularizers.base import Groups, check_number
from prunus.selection import lowest_k


@dataclass(frozen=True)
class L1(Groups):
    """λ Σ |w|: single weights become small.

    Source: Tibshirani 1996.
    """

    granularity: str | Granularity = "element"
    name: str = "l1"

    def penalty(self, parts: Sequence[Tensor], counts: Tensor) -> Tensor:
        """Σ |w|."""
        return torch.stack([part.abs().sum() for part in parts]).sum()


@dataclass(frozen=True)
class GroupLasso(Groups):
    """λ Σ_g √|g| · ‖w_g‖₂: whole units become small; `size="none"` leaves √|g| out.

    Source: Yuan and Lin 2006; Wen et al. 2016, arXiv:1608.03665, without √|g|.
    """

    size: Literal["sqrt", "none"] = "sqrt"
    name: str = "group_lasso"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size not in ("sqrt", "none"):
            raise NameNotFound.of("size of group_lasso", str(self.size), ("sqrt", "none"))

    def penalty(self, parts: Sequence[Tensor], counts: Tensor) -> Tensor:
        """Σ_g √|g| · ‖w_g‖₂, or Σ_g ‖w_g‖₂."""
        norms = unit_norms(parts)
        return (norms * counts.to(norms.dtype).sqrt()).sum() if self.size == "sqrt" else norms.sum()


@dataclass(frozen=True)
class GroupVariance(Groups):
    """λ Σ_targets exp(−Var_g ‖w_g‖₂): the units of a tensor come to differ, so that it is plain which are needed.

    form: `exp`, or `inverse` for 1 / Var, as Distiller computes it, without bound where all units are equal.
    The variance divides by the number of units less one.
    Source: Torfi et al. 2018, arXiv:1802.09902.
    """

    form: Literal["exp", "inverse"] = "exp"
    name: str = "group_variance"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("exp", "inverse"):
            raise NameNotFound.of("form of group_variance", str(self.form), ("exp", "inverse"))

    def find(self, model: nn.Module, graph: GraphLike | None) -> list[Target]:
        """As any group's; raises InputError for a target of one unit, which has no variance."""
        targets = super().find(model, graph)
        for target in targets:
            if target.num_units < 2:
                raise InputError(f"{self.name}: {target.name} has {target.num_units} unit; exclude it from the targets")
        return targets

    def penalty(self, parts: Sequence[Tensor], counts: Tensor) -> Tensor:
        """exp(−Var) or 1 / Var of the units' norms."""
        variance = unit_norms(parts).var()
        return torch.exp(-variance) if self.form == "exp" else 1 / variance


@dataclass(frozen=True)
class BnL1(L1):
    """λ Σ |γ| over the scales of batch norms: channels that are not needed fade out (network slimming).

    targets: `*` is every batch norm; a pattern names scales (`stage2.*.weight`).
    Source: Liu et al. 2017, arXiv:1708.06519; λ = 1e-4 for VGG, 1e-5 for ResNet.
    """

    granularity: str | Granularity = field(default="element", init=False, repr=False)
    name: str = "bn_l1"

    def find(self, model: nn.Module, graph: GraphLike | None) -> list[Target]:
        """One target per scale; raises InputError where there is none."""
        norms = [(path, module) for path, module in model.named_modules() if isinstance(module, _BatchNorm)]
        scales = {f"{path}.weight" if path else "weight" for path, module in norms if module.affine}
        if not scales:
            raise InputError(f"{self.name}: {type(model).__name__} has no batch norm with a scale; take group_lasso")
        given = self.targets if isinstance(self.targets, Mapping) else {"name": self.targets}
        targets = weight_targets(model, "element", {"type": _BatchNorm.__name__, **given})
        found = [target for target in targets if target.name in scales]
        if not found:
            raise InputError(f"{self.name}: targets {self.targets!r} name no scale; one is {min(scales)}")
        return found


@dataclass(frozen=True)
class GrowingL2(Groups):
    """½ λ_t Σ_g ‖w_g‖² over the units that will be pruned, with λ_t growing from 0: they are eased out, not cut off.

    strength: δ, by which λ grows after every `every` steps, up to `ceiling`.
    ratio: the share of each target's units that is chosen, once, at the first step: the lowest by `criterion`.
    Source: Wang et al. 2021, arXiv:2012.09243, GReg-1: δ = 1e-4, every 10 steps (5 in its newer settings), ceiling 1.
    """

    ratio: float = 0.5
    every: int = 10
    ceiling: float = 1.0
    criterion: str = "l1"
    name: str = "growing_l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ceiling", self.ceiling)
        check_ratio("ratio", self.ratio)
        criterion(self.criterion)
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"every is {self.every!r}; a whole number of steps is wanted")

    def strength_at(self, step: int) -> float:
        """min(ceiling, δ · ⌊step / every⌋)."""
        return min(self.ceiling, self.strength * (step // self.every))

    def chosen(self, target: Target, params: Mapping[str, Tensor]) -> Tensor | None:
        """The `ratio` lowest units, as many as a uniform policy prunes; ties lowest index."""
        scores = score_target(target, params, criterion(self.criterion))
        return lowest_k([scores], num_pruned(self.ratio, len(scores)))[0]

    def penalty(self, parts: Sequence[Tensor], counts: Tensor) -> Tensor:
        """½ Σ_g ‖w_g‖²."""
        return 0.5 * torch.stack([part.square().sum() for part in parts]).sum()


def unit_norms(parts: Sequence[Tensor]) -> Tensor:
    """‖w_g‖₂ of each unit over all its tensors, (U,); the gradient of a unit of zeros is 0, not nan."""
    norms = torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts])
    whole: Tensor = torch.linalg.vector_norm(norms, dim=0)
    return whole
