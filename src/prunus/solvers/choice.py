"""What a solver may keep: a fixed mask, so many of all weights, or n of every m; inside a mask or everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.selection import lowest_k
from prunus.solvers.pattern import Pattern


@dataclass(frozen=True)
class Choice:
    """The request for one (R, C) matrix, checked.

    inside: (R, C) bool, where weights may be kept; None: everywhere.
    num_kept: how many are kept in all; None: as many as `pattern` or `inside` says.
    """

    shape: torch.Size
    inside: Tensor | None
    num_kept: int | None
    pattern: Pattern | None

    @classmethod
    def of(cls, weight: Tensor, keep: Tensor | None, density: float | None, pattern: Pattern | None) -> Choice:
        """Check a request; raises InputError when it contradicts itself or the weight."""
        if keep is None and density is None and pattern is None:
            raise InputError("nothing says what to keep; give keep=, density= or pattern=")
        if density is not None and pattern is not None:
            raise InputError(f"density={density} and pattern {pattern.n}:{pattern.m} both say how much; give one")
        if keep is not None and (keep.shape != weight.shape or keep.dtype != torch.bool):
            raise InputError(f"keep is {keep.dtype} {tuple(keep.shape)}; bool {tuple(weight.shape)} is wanted")
        inside = None if keep is None else keep.to(weight.device)
        return cls(weight.shape, inside, _num_kept(weight, inside, density), pattern)

    @property
    def fixed(self) -> Tensor | None:
        """The mask, (R, C) bool, where nothing is left to choose."""
        return self.inside if self.num_kept is None and self.pattern is None else None

    def highest(self, scores: Tensor) -> Tensor:
        """Keep the highest scores that the request allows, (R, C) bool; of equals the lowest index is pruned first."""
        if self.fixed is not None:
            return self.fixed
        if self.inside is not None:
            scores = scores.masked_fill(~self.inside, -torch.inf)
        if self.pattern is not None:
            keep = ~self.pattern.lowest(scores)
        else:
            assert self.num_kept is not None
            keep = ~lowest_k([scores], scores.numel() - self.num_kept)[0]
        return keep if self.inside is None else keep & self.inside


def _num_kept(weight: Tensor, inside: Tensor | None, density: float | None) -> int | None:
    if density is None:
        return None
    if not 0 <= density <= 1:
        raise InputError(f"density is {density}; a fraction between 0 and 1 is wanted")
    wanted = round(density * weight.numel())
    left = weight.numel() if inside is None else int(inside.sum())
    if wanted > left:
        raise InputError(
            f"density {density} of {tuple(weight.shape)} is {wanted} weights, but keep leaves {left}; "
            "lower the density or give keep= alone"
        )
    return wanted
