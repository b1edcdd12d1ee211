"""Activations: a unit matters as much as those that read it see of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from prunus.granularity import Piece
from prunus.statistics import Statistics, wide


@dataclass(frozen=True)
class ZeroActivations:
    """Score 1 − APoZ, the share of the unit's activations that are not zero; units that are mostly zero go first.

    Activations are what the weights that read the unit see, after nonlinearity and pooling, at every position of every
    sample; a unit that several of their inputs belong to (a flattened map) has the mean of them.
    Source: Hu et al. 2016, Network Trimming (arXiv:1607.03250), equation 1.
    """

    name: ClassVar[str] = "apoz"
    needs: ClassVar[frozenset[str]] = frozenset({"input_zeros"})
    reads: ClassVar[str] = "readers"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,), from 0, never active, to 1."""
        return per_unit(1 - statistics.mean("input_zeros", piece.param), piece, statistics)


@dataclass(frozen=True)
class MeanActivation:
    """Score the mean of the unit's activations; the least active go first.

    Activations are those of `ZeroActivations`. It is meant for units that are never negative, as after a relu.
    Source: Molchanov et al. 2017 (arXiv:1611.06440), section 2.2.
    """

    name: ClassVar[str] = "mean_activation"
    needs: ClassVar[frozenset[str]] = frozenset({"input_mean"})
    reads: ClassVar[str] = "readers"

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        return per_unit(statistics.mean("input_mean", piece.param), piece, statistics)


def per_unit(per_channel: Tensor, piece: Piece, statistics: Statistics) -> Tensor:
    """Return the mean over each unit's input channels of a number per channel, (C,) -> (U,)."""
    spread = statistics.layers[piece.param].per_input(per_channel).to(wide(piece.tensor).dtype)
    return piece.table(spread.expand(piece.tensor.shape)).sum(dim=1) / piece.counts.clamp(min=1)
