"""Selective state spaces: inner width, state and step rank are pruned, time is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import check, groups
from prunus.axes import trace


class Selective(nn.Module):
    """Mamba's mixer, step by step: widths are read from the modules, so that the class follows."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.conv = nn.Linear(6, 2 * 8, bias=False), nn.Conv1d(8, 8, 3, groups=8, padding=2)
        self.x, self.dt, self.o = nn.Linear(8, 3 + 2 * 4, bias=False), nn.Linear(3, 8), nn.Linear(8, 6, bias=False)
        self.a, self.d = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        y, gate = self.i(x).transpose(1, 2).chunk(2, 1)
        y = functional.silu(self.conv(y)[..., :tokens])
        rank, state = self.dt.in_features, self.a.shape[1]
        step, b, c = self.x(y.transpose(1, 2)).split([rank, state, state], -1)
        step = functional.softplus(self.dt(step)).transpose(1, 2)
        decay = torch.exp(-torch.exp(self.a)[None, :, None] * step[..., None])
        drive = step[..., None] * b[:, None] * y[..., None]
        h = y.new_zeros(y.shape[0], y.shape[1], state)
        outs = []
        for t in range(tokens):
            h = decay[:, :, t] * h + drive[:, :, t]
            outs.append((h @ c[:, t, :, None])[..., 0])
        out = torch.stack(outs, -1) + y * self.d[:, None]
        return self.o((out * functional.silu(gate)).transpose(1, 2))


def test_selective_scan_has_three_widths_to_lose() -> None:
    graph = check(Selective(), torch.randn(2, 5, 6))
    assert not graph.unknown
    found = groups(graph)
    inner = {
        "i.weight:0", "conv.weight:0", "conv.bias:0", "x.weight:1", "dt.weight:0", "dt.bias:0", "a:0", "d:0",
        "o.weight:1",
    }  # fmt: skip
    assert inner in [members for _, members in found.values()]
    assert {(size, frozenset(members)) for size, members in found.values()} == {
        (8, frozenset(inner)), (4, frozenset({"x.weight:0", "a:1"})), (3, frozenset({"x.weight:0", "dt.weight:1"})),
    }  # fmt: skip


def test_time_of_a_scan_keeps_its_steps() -> None:
    class Decay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.i, self.o = nn.Linear(6, 5), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.i(x).transpose(1, 2).cumsum(1).transpose(1, 2).cumsum(2)[..., :1] * x)

    graph = trace(Decay(), torch.randn(2, 5, 6))
    assert "mixed or ordered (aten.cumsum at test_axes_state_space.py" in graph.why("i.weight", 0)
