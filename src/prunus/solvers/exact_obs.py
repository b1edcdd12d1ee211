"""ExactOBS: the greedy optimum, one weight at a time; the reference for the others on small layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunus.selection import lowest_k
from prunus.solvers.base import check_numbers
from prunus.solvers.choice import Choice
from prunus.solvers.least_squares import masked_least_squares
from prunus.solvers.pattern import Pattern
from prunus.solvers.problem import Problem, factored, row_batches
from prunus.solvers.quadratic import QuadraticSolver


@dataclass(frozen=True)
class ExactOBS(QuadraticSolver):
    """Remove, row by row, the weight with the least w²/[H⁻¹]_qq, mend the row, downdate H⁻¹, repeat.

    For a density every row is emptied and its losses noted; then the whole matrix loses, step by step, the next
    weight of the row where that costs least. n:m spares the groups that have lost m−n.
    damping: H = G + damping·mean(diag G)·I.
    All in float64. Time 2·R·C³ (n:m: less by the density); peak memory 5·C² float64 and 200 MB (or 3·C²) for a
    batch of rows, whatever R. A few hundred inputs are its range.
    Source: Frantar, Singh & Alistarh 2022, arXiv:2208.11580, algorithms 1 and 2.
    """

    word: ClassVar[str] = "obs"
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self.word, damping=self.damping)

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        hessian = factored(problem.gram, self.damping).hessian
        keep = _greedy(problem.weight.double(), hessian, choice) if choice.fixed is None else choice.fixed
        # Every removal leaves the optimum of what is left, so the last one is the least squares solution.
        return masked_least_squares(problem.weight, hessian, keep), keep


def removal_cost(weight: Tensor, inverse_diagonal: Tensor) -> Tensor:
    """Return w_q² / (2[H⁻¹]_qq), what ½ΔHΔᵀ grows by when q goes and the rest of its row is mended.

    weight: (..., C); inverse_diagonal: (..., C), of H⁻¹ over what is left of the row.
    Returns (..., C), finite also where rounding has eaten the diagonal.
    Source: Hassibi & Stork 1992.
    """
    return weight.square() / (2 * inverse_diagonal.clamp_min(1e-30))


def _greedy(weight: Tensor, hessian: Tensor, choice: Choice) -> Tensor:
    """Return the keep mask, (R, C)."""
    inside = torch.ones_like(weight, dtype=torch.bool) if choice.inside is None else choice.inside
    columns = torch.zeros_like(weight, dtype=torch.int64)
    largest = torch.full_like(weight, torch.inf)
    whole = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    for rows in row_batches(weight, weight.shape[1] ** 2):
        kept = inside[rows]
        start = masked_least_squares(weight[rows], hessian, kept)
        room = None if choice.pattern is None else _Room.of(choice.pattern, kept)
        _empty_rows_(start, _inverses(hessian, whole, kept), kept.clone(), room, columns[rows], largest[rows])
    if choice.num_kept is None:
        gone = largest.isfinite()
    else:  # the largest cost so far only grows along a row: the lowest of all are the greedy merge of the rows
        gone = lowest_k([largest], int(inside.sum()) - choice.num_kept)[0]
    went = torch.zeros_like(columns).scatter_add_(1, columns, gone.long())  # steps that never came name column 0
    return inside & (went == 0)


def _inverses(hessian: Tensor, whole: Tensor, inside: Tensor) -> Tensor:
    """Return H⁻¹ over what each row keeps, (B, C, C), 0 elsewhere."""
    if bool(inside.all()):
        return whole.repeat(len(inside), 1, 1)
    both = inside.unsqueeze(2) & inside.unsqueeze(1)
    padded = hessian * both + torch.diag_embed((~inside).to(hessian.dtype))
    return torch.cholesky_inverse(torch.linalg.cholesky(padded)).mul_(both)


def _empty_rows_(
    weight: Tensor, inverse: Tensor, alive: Tensor, room: _Room | None, columns: Tensor, largest: Tensor
) -> None:
    """Remove weights from every row of a batch in the greedy order, until none may go.

    weight, alive: (B, C) and inverse: (B, C, C) are used up.
    columns, largest: (B, C), by step: which weight went, and the largest cost of the row's removals so far.
    """
    worst = weight.new_zeros(len(weight))
    for step in range(weight.shape[1]):
        may_go = alive if room is None else alive & room.left
        costs = removal_cost(weight, inverse.diagonal(dim1=1, dim2=2)).masked_fill(~may_go, torch.inf)
        least, q = costs.min(dim=1)
        active = least.isfinite().nonzero().squeeze(1)
        if not active.numel():
            return
        q = costs.argmin(dim=1)[active]  # of equals the first, which `min` does not promise
        worst[active] = torch.maximum(worst, least)[active]
        columns[active, step], largest[active, step] = q, worst[active]
        alive[active, q] = False
        if room is not None:
            room.take_(active, q)
        _eliminate_(weight, inverse, active, q)


def _eliminate_(weight: Tensor, inverse: Tensor, rows: Tensor, q: Tensor) -> None:
    """Take weight q out of each row: the rest makes good, and H⁻¹ becomes that of the rest."""
    line = torch.zeros_like(weight)
    line[rows] = inverse[rows, q]
    pivot = torch.ones_like(weight[:, :1])
    pivot[rows, 0] = line[rows, q]
    removed = torch.zeros_like(pivot)
    removed[rows, 0] = weight[rows, q]
    weight -= removed / pivot * line
    weight[rows, q] = 0
    inverse.baddbmm_(line.unsqueeze(2), (line / pivot).unsqueeze(1), alpha=-1)
    inverse[rows, q] = 0
    inverse[rows, :, q] = 0


@dataclass
class _Room:
    """How many weights each group of n:m may still lose, per row; changes as they go.

    group: (C,) int64, the group of each column; free: (B, G) int64.
    """

    group: Tensor
    free: Tensor

    @classmethod
    def of(cls, pattern: Pattern, inside: Tensor) -> _Room:
        """Begin with what a mask, (B, C) bool, has pruned already."""
        sizes = [end - start for start, end in pattern.spans(inside.shape[1])]
        group = torch.repeat_interleave(torch.tensor(sizes)).to(inside.device)
        kept = torch.zeros(len(inside), len(sizes), dtype=torch.int64, device=inside.device)
        kept.index_add_(1, group, inside.long())
        return cls(group, kept - torch.tensor([pattern.num_kept(size) for size in sizes]).to(kept))

    @property
    def left(self) -> Tensor:
        """Where a weight may go, (B, C) bool."""
        return self.free[:, self.group] > 0

    def take_(self, rows: Tensor, columns: Tensor) -> None:
        """Note that one weight of each of these rows has gone."""
        self.free[rows, self.group[columns]] -= 1
