"""Numbers that code compares with sizes follow them, so that the user's own class runs with fewer units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from axes.proving import check, conv, images


class Guarded(nn.Module):
    """A block that checks its input against a number of its own, as diffusers and many others do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.c = conv(channels, 6)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.channels
        _, width, _, _ = x.size()
        if self.channels != width:
            raise ValueError("another width")
        return self.c(x)


def test_number_that_is_compared_with_a_size_follows_it() -> None:
    graph = check(nn.Sequential(conv(3, 8), nn.ReLU(), Guarded(8)), images())
    assert graph.surgery({"0": torch.arange(5)}).attributes == {"2.channels": (8, 5)}


def test_size_that_equals_a_number_by_chance_leaves_what_it_sizes_alone() -> None:
    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 8
            self.c, self.l, self.o = nn.Linear(6, 8), nn.Linear(8, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.c(x)
            y = self.l(y.relu() if y.shape[1] == self.heads else y)
            return self.o(y.view(2, self.heads, -1).tanh().flatten(1))

    check(Chance(), torch.randn(2, 6))
