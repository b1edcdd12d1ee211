"""The statistics that have a name, and the four ways of observing one.

Each is a sum with a count, so that batches, processes and machines add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.granularity.spelling import build, parse_call
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
    """Of what a weight reads and the loss's gradient there; by (statistic, tensor).

    observe: (layer, input, its gradient) -> (sum, observations).
    """

    observe: Callable[[Layer, Tensor, Tensor], tuple[Tensor, float]]


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
    of_blocks: whether it observes residual blocks, not weights.
    """

    collect_: Callable[[nn.Module, Sequence[Piece], Calibration, Statistics, str], None]
    of_blocks: bool = False


Kind: TypeAlias = OfInputs | OfInputGradients | OfGradients | OfModel

_REGISTRY: dict[str, Callable[..., Kind]] = {}


def register(name: str, factory: Callable[..., Kind]) -> None:
    """Make a statistic known by a name that a criterion's `needs` may hold.

    factory: its arguments follow the name: `hessian(probes=8)` calls factory(probes=8).
    Raises InputError for a name that is taken or is no word.
    """
    if not name.isidentifier():
        raise InputError(f"statistic name {name!r} is no word; use letters, digits and underscores")
    if _REGISTRY.setdefault(name, factory) is not factory:
        raise InputError(f"statistic {name!r} is already registered; choose another name")


def statistic(spec: str) -> Kind:
    """Read a statistic by its name, with arguments as in `hessian(probes=8)`; raises NameNotFound."""
    return build("statistic", spec, dict(_REGISTRY))


def statistic_names() -> tuple[str, ...]:
    """List every known name."""
    return tuple(sorted(_REGISTRY))


def word(spec: str) -> str:
    """Return a statistic's name without its arguments, for sentences."""
    return parse_call("statistic", spec).name


def wide(x: Tensor) -> Tensor:
    """Return x in the precision that sums are made in: float32, float64 for float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
