"""Views of one tensor as units, [units, elements], and back from pruned units to a mask.

Three shapes of unit cover everything: tiles of a regular grid (elements, vectors, blocks, kernels, filters,
channels), elements that are chosen n of m (`NMUnits`), and slices at given positions of one dim
(`MemberUnits`, for coupled groups).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from prunus.errors import InputError
from prunus.selection import lowest_k, lowest_k_per_row


class Units(ABC):
    """One tensor seen as [units, elements]; each unit is pruned whole or kept whole.

    shape: the tensor's shape.
    num_units: U.
    counts: (U,) int64, the real elements of each unit, without padding.
    fixed: how many units are pruned whatever the ratio (n:m), else None.
    is_slice: whether a unit is all that lies at one place of one dim, so that pruning it can shrink the
        tensor.
    """

    fixed: int | None = None
    is_slice: bool = False

    def __init__(self, shape: Sequence[int], counts: Tensor) -> None:
        self.shape = torch.Size(shape)
        self.counts = counts
        self.num_units = counts.numel()

    @property
    def is_ragged(self) -> bool:
        """Whether units differ in size."""
        is_one_number = not any(self.counts.stride())  # as many as there are weights, where units are elements
        return not is_one_number and bool(self.counts.min() < self.counts.max())

    @abstractmethod
    def gather(self, tensor: Tensor) -> Tensor:
        """Return the elements as (U, E); short units are padded with 0. A view where the layout allows it."""

    @abstractmethod
    def scatter(self, pruned: Tensor) -> Tensor:
        """Return the keep mask, bool of the tensor's shape, for the pruned units, (U,) bool."""

    def pick(self, scores: Tensor, num_pruned: int) -> Tensor:
        """Mark the `num_pruned` lowest scores, (U,); ties lowest unit first. n:m picks its own number."""
        return lowest_k([scores], num_pruned)[0]

    def _check(self, tensor: Tensor) -> None:
        if tensor.shape != self.shape:
            raise InputError(f"a tensor of shape {tuple(tensor.shape)} was given to units of {tuple(self.shape)}")

    def _check_pruned(self, pruned: Tensor) -> None:
        if pruned.shape != (self.num_units,) or pruned.dtype != torch.bool:
            raise InputError(
                f"pruned units are {pruned.dtype} {tuple(pruned.shape)}; bool ({self.num_units},) is wanted"
            )


class TileUnits(Units):
    """Tiles of a grid over the tensor; the last tile of a dim may be short.

    shape: the tensor's shape.
    tile: the tile's size per dim of `grid_shape`.
    grid_shape: the shape that the tensor is viewed as first (same number of elements); by default its own.
    Units are numbered row-major over the grid, elements row-major within the tile.
    """

    def __init__(
        self,
        shape: Sequence[int],
        tile: Sequence[int],
        grid_shape: Sequence[int] | None = None,
        *,
        is_slice: bool = False,
    ) -> None:
        self._view = tuple(shape if grid_shape is None else grid_shape)
        self._tile = tuple(max(1, size) for size in tile)
        self._grid = tuple(math.ceil(size / t) for size, t in zip(self._view, self._tile, strict=True))
        self.is_slice = is_slice
        super().__init__(shape, _tile_counts(self._view, self._tile, self._grid))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return (U, E), E = the product of the tile's sizes."""
        self._check(tensor)
        viewed = tensor.reshape(self._view)
        padding = [g * t - s for g, t, s in zip(self._grid, self._tile, self._view, strict=True)]
        if any(padding):
            viewed = functional.pad(viewed, [n for last in reversed(padding) for n in (0, last)])
        split = viewed.reshape([size for pair in zip(self._grid, self._tile, strict=True) for size in pair])
        num_dims = len(self._grid)
        order = [*range(0, 2 * num_dims, 2), *range(1, 2 * num_dims, 2)]
        return split.permute(order).reshape(self.num_units, math.prod(self._tile))

    def scatter(self, pruned: Tensor) -> Tensor:
        """Return the keep mask of the tensor's shape."""
        self._check_pruned(pruned)
        mask = ~pruned.reshape(self._grid)
        for dim, (tile, size) in enumerate(zip(self._tile, self._view, strict=True)):
            if tile > 1:
                mask = mask.repeat_interleave(tile, dim=dim).narrow(dim, 0, size)
        return mask.reshape(self.shape).contiguous()


def _tile_counts(view: tuple[int, ...], tile: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Count the real elements of every tile; without short tiles all are alike and no memory is taken."""
    if all(size % t == 0 for size, t in zip(view, tile, strict=True)):
        return torch.tensor(math.prod(tile)).expand(math.prod(grid))
    counts = torch.ones((), dtype=torch.int64)
    for size, t, g in zip(view, tile, grid, strict=True):
        counts = counts.unsqueeze(-1) * (size - t * torch.arange(g)).clamp(max=t)
    return counts.reshape(-1)


class NMUnits(TileUnits):
    """Single elements of which n of every m along dim 1 are kept, per row and kernel position.

    A last, short group of length r keeps ceil(r·n/m).
    """

    def __init__(self, shape: Sequence[int], n: int, m: int) -> None:
        super().__init__(shape, [1] * len(shape))
        self._n, self._m = n, m
        length = self.shape[1]
        lines = self.shape.numel() // length
        self.fixed = lines * sum(size - self._kept(size) for size in self._group_sizes(length))

    def pick(self, scores: Tensor, num_pruned: int) -> Tensor:
        """Mark the lowest m−n of every group of m, whatever `num_pruned` says; ties lowest input first."""
        lines = scores.reshape(self.shape).movedim(1, -1)
        pruned = torch.empty(lines.shape, dtype=torch.bool, device=scores.device)
        full = self.shape[1] // self._m * self._m
        for part in (slice(0, full), slice(full, None)):
            group = lines[..., part]
            if group.shape[-1]:
                size = self._m if part.start == 0 else group.shape[-1]
                chosen = lowest_k_per_row(group.reshape(-1, size), size - self._kept(size))
                pruned[..., part] = chosen.reshape(group.shape)
        return pruned.movedim(-1, 1).reshape(-1)

    def _kept(self, size: int) -> int:
        return -(-size * self._n // self._m)

    def _group_sizes(self, length: int) -> list[int]:
        rest = length % self._m
        return [self._m] * (length // self._m) + [rest] * bool(rest)


class MemberUnits(Units):
    """The slices of one dim that belong to each unit of a coupled group.

    shape: the tensor's shape; dim: the dim that is cut.
    index: (U, k) int64, the positions in `dim` of each unit; no position occurs twice.
    A position that no unit names is never pruned.
    """

    is_slice = True

    def __init__(self, shape: Sequence[int], dim: int, index: Tensor) -> None:
        size = torch.Size(shape)
        per_position = size.numel() // size[dim] if size[dim] else 0
        super().__init__(size, torch.tensor(index.shape[1] * per_position).expand(index.shape[0]))
        self.dim, self.index = dim, index

    def gather(self, tensor: Tensor) -> Tensor:
        """Return (U, k · elements per position)."""
        self._check(tensor)
        rows = tensor.movedim(self.dim, 0).index_select(0, self.index.reshape(-1).to(tensor.device))
        return rows.reshape(self.num_units, -1) if rows.numel() else rows.new_zeros(self.num_units, 0)

    def scatter(self, pruned: Tensor) -> Tensor:
        """Return the keep mask of the tensor's shape."""
        self._check_pruned(pruned)
        kept = torch.ones(self.shape[self.dim], dtype=torch.bool, device=pruned.device)
        kept[self.index.to(pruned.device)[pruned].reshape(-1)] = False
        line = [1] * len(self.shape)
        line[self.dim] = -1
        return kept.reshape(line).expand(self.shape).contiguous()
