"""Whole residual blocks as units: all weights of a block in one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunus.granularity.units import Units


@dataclass(frozen=True)
class WholeBlock:
    """A residual block as a unit.

    name: module path. params: names of its weights. takes, wraps: its input among the arguments, and whether it returns
    a tuple of one; see `prunus.axes`. features: the dimension of its output that holds the features; each position of
    the others is a token.
    """

    name: str
    params: tuple[str, ...]
    takes: int | str
    wraps: bool
    features: int


class JoinedUnits(Units):
    """One unit per residual block, seen as a matrix: a row for all weights of a block, short rows padded with 0.

    blocks: the units, in order. sizes: the elements of each.
    """

    is_slice = True

    def __init__(self, blocks: Sequence[WholeBlock], sizes: Sequence[int]) -> None:
        super().__init__((len(blocks), max(sizes, default=0)), torch.tensor(sizes, dtype=torch.int64))
        self.blocks = tuple(blocks)

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the matrix of the blocks' tensors, by name; a copy."""
        rows = [torch.cat([tensors[name].detach().reshape(-1) for name in block.params]) for block in self.blocks]
        joined: Tensor = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return joined

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the matrix as it is."""
        self._check(tensor)
        return tensor

    def scatter(self, pruned: Tensor) -> Tensor:
        """Return the rows that are kept, bool of the matrix' shape."""
        self._check_pruned(pruned)
        return (~pruned).unsqueeze(1).expand(self.shape)
