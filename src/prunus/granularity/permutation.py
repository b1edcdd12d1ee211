"""An order of input channels in which n:m keeps more saliency: greedy swaps between groups of m."""

from __future__ import annotations

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.granularity.kinds import NM

_CHUNK = 1 << 16  # elements of one intermediate result: it stays in the second-level cache


def kept_saliency(scores: Tensor, n: int, m: int) -> float:
    """Sum the scores that n:m keeps in a matrix (R, C), in float64."""
    units = NM(n, m).units(scores.shape)
    return float(scores.double()[units.scatter(units.pick(scores.reshape(-1), 0))].sum())


@torch.no_grad()
def permutation_for(scores: Tensor, n: int, m: int) -> Tensor:
    """Order the columns so that n:m keeps more: swap the best pair of columns, group by group, until none helps.

    scores: (R, C), finite, low = prune; several layers that read the same inputs are stacked along R. Every visit to a
        group costs 2·m·R·C operations, and memory beside the scores and a copy of them is a few R·C.
    Returns (C,) int64: column i of the new order is column order[i] of the old. It never keeps less than the old one;
        where nothing helps it is the identity. Deterministic.
    Raises InputError for other scores, and where a group of m does not fit.
    Source: Pool & Yu 2021, Channel Permutations for N:M Sparsity, NeurIPS, section 4: greedy channel swaps.
    """
    if scores.dim() != 2 or not scores.is_floating_point() or not bool(scores.isfinite().all()):
        raise InputError(
            f"scores are {scores.dtype} {tuple(scores.shape)}; a finite float matrix (rows, inputs) is wanted"
        )
    NM(n, m).units(scores.shape)
    search = _Search(scores, n, m)
    waiting = len(search.groups)
    turn = 0
    while waiting:
        improved = search.improve_(turn)
        waiting = len(search.groups) if improved else waiting - 1
        turn = turn if improved else (turn + 1) % len(search.groups)
    order = search.order
    is_better = kept_saliency(scores[:, order], n, m) > kept_saliency(scores, n, m)
    return order if is_better else torch.arange(len(order), device=order.device)


class _Search:
    """The state of a search: columns as rows, (C, R), in their present order.

    A group without column a keeps the n best of each row, in all rest[a]; a column b in its place adds what it exceeds
    the n-th best by, bar[a]: rest[a] + Σ_r max(0, b_r - bar[a]_r). So all swaps are judged without sorting again.
    """

    def __init__(self, scores: Tensor, n: int, m: int) -> None:
        dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
        self.columns = scores.T.to(dtype, copy=True).contiguous()
        num = len(self.columns)
        self.groups = [slice(start, min(start + m, num)) for start in range(0, num, m)]
        self.order = torch.arange(num, device=scores.device)
        self._n, self._m = n, m
        self._lowest = self.columns.min() if self.columns.numel() else 0.0
        self._rest = self.columns.new_zeros(num)
        self._bar = torch.zeros_like(self.columns)
        self._kept = self.columns.new_zeros(num)  # what the group of each column keeps
        for group in self.groups:
            self._refresh_(group)

    def improve_(self, number: int) -> bool:
        """Make the best swap between one group and all others, if any keeps more."""
        group = self.groups[number]
        gain = self._gains(group)
        best = gain.max()
        # a gain within rounding could be undone by the next visit, for ever
        if best <= 100 * torch.finfo(gain.dtype).eps * float(self._kept.abs().max()):
            return False
        a, b = divmod(int((gain == best).flatten().nonzero()[0]), gain.shape[1])
        pair, swapped = [group.start + a, b], [b, group.start + a]
        self.columns[pair] = self.columns[swapped]
        self.order[pair] = self.order[swapped]
        self._refresh_(group)
        self._refresh_(self.groups[b // self._m])
        return True

    def _gains(self, group: slice) -> Tensor:
        """Return what swapping each column of the group, (m), with each of all columns, (C), adds to the sum kept."""
        own, bar = self.columns[group], self._bar[group]
        there, here = self._rest[group, None].repeat(1, len(self.columns)), self._rest.repeat(len(own), 1)
        step = max(1, _CHUNK // max(1, own.numel()))
        for start in range(0, len(self.columns), step):
            some = slice(start, start + step)
            there[:, some] += (self.columns[some] - bar[:, None]).clamp_(min=0).sum(dim=-1)
            here[:, some] += (own[:, None] - self._bar[some]).clamp_(min=0).sum(dim=-1)
        gain = there + here - self._kept[group, None] - self._kept
        gain[:, group] = 0
        return gain

    def _refresh_(self, group: slice) -> None:
        """Compute rest, bar and kept of a group's columns anew."""
        columns = self.columns[group]
        size = len(columns)
        num_kept = -(-size * self._n // self._m)
        self._kept[group] = columns.topk(num_kept, dim=0).values.sum()
        for a in range(size):
            others = torch.cat([columns[:a], columns[a + 1 :]])
            if num_kept == size:  # nothing is pruned here: a column adds all that it is
                self._bar[group.start + a] = self._lowest
                self._rest[group.start + a] = others.sum() + self._lowest * columns.shape[1]
            else:
                best = others.topk(num_kept, dim=0).values
                self._bar[group.start + a] = best[-1]
                self._rest[group.start + a] = best.sum()
