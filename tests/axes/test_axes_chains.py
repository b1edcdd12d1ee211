"""Shape rules against the operations themselves: the same chain runs on a parameter and on its position numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import removal
from prunus.axes import trace
from prunus.axes.positions import kept_positions

Step = Callable[[Tensor], Tensor]
SHAPES = [(12,), (4, 6), (6, 4), (2, 3, 4), (1, 8, 3), (4, 4, 2), (2, 8, 2, 2), (1, 4, 4, 6), (16, 2)]

NAMES = [
    "permute",
    "transpose",
    "reshape",
    "view_flat",
    "flatten",
    "unflatten",
    "cat",
    "split",
    "chunk",
    "slice",
    "stack",
    "expand",
    "repeat",
    "pad",
    "squeeze",
    "unsqueeze",
    "glu",
    "shuffle",
    "pixel",
    "unbind",
    "select",
]


class Chain(nn.Module):
    """A parameter that goes through the steps; the sum at its end asks nothing of the axes."""

    def __init__(self, shape: tuple[int, ...], steps: list[Step]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        return run(self.steps, self.w).sum() * x


def run(steps: list[Step], value: Tensor) -> Tensor:
    for step in steps:
        value = step(value)
    return value


def _factors(draw: st.DrawFn, count: int) -> list[int]:
    sizes = []
    while count > 1 and len(sizes) < 3:
        size = draw(st.sampled_from([d for d in range(1, count + 1) if count % d == 0]))
        sizes.append(size)
        count //= size
    return [*sizes, count]


def _glu_like(value: Tensor, dim: int) -> Tensor:
    a, b = value.chunk(2, dim)
    return a * b


@st.composite
def step_for(draw: st.DrawFn, shape: tuple[int, ...]) -> Step:
    """Draw one operation that this shape can go through."""
    rank, count = len(shape), int(np.prod(shape))
    dim = draw(st.integers(0, rank - 1))
    size = shape[dim]
    name = draw(st.sampled_from(NAMES))
    cut = draw(st.integers(1, max(1, size - 1)))
    if name == "permute":
        order = draw(st.permutations(range(rank)))
        return lambda t: t.permute(order)
    if name == "transpose":
        other = draw(st.integers(0, rank - 1))
        return lambda t: t.transpose(dim, other)
    if name == "reshape":
        sizes = _factors(draw, count)
        return lambda t: t.reshape(sizes)
    if name == "view_flat":
        return lambda t: t.reshape(-1)
    if name == "flatten" and rank > 1:
        return lambda t: t.flatten(min(dim, rank - 2), rank - 1)
    if name == "unflatten":
        sizes = _factors(draw, size)
        return lambda t: t.unflatten(dim, sizes)
    if name == "cat":
        return lambda t: torch.cat([t.clone(), t, t * 1][: 1 + cut % 3], dim)
    if name == "split" and size > 1:
        return lambda t: torch.cat(t.split([cut, size - cut], dim)[::-1], dim)
    if name == "chunk" and size % 2 == 0:
        return lambda t: torch.cat([t.chunk(2, dim)[1], t.chunk(2, dim)[0]], dim)
    if name == "slice" and size > 1:
        return lambda t: t.narrow(dim, cut, size - cut)
    if name == "stack" and count < 200:
        return lambda t: torch.stack([t, t], dim)
    if name == "expand" and count < 200:
        return lambda t: t.unsqueeze(dim).expand(*shape[:dim], 3, *shape[dim:])
    if name == "repeat" and count < 200:
        counts = [2 if i == dim else 1 for i in range(rank)]
        return lambda t: t.repeat(counts)
    if name == "pad":
        return lambda t: functional.pad(t, [0, 0] * (rank - 1 - dim) + [1, 2], value=0.0)
    if name == "squeeze":
        return lambda t: t.squeeze(dim)
    if name == "unsqueeze":
        return lambda t: t.unsqueeze(dim)
    if name == "glu" and size % 2 == 0:
        return lambda t: _glu_like(t, dim)
    if name == "shuffle" and rank in (3, 4) and shape[1] % 2 == 0:
        return lambda t: functional.channel_shuffle(t, 2)
    if name == "pixel" and rank >= 3 and shape[-3] % 4 == 0:
        return lambda t: functional.pixel_shuffle(t, 2)
    if name == "unbind" and rank > 1:
        return lambda t: t.unbind(dim)[0]
    if name == "select" and rank > 1:
        return lambda t: t.select(dim, cut % size)
    return lambda t: t.clone()


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Step]]:
    shape = draw(st.sampled_from(SHAPES))
    steps: list[Step] = []
    probe = torch.zeros(shape)
    for _ in range(draw(st.integers(1, 5))):
        step = draw(step_for(tuple(probe.shape)))
        probe = step(probe)
        steps.append(step)
        if probe.numel() > 500 or probe.dim() == 0:
            break
    return shape, steps


def survivors(steps: list[Step], w: Tensor, gone: Tensor) -> Tensor:
    """Mark with nan what is removed and run the chain on that: whatever a removed element reaches must go."""
    marked = torch.where(gone, torch.full_like(w, torch.nan), w)
    return run(steps, marked)


@settings(max_examples=300, deadline=None)
@given(chains(), st.integers(0, 99))
def test_chain_keeps_exactly_what_the_operations_themselves_move(
    made: tuple[tuple[int, ...], list[Step]], seed: int
) -> None:
    """Removed elements of the parameter land on removed positions of the last value, and on no others."""
    shape, steps = made
    torch.manual_seed(seed)
    model = Chain(shape, steps)
    graph = trace(model, torch.ones(1))
    assert not graph.unknown
    kept = {name: (~flags).nonzero().flatten() for name, flags in removal(graph, 0.4, seed).items()}
    surgery = graph.surgery(kept)
    final = max(i for i, n in enumerate(graph.trace.nodes) if n.kind == "op" and n.op == "aten.sum") - 1
    value = graph.context.values[final]
    if graph.trace.nodes[final].kind != "op":
        return
    thinned, gone = _cut(model.w.detach(), surgery.edits.get("w", {}))
    predicted, _ = _cut(survivors(steps, model.w.detach(), gone), _positions(value.dims, surgery.kept))
    assert not predicted.isnan().any(), "a position that is kept holds something that was removed"
    moved = survivors(steps, model.w.detach(), gone)
    carried = torch.ones(moved.shape, dtype=torch.bool)
    for dim, positions in _positions(value.dims, surgery.kept).items():
        line = torch.zeros(moved.shape[dim], dtype=torch.bool)
        line[torch.from_numpy(positions)] = True
        carried &= line.view([-1 if i == dim else 1 for i in range(moved.dim())])
    lost = moved[~carried]
    assert (lost.isnan() | (lost == 0)).all(), "a position that is removed holds something that was kept, not padding"
    assert thinned.numel() == (~gone).sum()


def _positions(dims: tuple, kept: object) -> dict[int, np.ndarray]:
    return {dim: kept_positions(axis, kept) for dim, axis in enumerate(dims)}  # type: ignore[arg-type]


def _cut(tensor: Tensor, edit: dict[int, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Return the kept part, and a mask of what goes."""
    keep = torch.ones(tensor.shape, dtype=torch.bool)
    small = tensor
    for dim, positions in edit.items():
        line = torch.zeros(tensor.shape[dim], dtype=torch.bool)
        line[torch.from_numpy(positions)] = True
        keep &= line.view([-1 if i == dim else 1 for i in range(tensor.dim())])
        small = small.index_select(dim, torch.from_numpy(positions))
    return small, ~keep
