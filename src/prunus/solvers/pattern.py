"""n of every m along a matrix's columns, with groups that restart at every segment."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.granularity.checks import check_size
from prunus.selection import lowest_k_per_row


@dataclass(frozen=True)
class Pattern:
    """n weights *kept* of every m consecutive columns.

    segment: groups restart every so many columns (a convolution's columns, ordered (kh, kw, C_in), have
        segments of C_in); None: one segment. A last, short group of r columns keeps ceil(r·n/m).
    """

    n: int
    m: int
    segment: int | None = None

    def __post_init__(self) -> None:
        sizes = {"n": self.n, "m": self.m, "segment": 1 if self.segment is None else self.segment}
        for key, value in sizes.items():
            check_size(f"pattern {key}", value)
        if self.n >= self.m:
            raise InputError(f"pattern {self.n}:{self.m} prunes nothing: n is the number kept of every m; write n < m")

    def num_kept(self, size: int) -> int:
        """How many weights a group of `size` columns keeps."""
        return -(-size * self.n // self.m)

    def spans(self, num_columns: int) -> list[tuple[int, int]]:
        """First column of every group, and the one after its last."""
        segment = self.segment or max(1, num_columns)
        if num_columns % segment:
            raise InputError(
                f"pattern {self.n}:{self.m}: {num_columns} columns do not divide into segments of {segment}; "
                "give the number of inputs per kernel position"
            )
        starts = [at + start for at in range(0, num_columns, segment) for start in range(0, segment, self.m)]
        return list(pairwise([*starts, num_columns]))

    def groups(self, num_columns: int) -> list[Tensor]:
        """Columns of every group, (G, size) int64, one tensor for each size that occurs."""
        by_size: dict[int, list[list[int]]] = {}
        for start, end in self.spans(num_columns):
            by_size.setdefault(end - start, []).append(list(range(start, end)))
        return [torch.tensor(columns) for columns in by_size.values()]

    def lowest(self, scores: Tensor) -> Tensor:
        """Mark what the pattern prunes: the lowest scores of every group, (R, C) bool; ties lowest column first."""
        pruned = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
        for columns in self.groups(scores.shape[1]):
            columns = columns.to(scores.device)
            size = columns.shape[1]
            group = scores[:, columns]
            pruned[:, columns] = lowest_k_per_row(group.reshape(-1, size), size - self.num_kept(size)).view(group.shape)
        return pruned
