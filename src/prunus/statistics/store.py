"""What was observed: sums and counts, which add up over batches, processes and machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.statistics.layers import Layer

Key = tuple[str, ...]


class Statistics:
    """Sums with their counts, by (statistic, tensor) or (statistic, tensor, target).

    layers: per weight whose inputs were seen, how it reads them.
    """

    def __init__(self) -> None:
        self._sums: dict[Key, Tensor] = {}
        self._counts: dict[Key, float] = {}
        self._same: dict[Key, Key] = {}
        self.layers: dict[str, Layer] = {}

    def add_(self, key: Key, value: Tensor, count: float = 1) -> None:
        """Add to a sum and to its count.

        The first value is copied: autograd may hand out one tensor as the gradient of several.
        """
        if key in self._sums:
            self._sums[key] += value
            self._counts[key] += count
        else:
            self._sums[key], self._counts[key] = value.clone(), count

    def open_(self, key: Key, start: Callable[[], Tensor]) -> Tensor:
        """Return a sum to be added to in place, begun as `start` says."""
        if key not in self._sums:
            self._sums[key], self._counts[key] = start(), 0
        return self._sums[key]

    def count_(self, key: Key, count: float) -> None:
        """Add to the count of a sum that was added to in place."""
        self._counts[key] += count

    def share_(self, key: Key, other: Key) -> None:
        """Let a key read the sum of another, so that layers with the same input hold it once."""
        self._same[key] = other

    def sum(self, *key: str) -> Tensor:
        """Return a sum; raises InputError, naming tensor and statistic, where nothing was observed."""
        return self._sums[self._found(key)]

    def count(self, *key: str) -> float:
        """Return how many observations a sum has."""
        return self._counts[self._found(key)]

    def mean(self, *key: str) -> Tensor:
        """Return a sum divided by its count."""
        found = self._found(key)
        return self._sums[found] / self._counts[found]

    def __contains__(self, key: Key) -> bool:
        return self._same.get(key, key) in self._sums

    def __iter__(self) -> Iterator[Key]:
        return iter(dict.fromkeys((*self._sums, *self._same)))

    def merge_(self, other: Statistics) -> None:
        """Add what another process observed."""
        for key, value in other._sums.items():
            self.add_(key, value, other._counts[key])
        self._same |= {key: there for key, there in other._same.items() if key not in self._sums}
        self.layers |= other.layers

    def all_reduce_(self, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Add up over all ranks of a process group, all of which must have observed the same tensors."""
        for key in sorted(self._sums):
            total = self._sums[key]
            torch.distributed.all_reduce(total, group=group)
            count = torch.tensor(self._counts[key], dtype=torch.float64, device=total.device)
            torch.distributed.all_reduce(count, group=group)
            self._counts[key] = float(count)

    @property
    def num_bytes(self) -> int:
        """Memory that the sums take."""
        return sum(value.numel() * value.element_size() for value in self._sums.values())

    def _found(self, key: Key) -> Key:
        found = self._same.get(key, key)
        if found not in self._sums:
            raise InputError(
                f"{key[1]}: no {key[0].replace('_', ' ')} was observed; its layer did not run on the calibration data, "
                "or computes its weight from other parameters; exclude it, or use a criterion that needs weights alone"
            )
        return found
