"""Weights times the size of what they multiply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from prunus.errors import NameNotFound
from prunus.granularity import Piece
from prunus.statistics import Statistics, wide

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
        if self.compare not in ("row", "layer"):
            raise NameNotFound.of("comparison of wanda", str(self.compare), ("row", "layer"))

    @property
    def name(self) -> str:
        """`wanda` or `wanda(compare=layer)`."""
        return "wanda" if self.compare == "row" else f"wanda(compare={self.compare})"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,); of rows, their ranks divided by their length, which lie in [0, 1)."""
        saliency = wide(piece.tensor).abs() * input_norm(piece, statistics)
        if self.compare == "row" and piece.part.units.num_units == piece.tensor.numel():
            layer = statistics.layers[piece.param]
            saliency = ranks(saliency, dim=1 if layer.is_transposed else 0)
        return piece.table(saliency).sum(dim=1)


def input_norm(piece: Piece, statistics: Statistics) -> Tensor:
    """Return ‖x_j‖₂ of each weight's column, in a shape that broadcasts against the weight."""
    norms = statistics.sum("input_square", piece.param).sqrt()
    return statistics.layers[piece.param].per_weight(norms).to(wide(piece.tensor).dtype)


def ranks(scores: Tensor, *, dim: int) -> Tensor:
    """Replace every score by its rank among those of the same position along `dim`, divided by their number.

    Ties: the lowest index has the lowest rank.
    """
    rows = scores.movedim(dim, 0).flatten(1)
    order = rows.argsort(dim=1, stable=True)
    places = torch.arange(rows.shape[1], dtype=rows.dtype, device=rows.device).expand_as(rows)
    ranked = torch.empty_like(rows).scatter_(1, order, places) / max(1, rows.shape[1])
    return ranked.reshape(scores.movedim(dim, 0).shape).movedim(0, dim)
