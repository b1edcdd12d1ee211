"""The statistics that have a name, and the five ways of observing one.

Each is a sum with a count, so that batches, processes and machines add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from prunus.granularity import Piece
from prunus.granularity.registry import Registry
from prunus.granularity.spelling import parse_call
from prunus.statistics.calibration import Calibration
from prunus.statistics.layers import Layer
from prunus.statistics.store import Statistics


@dataclass(frozen=True)
class OfInputs:
    """Of what a weight reads, forward only; by (statistic, tensor).

    start: (layer, input) -> zeros. add_: (total, layer, input) -> observations; adds to the total in place.
    """

    start: Callable[[Layer, Tensor], Tensor]
    add_: Callable[[Tensor, Layer, Tensor], float]


@dataclass(frozen=True)
class OfInputGradients:
    """Of what a weight reads of one sample, and the loss's gradient there; by (statistic, tensor, target).

    observe: (piece, layer, rows read, their gradients), both (T, C) -> what is summed; one observation per sample, or
        several where the weight is read several times. Padding tokens are not among the rows.
    """

    observe: Callable[[Piece, Layer, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OfGradients:
    """Of the loss's gradient by a weight, a mini-batch or a sample at a time.

    observe: (piece, gradient) -> what is summed; one observation each.
    by_unit: kept by (statistic, tensor, target), since another target has other units; else by (statistic, tensor).
    """

    observe: Callable[[Piece, Tensor], Tensor]
    by_unit: bool = False
    by_sample: bool = False


@dataclass(frozen=True)
class OfModel:
    """Whatever runs the model in its own way.

    collect_: (model in eval mode, pieces, calibration, statistics, name) -> None; adds to the statistics.
    """

    collect_: Callable[[nn.Module, Sequence[Piece], Calibration, Statistics, str], None]


@dataclass(frozen=True)
class OfTraining:
    """Of every optimizer step of a training under way, which only a scheduler sees; by (statistic, tensor).

    observe: (weight, its gradient, learning rate), before the step -> what is summed; one observation per step.
    """

    observe: Callable[[Tensor, Tensor, float | Tensor], Tensor]


Kind: TypeAlias = OfInputs | OfInputGradients | OfGradients | OfModel | OfTraining

KNOWN: Registry[Kind] = Registry("statistic")
register = KNOWN.register
statistic_names = KNOWN.names
statistic = KNOWN.read


def word(spec: str) -> str:
    """Return a statistic's name without its arguments, for sentences."""
    return parse_call("statistic", spec).name


def wide(x: Tensor) -> Tensor:
    """Return x in the precision that sums are made in: float32, float64 for float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
