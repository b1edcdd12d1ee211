"""SparseSwaps: exchange a kept weight for a pruned one, the best pair of every row, until no pair helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from prunus.solvers.choice import Choice
from prunus.solvers.pattern import Pattern
from prunus.solvers.problem import Problem, problem_of
from prunus.solvers.quadratic import QuadraticSolver, refitted

_BATCH = 1 << 19  # elements of the pair tables that are worked on together: a few megabytes, near the processor
_ROUNDING = 1e-12  # of a row's energy: a smaller gain is no gain, or rounding would swap for ever


@dataclass(frozen=True)
class Swaps(QuadraticSolver):
    """Start from the largest |w_ij|·‖X_:,j‖ and end in a mask that no swap within a row improves.

    The start is chosen over the whole matrix, or per group of n:m (then swaps stay within groups).
    refit: what mends the weights afterwards: `lstsq`, `admm`, or `none` to leave them as they are.
    A mask that is given alone is only refitted; `improve_mask` swaps within it.
    Time R·swaps per row·C²/4 and the refit's; peak memory C² float64, and 10 MB (or C²) for a batch of rows.
    Source: Zimmer et al. 2025, arXiv:2512.10922; the refit is ours.
    """

    word: ClassVar[str] = "swaps"
    refit: str = "lstsq"

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        keep = choice.highest(problem.weight.abs() * problem.gram.diagonal().sqrt().to(problem.weight.dtype))
        if choice.fixed is None:
            keep = _swapped(problem, keep, choice.inside, choice.pattern)
        return refitted(self.refit, problem, keep), keep


def improve_mask(weight: Tensor, gram: Tensor, keep: Tensor, *, pattern: Pattern | None = None) -> Tensor:
    """Swap kept and pruned weights of a row while that lowers ‖X(W∘keep − W)ᵀ‖²; the best pair each time.

    weight: (R, C); gram: (C, C), the sum of x xᵀ; keep: (R, C) bool.
    pattern: swaps stay within its groups, so that an n:m mask remains one.
    Returns (R, C) bool with the same number kept in every row.
    Raises InputError for shapes that disagree.
    """
    problem = problem_of(weight.detach(), gram.detach().to(weight.device))
    choice = Choice.of(weight, keep, None, None)
    return _swapped(problem, choice.highest(problem.weight), None, pattern)


def _swapped(problem: Problem, keep: Tensor, inside: Tensor | None, pattern: Pattern | None) -> Tensor:
    keep, gram = keep.clone(), problem.gram.double()
    groups = _padded_groups(pattern, keep.shape[1]).to(keep.device)
    per_row = groups.shape[0] * groups.shape[1] ** 2
    for start in range(0, len(keep), step := max(1, _BATCH // per_row)):
        rows = slice(start, start + step)
        may_return = ~keep[rows] if inside is None else inside[rows] & ~keep[rows]
        state = _Rows.of(problem.weight[rows].double(), gram, keep[rows], may_return, groups)
        while state.swap_():
            pass
    return keep


def _padded_groups(pattern: Pattern | None, num_columns: int) -> Tensor:
    """Columns of every group, (G, largest size) int64, padded with -1; without a pattern one group of all."""
    groups = [torch.arange(num_columns).unsqueeze(0)] if pattern is None else pattern.groups(num_columns)
    size = max(group.shape[1] for group in groups)
    return torch.cat([functional.pad(group, (0, size - group.shape[1]), value=-1) for group in groups])


@dataclass
class _Rows:
    """A batch of rows in the course of being swapped: slots of pruned and kept weights, and what pairs would change.

    weight, pull: (B, C), pull = G(w∘pruned); keep: (B, C) bool, a view that is written to.
    out, kept: (B, G, P) and (B, G, K) int64, the columns in the slots of every group.
    pair: (B, G, P, K), −2·w_j·w_k·G_jk for pruned j and kept k, inf where a slot is empty.
    tolerance: (B,), a gain that is none.
    """

    weight: Tensor
    gram: Tensor
    keep: Tensor
    pull: Tensor
    out: Tensor
    kept: Tensor
    pair: Tensor
    tolerance: Tensor

    @classmethod
    def of(cls, weight: Tensor, gram: Tensor, keep: Tensor, may_return: Tensor, groups: Tensor) -> _Rows:
        """Lay out the slots."""
        out, out_real = _slots(may_return, groups)
        kept, kept_real = _slots(keep, groups)
        row = torch.arange(len(weight), device=weight.device).view(-1, 1, 1)
        pair = gram[out.unsqueeze(3), kept.unsqueeze(2)]
        pair.mul_(-2 * weight[row, out].unsqueeze(3)).mul_(weight[row, kept].unsqueeze(2))
        pair.masked_fill_(~(out_real.unsqueeze(3) & kept_real.unsqueeze(2)), torch.inf)
        energy = ((weight @ gram) * weight).sum(dim=1)
        pull = weight.masked_fill(keep, 0) @ gram
        return cls(weight, gram, keep, pull, out, kept, pair, _ROUNDING * energy)

    def swap_(self) -> bool:
        """Make the best swap of every row where one helps; return whether there was any."""
        if not self.pair.numel():
            return False
        row = torch.arange(len(self.weight), device=self.weight.device)
        own, crossed = self.weight.square() * self.gram.diagonal(), 2 * self.weight * self.pull
        change = self.pair + (own - crossed)[row.view(-1, 1, 1), self.out].unsqueeze(3)
        change += (own + crossed)[row.view(-1, 1, 1), self.kept].unsqueeze(2)
        best, place = change.flatten(1).min(dim=1)
        row = (best < -self.tolerance).nonzero().squeeze(1)
        num_out, num_kept = self.pair.shape[2:]
        slot, k = place[row] // num_kept, place[row] % num_kept
        self._exchange_(row, slot // num_out, slot % num_out, k)
        return bool(row.numel())

    def _exchange_(self, row: Tensor, group: Tensor, p: Tensor, k: Tensor) -> None:
        back, gone = self.out[row, group, p], self.kept[row, group, k]
        self.out[row, group, p], self.kept[row, group, k] = gone, back
        self.keep[row, back], self.keep[row, gone] = True, False
        w_back, w_gone = self.weight[row, back].unsqueeze(1), self.weight[row, gone].unsqueeze(1)
        self.pull[row] += w_gone * self.gram[gone] - w_back * self.gram[back]
        for place, column, size, others in (
            ((row, group, p), gone, w_gone, self.kept[row, group]),
            ((row, group, slice(None), k), back, w_back, self.out[row, group]),
        ):
            crossed = -2 * size * self.weight[row.unsqueeze(1), others] * self.gram[column.unsqueeze(1), others]
            self.pair[place] = torch.where(self.pair[place].isinf(), torch.inf, crossed)


def _slots(mask: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns where the mask is True, by group, (B, G, most), and which slots are real, bool."""
    there = mask[:, groups] & (groups >= 0)
    counts = there.sum(dim=2, keepdim=True)
    most = int(counts.max())
    at = there.int().argsort(dim=2, descending=True, stable=True)[:, :, :most]
    columns = groups.clamp_min(0).expand(len(mask), -1, -1).gather(2, at)
    return columns, torch.arange(most, device=mask.device) < counts
