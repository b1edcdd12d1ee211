"""Layers as matrices: one problem per group, columns in the order in which the inputs are unfolded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from prunus.errors import InputError, NameNotFound, naming
from prunus.solvers.base import Solved, Solver
from prunus.solvers.choice import Choice
from prunus.solvers.pattern import Pattern
from prunus.solvers.problem import output_energy, ratio
from prunus.statistics import Layer

Kind = Literal["linear", "conv", "conv1d_hf", "conv_transpose"]

_WANTED = {
    "linear": "(out, in) without groups",
    "conv": "(out, in/groups, *kernel)",
    "conv1d_hf": "(in, out) without groups",
    "conv_transpose": "(in, out/groups, *kernel)",
}


def kind_of(layer: Layer) -> Kind:
    """Return an observed layer's kind, as `matrix_of` names it."""
    return "conv1d_hf" if layer.is_transposed else layer.kind


def matrix_of(weight: Tensor, kind: Kind, *, groups: int = 1) -> Tensor:
    """See a layer's weight as one matrix per group.

    kind: `linear` (out, in); `conv`, 1 to 3 dims (out, in/groups, *kernel); `conv1d_hf`, the transposed linear
        map of Hugging Face (in, out); `conv_transpose` (in, out/groups, *kernel).
    Returns (groups, R, C). Columns are (in/groups, *kernel), as torch's unfold orders them; for a transposed
    convolution column (i, k) is what tap k reads of input i, i.e. the input spread by the stride.
    Raises NameNotFound for another kind, InputError for a weight that does not fit it.
    """
    if kind not in get_args(Kind):
        raise NameNotFound.of("kind of layer", kind, get_args(Kind))
    flat = kind in ("linear", "conv1d_hf")
    if (flat and (weight.dim() != 2 or groups != 1)) or (not flat and weight.dim() < 3):
        raise InputError(f"{kind} with weight {tuple(weight.shape)} and groups={groups}; {_WANTED[kind]} is wanted")
    if groups < 1 or weight.shape[0] % groups:
        raise InputError(f"{kind}: dim 0 of {tuple(weight.shape)} does not divide into {groups} groups")
    if kind == "conv1d_hf":
        return weight.T.unsqueeze(0)
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    if kind == "conv_transpose":
        grouped = grouped.transpose(1, 2)
    return grouped.reshape(groups, grouped.shape[1], -1)


def weight_of(matrices: Tensor, kind: Kind, shape: Sequence[int]) -> Tensor:
    """Undo `matrix_of`.

    matrices: (groups, R, C), any dtype; shape: the layer's weight's.
    Returns a contiguous tensor of that shape.
    """
    groups, rows = matrices.shape[:2]
    if kind == "conv1d_hf":
        return matrices[0].T.contiguous()
    if kind == "conv_transpose":
        matrices = matrices.reshape(groups, rows, shape[0] // groups, *shape[2:]).transpose(1, 2)
    return matrices.reshape(tuple(shape)).contiguous()


def solve_layer(
    weight: Tensor,
    grams: Tensor,
    solver: Solver,
    *,
    kind: Kind = "linear",
    groups: int = 1,
    keep: Tensor | None = None,
    density: float | None = None,
    pattern: tuple[int, int] | None = None,
) -> Solved:
    """Solve a layer, group by group.

    weight: as the layer holds it; keep: its shape, bool.
    grams: (groups, C, C), columns as `matrix_of` orders them; the sum over all positions of x xᵀ.
    density: round(density · all weights) are kept, shared evenly among the groups (in proportion to what `keep`
        leaves in each).
    pattern: (n, m), n kept of every m along the inputs, at every kernel position alike.
    Returns weight and keep in the layer's shape, and the error over all groups.
    """
    matrices = matrix_of(weight.detach(), kind, groups=groups)
    masks = None if keep is None else matrix_of(keep, kind, groups=groups)
    if len(grams) != groups or grams.dim() != 3:
        raise InputError(f"grams have shape {tuple(grams.shape)}; ({groups}, C, C), one per group, is wanted")
    order = _inputs_last(matrices.shape[2], weight.shape[2:].numel() if weight.dim() > 2 else 1)
    nm = None if pattern is None else Pattern(*pattern, segment=order.shape[1])
    densities = _densities(Choice.of(matrices, masks, density, nm))
    new, kept = torch.empty_like(matrices), torch.empty_like(matrices, dtype=torch.bool)
    change = whole = 0.0
    for number, (matrix, gram) in enumerate(zip(matrices, grams, strict=True)):
        mask = None if masks is None else masks[number]
        with naming(f"group {number}"):
            solved = _solve_matrix(matrix, gram, solver, mask, densities[number], nm, order)
        new[number], kept[number] = solved.weight, solved.keep
        change += output_energy(matrix, gram, minus=solved.weight)
        whole += output_energy(matrix, gram)
    return Solved(weight_of(new, kind, weight.shape), weight_of(kept, kind, weight.shape), ratio(change, whole))


def _inputs_last(num_columns: int, taps: int) -> Tensor:
    """Columns (in, taps) in the order (taps, in): (taps, in) int64. n:m runs along the inputs of each tap."""
    return torch.arange(num_columns).view(num_columns // taps, taps).T


def _solve_matrix(
    matrix: Tensor,
    gram: Tensor,
    solver: Solver,
    keep: Tensor | None,
    density: float | None,
    pattern: Pattern | None,
    order: Tensor,
) -> Solved:
    """Solve one group; for n:m with the columns reordered, and back."""
    if pattern is None:
        return solver.solve(matrix, gram, keep=keep, density=density)
    there = order.reshape(-1).to(matrix.device)
    back = there.argsort()
    solved = solver.solve(
        matrix[:, there],
        gram.to(there.device)[there][:, there],
        keep=None if keep is None else keep[:, there],
        pattern=pattern,
    )
    return replace(solved, weight=solved.weight[:, back], keep=solved.keep[:, back])


def _densities(choice: Choice) -> list[float | None]:
    """Share what is kept among the groups, in proportion to what each may keep; exact in all."""
    groups, rows, columns = choice.shape
    if choice.num_kept is None:
        return [None] * groups
    left = [rows * columns] * groups if choice.inside is None else choice.inside.sum(dim=(1, 2)).tolist()
    kept = [choice.num_kept * seen // max(1, sum(left)) for seen in accumulate(left, initial=0)]
    return [(end - start) / max(1, rows * columns) for start, end in pairwise(kept)]
