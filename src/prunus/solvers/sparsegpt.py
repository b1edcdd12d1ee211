"""SparseGPT: one sweep over the columns, each pruned and its loss passed on to those that follow."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

import torch
from torch import Tensor

from prunus.selection import lowest_k
from prunus.solvers.base import check_counts, check_numbers
from prunus.solvers.choice import Choice
from prunus.solvers.pattern import Pattern
from prunus.solvers.problem import Problem, factored
from prunus.solvers.quadratic import QuadraticSolver, refitted


@dataclass(frozen=True)
class SparseGPT(QuadraticSolver):
    """Prune column by column; UᵀU = H⁻¹, so that U_jj² = [H⁻¹]_jj once the columns before j are gone.

    What is pruned of column j, e = w_j/U_jj, changes the later columns by −e⊗U_j.
    block: columns whose mask is chosen together, by w²/U_jj² over all rows and the block's columns; the number
        pruned up to the end of each block is the floor of its even share, and of the whole matrix exact. n:m is
        chosen per row when its first column is reached, and no block cuts a group.
    damping: H = G + damping·mean(diag G)·I.
    refit: a solver that mends the mask once more: `lstsq`, `admm`, or `none`.
    Time R·C² + C³; peak memory 3·R·C in the working dtype, and 4·C² float64.
    Source: Frantar & Alistarh 2023, arXiv:2301.00774, algorithm 1.
    """

    word: ClassVar[str] = "sparsegpt"
    block: int = 128
    damping: float = 0.01
    refit: str = "none"

    def __post_init__(self) -> None:
        check_counts(self.word, block=self.block)
        check_numbers(self.word, damping=self.damping)

    def _mend(self, problem: Problem, choice: Choice) -> tuple[Tensor, Tensor]:
        root = inverse_root(factored(problem.gram, self.damping).hessian).to(problem.weight.dtype)
        new, keep = self._sweep(problem.weight.clone(), root, choice)
        return (new if self.refit == "none" else refitted(self.refit, problem, keep)), keep

    def _sweep(self, weight: Tensor, root: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        keep = torch.ones_like(weight, dtype=torch.bool) if choice.fixed is None else choice.fixed
        blocks = _blocks(weight.shape[1], self.block, choice.pattern)
        shares = _pruned_per_block(choice, blocks)
        for columns, num_pruned in zip(blocks, shares, strict=True):
            if choice.num_kept is not None:
                scores = (weight[:, columns] / root.diagonal()[columns]).square()
                keep[:, columns] = _block_keep(scores, columns, choice, num_pruned)
            corner, rest = root[columns, columns], slice(columns.stop, None)
            lost = _prune_block_(weight[:, columns], keep[:, columns], corner, columns.start, choice)
            weight[:, rest] -= lost @ root[columns, rest]
        return weight, keep


def inverse_root(hessian: Tensor) -> Tensor:
    """Return the upper U with UᵀU = H⁻¹, (C, C), without forming the inverse.

    The Cholesky factor of H with rows and columns reversed, reversed again, is an upper T with TTᵀ = H; U = T⁻¹.
    """
    upper = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    root: Tensor = torch.linalg.solve_triangular(upper, torch.eye(len(hessian)).to(hessian), upper=True)
    return root


def _prune_block_(weight: Tensor, keep: Tensor, root: Tensor, start: int, choice: Choice) -> Tensor:
    """Prune a block of columns, (R, B), in place; return the losses e, (R, B), that the later columns make good.

    keep is a view of the mask; n:m writes its choice into it.
    """
    columns, losses = weight.T.contiguous(), torch.empty_like(weight.T)  # a column's numbers lie side by side
    pattern = choice.pattern
    ends = {} if pattern is None else dict(pattern.spans(choice.shape[1]))
    for i in range(len(columns)):
        if pattern is not None and start + i in ends:
            group = slice(i, ends[start + i] - start)
            scores = (columns[group].T / root.diagonal()[group]).square()
            keep[:, group] = _group_keep(scores, slice(start + i, ends[start + i]), choice, pattern)
        losses[i] = columns[i].masked_fill(keep[:, i], 0) / root[i, i]
        columns[i].masked_fill_(~keep[:, i], 0)
        columns[i + 1 :].addr_(root[i, i + 1 :], losses[i], alpha=-1)
    weight.copy_(columns.T)
    return losses.T


def _group_keep(scores: Tensor, at: slice, choice: Choice, pattern: Pattern) -> Tensor:
    inside = None if choice.inside is None else choice.inside[:, at]
    return Choice(scores.shape, inside, None, Pattern(pattern.n, pattern.m)).highest(scores)


def _block_keep(scores: Tensor, columns: slice, choice: Choice, num_pruned: int) -> Tensor:
    if choice.inside is not None:
        scores = scores.masked_fill(~choice.inside[:, columns], -torch.inf)
    return ~lowest_k([scores], num_pruned)[0]


def _blocks(num_columns: int, size: int, pattern: Pattern | None) -> list[slice]:
    """Cut the columns into blocks of `size`, or a little less where a group of n:m would be cut."""
    spans = [(i, i + 1) for i in range(num_columns)] if pattern is None else pattern.spans(num_columns)
    edges = [0]
    for start, end in spans:
        if end - edges[-1] > size and start > edges[-1]:
            edges.append(start)
    return [slice(start, end) for start, end in pairwise([*edges, num_columns])]


def _pruned_per_block(choice: Choice, blocks: list[slice]) -> list[int]:
    """Count what every block prunes: what was pruned before, and an even share of what is to go."""
    rows = choice.shape[0]
    sizes = [rows * (block.stop - block.start) for block in blocks]
    if choice.num_kept is None:
        return [0] * len(blocks)
    left = sizes if choice.inside is None else [int(choice.inside[:, block].sum()) for block in blocks]
    total = sum(left)
    gone = [(total - choice.num_kept) * seen // max(1, total) for seen in accumulate(left, initial=0)]
    shares = (end - start for start, end in pairwise(gone))
    return [size - rest + share for size, rest, share in zip(sizes, left, shares, strict=True)]
