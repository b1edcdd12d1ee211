"""From terms to numbers: sizes after pruning, kept positions, and where a unit's positions lie in a dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from prunus.axes.algebra import Axis

Kept = Mapping[Axis, NDArray[np.int64]]
"""Kept positions, ascending, of each pruned leaf; a leaf that is absent keeps all."""


def size_after(axis: Axis, kept: Kept) -> int:
    """Return how many positions of `axis` are left."""
    node = axis.root()
    if node.kind == "leaf":
        return len(kept[node]) if node in kept else node.size
    sizes = [size_after(part, kept) for part in node.parts]
    return math.prod(sizes) if node.kind == "product" else sum(sizes)


def kept_positions(axis: Axis, kept: Kept) -> NDArray[np.int64]:
    """Return the positions of `axis` that are left, ascending."""
    node = axis.root()
    if node.kind == "leaf":
        return kept[node] if node in kept else np.arange(node.size)
    pieces = [kept_positions(part, kept) for part in node.parts]
    sizes = [part.root().size for part in node.parts]
    if node.kind == "sum":
        starts = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([start + piece for start, piece in zip(starts, pieces, strict=True)])
    out = np.zeros(1, dtype=np.int64)
    for size, piece in zip(sizes, pieces, strict=True):
        out = (out[:, None] * size + piece[None, :]).reshape(-1)
    return out


def unit_positions(axis: Axis, leaf: Axis) -> torch.Tensor:
    """Return where the units of `leaf` lie in the dimension `axis`.

    Returns int64 (leaf.size, k): row u holds the k positions, ascending, that go when unit u goes.
    Raises ValueError where the leaf occurs in two factors of one product, so that a position has two owners.
    """
    owner = _owners(axis, leaf)
    count = np.bincount(owner[owner >= 0], minlength=leaf.size)
    order = np.argsort(np.where(owner < 0, leaf.size, owner), kind="stable")[: count.sum()]
    return torch.from_numpy(order.reshape(leaf.size, -1).astype(np.int64))


def _owners(axis: Axis, leaf: Axis) -> NDArray[np.int64]:
    """Return, per position of `axis`, the unit of `leaf` that owns it, or -1."""
    node = axis.root()
    if node.kind == "leaf":
        return np.arange(node.size) if node is leaf.root() else np.full(node.size, -1)
    pieces = [_owners(part, leaf) for part in node.parts]
    if node.kind == "sum":
        return np.concatenate(pieces)
    out = np.full(1, -1)
    for piece in pieces:
        if (out >= 0).any() and (piece >= 0).any():
            raise ValueError(f"axis {leaf!r} occurs in two factors of {node!r}")
        out = np.maximum(out[:, None], piece[None, :]).reshape(-1)
    return out
