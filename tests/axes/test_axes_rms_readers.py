"""RMSNorm without a weight: the maps that read it make up for units that its mean no longer counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import generic_, thin
from prunus.axes import trace
from prunus.plans import record_of


class Bare(nn.Module):
    """A norm of no weight, as torch has it or written out, and what reads it.

    reader: `map`, `two` maps, a `cast` before the map, its weight as the first of a `product`, or also a `sine`.
    """

    def __init__(self, written: bool, reader: str = "map") -> None:
        super().__init__()
        self.written, self.reader, self.eps = written, reader, 0.03
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.written:
            y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        else:
            y = functional.rms_norm(y, (y.shape[-1],), eps=self.eps)
        y = y.to(x.dtype).contiguous() if self.reader == "cast" else y
        if self.reader == "product":
            return (self.b.weight @ y.transpose(0, 1)).transpose(0, 1) + self.b.bias
        out = self.b(y)
        also = {"two": self.c, "sine": lambda y: y.sin().sum(-1, True)}.get(self.reader)
        return out if also is None else out + also(y)


def rows() -> Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("reader", ["map", "two", "cast", "product"])
@pytest.mark.parametrize("written", [False, True])
def test_maps_behind_a_norm_without_weight_make_up_for_it(written: bool, reader: str) -> None:
    model: Any = generic_(Bare(written, reader)).double()
    graph = trace(model, rows(), inexact="compensate")
    assert graph["a"].exactness == "compensated"
    for ratio in (0.3, 0.5):
        plan, small = thin(graph, model, ratio)
        left = plan.sizes["a"]
        assert record_of(small).form == "class"  # type: ignore[union-attr]
        want = model.b.weight[:, plan.kept["a"]] * (8 / left) ** 0.5
        torch.testing.assert_close(small.get_parameter("b.weight"), want, rtol=1e-12, atol=0)
        assert small.eps == pytest.approx(0.03 * 8 / left, rel=1e-12)


@pytest.mark.parametrize("written", [False, True])
def test_readers_that_are_no_maps_or_are_shared_keep_the_norm_whole(written: bool) -> None:
    model: Any = generic_(Bare(written, "sine")).double()
    assert "counts it" in trace(model, rows(), inexact="compensate").why("a.weight", 0)
    tied: Any = generic_(Bare(written, "two")).double()
    tied.c.weight = tied.b.weight
    assert "counts it" in trace(tied, rows(), inexact="compensate").why("a.weight", 0)


@pytest.mark.parametrize("written", [False, True])
def test_the_default_policy_keeps_it_whole(written: bool) -> None:
    assert "counts it" in trace(generic_(Bare(written)).double(), rows()).why("a.weight", 0)
