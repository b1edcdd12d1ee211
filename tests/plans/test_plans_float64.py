"""Proofs in float64 of models whose weights or constants are complex."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, generic_, removal
from prunus.axes import trace
from prunus.plans import Plan, record_of


def spectral(self: nn.Module, x: Tensor) -> Tensor:
    """A layer of a Fourier neural operator: the lowest frequencies times complex weights, the others 0."""
    spectrum = torch.fft.rfft(self.a(x))
    low = torch.zeros(*spectrum.shape, dtype=torch.cfloat)
    low[..., :3] = torch.einsum("bix,iox->box", spectrum[..., :3], self.w)
    return self.b(torch.fft.irfft(low, n=x.size(-1)))


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_complex_weights_are_proved_in_double_precision(ratio: float) -> None:
    weight = nn.Parameter(torch.randn(8, 8, 3, dtype=torch.cfloat, generator=torch.Generator().manual_seed(0)))
    model = generic_(Net(spectral, a=nn.Conv1d(2, 8, 1), w=weight, b=nn.Conv1d(8, 3, 1)))
    graph = trace(model, torch.randn(2, 2, 10, generator=torch.Generator().manual_seed(1)))
    small = Plan.from_pruned(graph, removal(graph, ratio, 0)).apply(model)
    record = record_of(small)
    assert record is not None
    assert record.proof is not None
    assert record.proof.passed
    assert small.w.dtype is torch.cfloat
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
