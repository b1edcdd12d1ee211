"""Weights times the size of what they multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from prunus.errors import InputError, NameNotFound
from prunus.granularity import Piece
from prunus.solvers.layers import kind_of, matrix_of, weight_of
from prunus.statistics import Layer, Statistics, wide

Compare = Literal["row", "layer"]


@dataclass(frozen=True)
class Wanda:
    """Score |w_ij| · ‖x_j‖₂, summed over the unit.

    x_j: the column that the weight multiplies, over all calibration rows (of a convolution: unfolded).
    compare: `row` turns the scores of single weights into ranks within their output, so that every output loses the
        same share; `layer` compares all of them. Other units than single weights are always compared as they are.
    Source: Sun et al. 2023 (arXiv:2306.11695), equation 2.
    """

    compare: Compare = "row"
    needs: ClassVar[frozenset[str]] = frozenset({"input_square"})

    def __post_init__(self) -> None:
        check_compare("wanda", self.compare)

    @property
    def name(self) -> str:
        """`wanda` or `wanda(compare=layer)`."""
        return "wanda" if self.compare == "row" else f"wanda(compare={self.compare})"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,); of rows, their ranks divided by their length, which lie in [0, 1)."""
        saliency = wide(piece.tensor).abs() * input_norm(piece, statistics)
        return compared(saliency, piece, statistics.layers[piece.param], self.compare)


@dataclass(frozen=True)
class RIA:
    """Score (|w_ij| / Σ_i |w_ij| + |w_ij| / Σ_j |w_ij|) · ‖x_j‖₂^power, summed over the unit.

    The first sum runs over the outputs, the second over the inputs: relative to both, so that no input or output is
    lost whole. x_j and compare: as in `Wanda`. A row or column of zeros scores 0.
    power: at least 0; at 0 the inputs do not count.
    Source: Zhang et al. 2024 (ICLR), Plug-and-Play, equations 2 and 4.
    """

    compare: Compare = "row"
    power: float = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"input_square"})

    def __post_init__(self) -> None:
        check_compare("ria", self.compare)
        if isinstance(self.power, bool) or not isinstance(self.power, (int, float)) or not 0 <= self.power < torch.inf:
            raise InputError(f"power of ria is {self.power!r}; a finite number of at least 0 is wanted")

    @property
    def name(self) -> str:
        """`ria`, with what is not at its default in brackets."""
        given = [f"compare={self.compare}"] * (self.compare != "row") + [f"power={self.power}"] * (self.power != 0.5)
        return f"ria({', '.join(given)})" if given else "ria"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,); of rows, their ranks divided by their length, which lie in [0, 1)."""
        norms = input_norm(piece, statistics)
        layer = statistics.layers[piece.param]
        sizes = matrix_of(wide(piece.tensor).abs(), kind_of(layer), groups=layer.groups)
        relative = _share(sizes, dim=1) + _share(sizes, dim=2)
        saliency = weight_of(relative, kind_of(layer), layer.shape) * norms.pow(self.power)
        return compared(saliency, piece, layer, self.compare)


def input_norm(piece: Piece, statistics: Statistics) -> Tensor:
    """Return ‖x_j‖₂ of each weight's column, in a shape that broadcasts against the weight."""
    norms = statistics.sum("input_square", piece.param).sqrt()
    return statistics.layers[piece.param].per_weight(norms).to(wide(piece.tensor).dtype)


def compared(saliency: Tensor, piece: Piece, layer: Layer, compare: Compare) -> Tensor:
    """Return the units' sums of a saliency of the weight's shape; of single weights by row: ranks within the output."""
    if compare == "row" and piece.part.units.num_units == piece.tensor.numel():
        rows = matrix_of(saliency, kind_of(layer), groups=layer.groups)
        saliency = weight_of(ranks(rows), kind_of(layer), layer.shape)
    return piece.table(saliency).sum(dim=1)


def check_compare(name: str, compare: str) -> None:
    """Raise NameNotFound for another word than `row` and `layer`."""
    if compare not in get_args(Compare):
        raise NameNotFound.of(f"comparison of {name}", str(compare), get_args(Compare))


def ranks(scores: Tensor) -> Tensor:
    """Replace every score by its rank along the last dim, divided by its length; ties: the lowest index is lowest."""
    order = scores.argsort(dim=-1, stable=True)
    places = torch.arange(scores.shape[-1], dtype=scores.dtype, device=scores.device).expand_as(scores)
    return torch.empty_like(scores).scatter_(-1, order, places) / max(1, scores.shape[-1])


def _share(sizes: Tensor, dim: int) -> Tensor:
    """Divide by the sum along a dim; 0 where that is 0."""
    total = sizes.sum(dim=dim, keepdim=True)
    return sizes / torch.where(total > 0, total, torch.ones_like(total))
