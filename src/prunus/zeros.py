"""What is zero? Sparsity, density and non-zeros of any tensor, per element and per structure.

Weights and activations alike: of a weight [out, in, kh, kw] a `filter` is a slice of dim 0 and a `channel`
one of dim 1; of an activation [batch, channels, h, w] a `channel` is a feature map over the whole batch and
a `kernel` that of one sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from prunus.errors import InputError, NameNotFound

_SLICES = {"filter": 0, "row": 0, "channel": 1, "column": 1}
_NAMES = ("element", "vector(4, dim=1)", "block(4, 4)", "kernel", *_SLICES, "2:4")
_NUM_ARGUMENTS = {"vector": (1, 2), "block": (2, 2), "kernel": (0, 0), **dict.fromkeys(_SLICES, (0, 0))}
_WORDS = {"out": 0, "in": 1}


def nnz(tensor: Tensor) -> int:
    """Count the elements that are not zero; -0.0 is zero, NaN is not. The seeds' ℓ₀."""
    return int(_dense(tensor).count_nonzero())


def density(tensor: Tensor, structure: str = "element") -> float:
    """Return the share of structures that are not all zero: 1 - sparsity, in [0, 1]; see `sparsity`."""
    return 1.0 - sparsity(tensor, structure)


def sparsity(tensor: Tensor, structure: str = "element") -> float:
    """Return the share of structures that are all zero, in [0, 1]; 0.0 for a tensor without elements.

    tensor: any shape, dtype and layout, a weight or an activation.
    structure: `element`; `vector(4, dim=1)` (or along=out, along=in); `block(4, 4)` of the matrix [dim 0,
        the rest]; `kernel` (all behind dims 0 and 1); `filter` or `row` (dim 0); `channel` or `column` (dim
        1); or `2:4`, the share of groups of 4 along dim 1 with at most 2 non-zeros (a short last group of
        r: at most ceil(r·2/4)).
    Raises NameNotFound for another structure, InputError for a tensor that does not have it.
    """
    is_zero = _dense(tensor) == 0
    if not is_zero.numel():
        is_zero = is_zero.new_zeros([max(1, size) for size in is_zero.shape])  # so that the structure is checked
    whole = is_zero if structure == "element" else _whole(is_zero, structure)
    return float(whole.count_nonzero()) / whole.numel() if tensor.numel() else 0.0


@dataclass(frozen=True)
class Row:
    """One parameter tensor. sparsity: per structure, `element` first; structures that the shape lacks are left out."""

    name: str
    shape: tuple[int, ...]
    nnz: int
    sparsity: dict[str, float]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Summary:
    """Every parameter tensor of a model, tied ones once, and the total; prints those with zeros as a table."""

    rows: tuple[Row, ...]

    @property
    def total(self) -> Row:
        """All tensors together; its sparsity is that of the elements."""
        numel, count = sum(row.numel for row in self.rows), sum(row.nnz for row in self.rows)
        return Row("total", (numel,), count, {"element": 1 - count / numel if numel else 0.0})

    def __rich__(self) -> Table:
        shown = [row for row in self.rows if row.nnz < row.numel]
        table = Table("parameter", "shape")
        for heading in ("elements", "non-zeros", *_COLUMNS):
            table.add_column("sparsity" if heading == "element" else heading, justify="right")
        for row in shown:
            table.add_row(row.name, "×".join(map(str, row.shape)), *_cells(row))
        table.add_section()
        if len(shown) < len(self.rows):
            count = len(self.rows) - len(shown)
            table.add_row(f"{count} {'tensor' if count == 1 else 'tensors'} without zeros")
        table.add_row("total", "", *_cells(self.total))
        return table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


_COLUMNS = ("element", "filter", "channel", "kernel")


def summary(model: nn.Module) -> Summary:
    """Tabulate what is zero in every parameter of a model: per element, filter, channel and kernel."""
    return Summary(tuple(_row(name, parameter) for name, parameter in model.named_parameters()))


def _row(name: str, tensor: Tensor) -> Row:
    structures = _COLUMNS[: {0: 1, 1: 1, 2: 3}.get(tensor.dim(), 4)]
    shares = {structure: sparsity(tensor, structure) for structure in structures}
    return Row(name, tuple(tensor.shape), nnz(tensor), shares)


def _cells(row: Row) -> Iterable[str]:
    shares = [f"{row.sparsity[name]:.4f}" if name in row.sparsity else "" for name in _COLUMNS]
    return f"{row.numel:,}", f"{row.nnz:,}", *shares


def _dense(tensor: Tensor) -> Tensor:
    dense = tensor.detach()
    return dense if dense.layout is torch.strided else dense.to_dense()


def _whole(is_zero: Tensor, structure: str) -> Tensor:
    """Return one boolean per structure: is all of it zero (n:m: are enough of its elements zero)?"""
    ratio = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", structure)
    if ratio:
        return _conforming(_with_dims(is_zero, 2, structure), int(ratio[1]), int(ratio[2]))
    name, numbers = _parsed(structure)
    if name in _SLICES:
        dim = _SLICES[name]
        return _with_dims(is_zero, dim + 1, structure).movedim(dim, 0).reshape(is_zero.shape[dim], -1).all(dim=1)
    if name == "kernel":
        return _with_dims(is_zero, 3, structure).flatten(2).all(dim=2)
    if name == "block":
        matrix = _with_dims(is_zero, 2, structure).flatten(1)
        return _runs(_runs(matrix, 1, numbers[1]).all(dim=-1), 0, numbers[0]).all(dim=-1)
    length, dim = numbers if len(numbers) == 2 else (numbers[0], 1)
    return _runs(_with_dims(is_zero, dim + 1, structure), dim, length).all(dim=-1)


def _parsed(structure: str) -> tuple[str, list[int]]:
    """Read `name` or `name(4, dim=1)`."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", structure)
    if match is None or match[1] not in _NUM_ARGUMENTS:
        raise NameNotFound.of("structure", structure, _NAMES)
    words = [word.split("=")[-1].strip() for word in match[2].split(",")] if match[2] else []
    least, most = _NUM_ARGUMENTS[match[1]]
    numbers = [_WORDS.get(word, int(word) if word.isdecimal() else -1) for word in words]
    sizes = numbers if match[1] == "block" else numbers[:1]
    if not least <= len(numbers) <= most or min(numbers, default=0) < 0 or 0 in sizes:
        raise InputError(f"structure {structure!r} cannot be read; write it like one of {', '.join(_NAMES)}")
    return match[1], numbers


def _with_dims(tensor: Tensor, least: int, structure: str) -> Tensor:
    if tensor.dim() < least:
        shape = tuple(tensor.shape)
        raise InputError(f"{structure} on shape {shape}: at least {least} dims are wanted; choose another structure")
    return tensor


def _runs(tensor: Tensor, dim: int, length: int) -> Tensor:
    """Cut a dim into runs, which become the last dim; a short last run is filled up with True."""
    moved = tensor.movedim(dim, -1)
    missing = -moved.shape[-1] % length
    filled = functional.pad(moved, (0, missing), value=True)
    return filled.reshape(*moved.shape[:-1], -1, length)


def _conforming(is_zero: Tensor, n: int, m: int) -> Tensor:
    """Tell for every group of m along dim 1 whether no more than n (short group: in proportion) are non-zero."""
    if not 0 < n <= m:
        raise InputError(f"structure {n}:{m} cannot be; n is the number kept of every m, so 0 < n <= m")
    length = is_zero.shape[1]
    num_nonzero = (~_runs(is_zero, 1, m)).sum(dim=-1)
    allowed = torch.full((num_nonzero.shape[-1],), n, device=is_zero.device)
    if length % m:
        allowed[-1] = -(-(length % m) * n // m)
    return num_nonzero <= allowed
