"""Weights that lie inputs first, seen as all others are: outputs, inputs, kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeNd

from prunus.granularity.kinds import Granularity
from prunus.granularity.units import Units


def groups_if_turned(module: nn.Module) -> int:
    """Return the groups of a module whose weight is (in, out / groups, …), or 0 for (out, in / groups, …).

    Transposed convolutions, and transformers' Conv1D, a linear map that computes x W.
    """
    if isinstance(module, ConvTransposeNd):
        return module.groups
    return int(type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils")


class TurnedUnits(Units):
    """The units that a granularity sees in (out, in / groups, …), of a weight that is (in, out / groups, …).

    shape: the weight's. seen: that of the weight as it is turned. groups: of the convolution.
    """

    def __init__(self, shape: torch.Size, groups: int, kind: Granularity) -> None:
        self.groups = groups
        self.seen = self._turned(torch.empty(shape, device="meta")).shape
        self._inner = kind.units(self.seen)
        super().__init__(shape, self._inner.counts)
        self.fixed, self.is_slice = self._inner.fixed, self._inner.is_slice

    def gather(self, tensor: Tensor) -> Tensor:
        """Return (U, E)."""
        self._check(tensor)
        return self._inner.gather(self._turned(tensor))

    def scatter(self, pruned: Tensor) -> Tensor:
        """Return the keep mask of the weight's shape."""
        return self._turned(self._inner.scatter(pruned)).contiguous()

    def pick(self, scores: Tensor, num_pruned: int) -> Tensor:
        """Mark units as the granularity does."""
        return self._inner.pick(scores, num_pruned)

    def _turned(self, tensor: Tensor) -> Tensor:
        """(groups · a, b, …) -> (groups · b, a, …), which is its own inverse."""
        split = tensor.reshape(self.groups, tensor.shape[0] // self.groups, *tensor.shape[1:]).transpose(1, 2)
        return split.reshape(-1, *split.shape[2:])
