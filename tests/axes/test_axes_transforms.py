"""Spectra, windows, complex numbers: channels pass where something else is transformed, and stay where they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from axes.proving import Net, check, conv, generic_, groups, images, thin
from prunus.axes import trace

HERE = r"test_axes_transforms\.py:\d+"
OWN = {"c.weight:0", "c.bias:0"}
READ = OWN | {"e.weight:1"}
BOTH = READ | {"d.weight:0", "d.bias:0"}
LAST = OWN | {"l.weight:1"}


def spectral_filter(self: nn.Module, x: Tensor) -> Tensor:
    """What GFNet and FNO do: a product with learned complex numbers per channel and frequency."""
    filters = torch.view_as_complex(self.w)
    return self.e(torch.fft.irfft2(torch.fft.rfft2(self.c(x)) * filters, s=(6, 6)))


def spectrogram(self: nn.Module, x: Tensor) -> Tensor:
    waves = self.c(x).flatten(2).flatten(0, 1)
    spectrum = torch.stft(waves, 8, 4, window=torch.hann_window(8).to(x.dtype), return_complex=True)
    return self.e(spectrum.abs().unflatten(0, (2, -1)))


def there_and_back(self: nn.Module, x: Tensor) -> Tensor:
    columns = functional.unfold(self.c(x), 2, stride=2)
    return self.e(functional.fold(columns.relu(), (6, 6), 2, stride=2))


def patches(self: nn.Module, x: Tensor) -> Tensor:
    return self.f(functional.unfold(self.c(x), 2, stride=2).transpose(1, 2))


def pool_and_unpool(self: nn.Module, x: Tensor) -> Tensor:
    values, where = functional.max_pool2d(self.c(x), 2, return_indices=True)
    return self.e(functional.max_unpool2d(values, where, 2))


def wide_spread(self: nn.Module, x: Tensor) -> Tensor:
    y, z = torch.broadcast_tensors(self.c(x), self.m)
    return self.e(y * z)


FREE: dict[str, tuple[Callable[..., Tensor], set[str]]] = {
    "fft": (lambda s, x: s.e(torch.fft.fft(s.c(x)).real), READ),
    "fft keeps zeros": (lambda s, x: torch.fft.fft(s.c(x), dim=2).abs().sum(1), OWN),
    "fftn over two": (lambda s, x: s.e(torch.fft.fftn(s.c(x), dim=(2, 3)).imag), READ),
    "fftn with sizes": (lambda s, x: s.e(torch.fft.fftn(s.c(x), s=(8, 8)).abs()), READ),
    "spectral filter": (spectral_filter, READ | {"w:0"}),
    "fftshift": (lambda s, x: s.e(torch.fft.fftshift(s.c(x), dim=(2, 3))), READ),
    "rot90": (lambda s, x: s.e(s.c(x).rot90(1, (2, 3))), READ),
    "complex": (lambda s, x: s.e(torch.view_as_real(torch.complex(s.c(x), s.d(x))).sum(-1)), BOTH),
    "polar keeps zeros of the modulus": (
        lambda s, x: torch.polar(s.c(x).abs(), s.d(x)).real.sum(1), BOTH - {"e.weight:1"},
    ),
    "spectrogram": (spectrogram, READ),
    "unfold and fold": (there_and_back, READ),
    "patches": (patches, OWN | {"f.weight:1"}),
    "windows": (lambda s, x: s.e(s.c(x).unfold(3, 2, 2).sum(-1)), READ),
    "grid_sample": (
        lambda s, x: functional.grid_sample(s.c(x), x[:, :2].permute(0, 2, 3, 1), align_corners=False).sum(1), OWN,
    ),
    "max_unpool": (pool_and_unpool, READ),
    "movedim": (lambda s, x: s.l(s.c(x).movedim((1, 0), (-1, 1))), LAST),
    "broadcast_tensors": (wide_spread, READ | {"m:0"}),
    "tile": (lambda s, x: s.e(s.c(x).tile(2, 1)), READ),
    "triangles": (lambda s, x: s.e(s.c(x).tril().triu(-1)).sum(1), READ),
    "triangles keep zeros": (lambda s, x: s.c(x).tril().sum(1), OWN),
    "diagonal": (lambda s, x: s.l(s.c(x).diagonal(1, 2, 3).mT), LAST),
    "diagonal in front": (lambda s, x: s.l(s.c(x).diagonal(dim1=0, dim2=-1).transpose(0, 1).mT), LAST),
    "embedded diagonal": (lambda s, x: s.l(s.c(x).mean(2).diag_embed(dim1=0, dim2=2)), LAST),
}  # fmt: skip


def network(forward: Callable[..., Tensor]) -> Net:
    """Two convolutions side by side, readers of their channels, and bare parameters per channel."""
    return Net(
        forward, c=conv(3, 8), d=conv(3, 8), e=conv(8, 4), f=nn.Linear(32, 4), l=nn.Linear(8, 4),
        w=nn.Parameter(torch.randn(8, 6, 4, 2)), m=nn.Parameter(torch.randn(8, 1, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_channels_pass_where_another_dimension_is_transformed(name: str) -> None:
    forward, members = FREE[name]
    graph = check(network(forward), images())
    assert not graph.unknown
    found = {frozenset(m) for size, m in groups(graph).values() if size == 8 and "c.weight:0" in m}
    assert found == {frozenset(members)}


TRAPS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "fft": (lambda s, x: s.e(torch.fft.fft(s.c(x), dim=1).real), "aten.fft_fft"),
    "fftn of everything": (lambda s, x: s.e(torch.fft.fftn(s.c(x)).real), "aten.fft_fftn"),
    "fftshift": (lambda s, x: s.e(torch.fft.fftshift(s.c(x), dim=1)), "aten.fft_fftshift"),
    "angle": (lambda s, x: s.e(torch.polar(x[:, :1].abs(), s.c(x)).angle()).sum(1) + s.c(x).cos().sum(1), "aten.sum"),
    "complex of one zero": (lambda s, x: torch.complex(s.c(x), s.d(x).exp()).abs().sum(1), "aten.sum"),
    "windows": (lambda s, x: s.c(x).unfold(1, 2, 2).sum((1, 4)), "aten.unfold"),
    "inverse": (lambda s, x: s.e(torch.linalg.inv(s.c(x) + 3 * torch.eye(6))), "aten.linalg_inv"),
    "matrix exponential": (lambda s, x: s.e(torch.linalg.matrix_exp(s.c(x))), "aten.linalg_matrix_exp"),
    "rot90": (lambda s, x: s.c(x).rot90(1, (1, 2)).sum(1), "aten.rot90"),
    "diagonal of channels": (lambda s, x: s.c(x).diagonal(dim1=1, dim2=2).sum(-1), "aten.diagonal"),
    "triangle of channels": (lambda s, x: s.c(x).transpose(1, 2).tril().sum(2), "aten.tril"),
    "channels on a diagonal": (lambda s, x: s.c(x).transpose(1, 3).diag_embed().sum(-1), "aten.diag_embed"),
    "random numbers": (lambda s, x: s.e(s.c(x) * torch.rand(8, 1, 1)), "aten.rand"),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_what_is_transformed_freezes_and_names_operation_and_line(name: str) -> None:
    forward, operation = TRAPS[name]
    graph = trace(generic_(network(forward)), images())
    assert re.search(rf"is frozen: .*{operation}[._\w]* at {HERE}", graph.why("c.weight", 0))
    assert not graph.unknown


def test_spectral_norm_loses_channels_on_both_sides() -> None:
    norm = parametrizations.spectral_norm
    model = Net(lambda s, x: s.e(s.d(s.c(x)).relu()), c=conv(3, 8), d=norm(conv(8, 6)), e=conv(6, 4)).eval()
    graph = check(model, images())
    assert {size for size, _ in groups(graph).values()} == {8, 6}
    small = thin(graph, model, 0.5)[1]
    assert (small.d.in_channels, small.d.out_channels) == tuple(small.d.weight.shape[:2])[::-1] == (4, 3)


def test_grid_of_parameters_and_blocks_of_them() -> None:
    def grid(self: nn.Module, x: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(self.u, self.v, indexing="xy")
        return functional.linear(x, rows * columns).sum(-1) * columns.sum()

    vectors = {"u": nn.Parameter(torch.randn(6)), "v": nn.Parameter(torch.randn(8))}
    graph = check(Net(grid, **vectors), torch.randn(2, 6))
    assert groups(graph) == {"v": (8, {"v:0"})}

    def block(self: nn.Module, x: Tensor) -> Tensor:
        return self.o(functional.linear(self.i(x), torch.block_diag(self.p, self.q)))

    model = Net(block, i=nn.Linear(3, 11), o=nn.Linear(9, 2), p=nn.Parameter(torch.randn(4, 6)),
                q=nn.Parameter(torch.randn(5, 5)))  # fmt: skip
    found = groups(check(model, torch.randn(2, 3)))
    assert found["p"] == (4, {"p:0", "o.weight:1"})
    assert found["i"] == (6, {"i.weight:0", "i.bias:0", "p:1"})


def test_frequencies_that_a_layer_reads_are_kept() -> None:
    model = Net(lambda s, x: s.l(torch.fft.rfft(s.c(x)).abs()).sum(1), c=conv(3, 8), l=nn.Linear(4, 3, bias=False))
    graph = check(model, images())
    assert set(groups(graph)) == {"c"}
    assert re.search(r"transform mixes its positions \(aten\.fft_rfft at", graph.why("l.weight", 1))


def test_a_table_of_no_class_tokens_goes_along_with_the_tokens_that_it_is_put_before() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        none = self.tokens.unsqueeze(0).expand(len(x), -1, -1)
        return self.l(torch.cat([none, self.c(x).flatten(2).mT], 1).sum(1))

    model = Net(forward, c=conv(3, 8), l=nn.Linear(8, 4), tokens=nn.Parameter(torch.empty(0, 8)))
    found = groups(check(model, images()))
    assert found == {"c": (8, {"tokens:1", "c.weight:0", "c.bias:0", "l.weight:1"})}


def test_what_is_reshaped_without_positions_keeps_its_dimensions() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        none = self.tokens.reshape(0, 2, 4)
        return self.e(self.c(x)) + none.sum()

    model = Net(forward, c=conv(3, 8), e=conv(8, 4), tokens=nn.Parameter(torch.empty(0, 8)))
    graph = check(model, images())
    assert "it is empty" in graph.why("tokens", 1)
