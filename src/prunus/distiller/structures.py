"""What goes together, by Distiller's words for it; and who decides for a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from prunus.axes import Graph, unwrapped
from prunus.criteria import Criterion, criterion
from prunus.errors import InputError, NameNotFound
from prunus.granularity import Granularity, Piece, TileUnits, find_targets
from prunus.statistics import Statistics

RANKED: Final = {"3D": "filter", "Filters": "filter", "Channels": "channel", "Rows": "channel", "2D": "kernel"}
"""Group types of ranked pruners. `Rows` of a linear layer were PyTorch's columns there, and are so here."""

GROUPS: Final = {**RANKED, "Rows": "filter", "Cols": "channel", "4D": "layer"}
"""Group types of thresholds and regularizers; several are joined by `+`."""


@dataclass(frozen=True)
class Tiles:
    """Tiles of so many outputs and inputs at one kernel position; None is all of them, at all positions."""

    outputs: int | None = None
    inputs: int | None = None

    @property
    def name(self) -> str:
        """`tiles(outputs, inputs)`."""
        return f"tiles({self.outputs}, {self.inputs})"

    def units(self, shape: torch.Size) -> TileUnits:
        """Tiles that divide the shape exactly; raises InputError for one that they do not."""
        if self.outputs is None or self.inputs is None:
            return TileUnits(shape, tuple(shape))
        if len(shape) < 2 or shape[0] % self.outputs or shape[1] % self.inputs:
            raise InputError(f"{self.outputs} x {self.inputs} blocks do not divide shape {tuple(shape)}; choose others")
        return TileUnits(shape, (self.outputs, self.inputs, *[1] * (len(shape) - 2)))


def ranked_granularity(group_type: str, kwargs: Mapping[str, Any]) -> str | Granularity:
    """Return what a ranked pruner's group type means.

    kwargs: `block_shape` for `Blocks`: [filters, channels, 1, 1].
    Raises NameNotFound or InputError.
    """
    for key in kwargs:
        if key != "block_shape":
            raise NameNotFound.of("key of kwargs", str(key), ("block_shape",))
    if group_type != "Blocks":
        return group_named(group_type, {**RANKED, "Blocks": "block"})
    shape = tuple(kwargs.get("block_shape", ()))
    if len(shape) != 4 or shape[2:] != (1, 1) or not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(f"kwargs.block_shape is {list(shape)}; [filters, channels, 1, 1] is wanted")
    return Tiles(shape[0], shape[1])


def group_granularity(group_type: str) -> str | Granularity:
    """Return what a group type means where groups meet a threshold; raises NameNotFound."""
    kind = group_named(group_type, GROUPS)
    return Tiles() if kind == "layer" else kind


def group_named(group_type: str, known: Mapping[str, str]) -> str:
    """Look a group type up; raises NameNotFound."""
    if group_type not in known:
        raise NameNotFound.of("group_type", str(group_type), known)
    return known[group_type]


@dataclass(frozen=True)
class Led:
    """A criterion that only one parameter of a group answers; the others agree with whatever it says.

    Their scores are 0, so that the mean over the group keeps the leader's order.
    """

    ranking: str | Criterion
    leader: str

    @property
    def name(self) -> str:
        """The criterion's own name, and who leads."""
        return f"{criterion(self.ranking).name} of {self.leader}"

    @property
    def needs(self) -> frozenset[str]:
        """What the criterion needs."""
        return criterion(self.ranking).needs

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return (U,)."""
        scores = criterion(self.ranking).score(piece, statistics)
        return scores if piece.param == self.leader else torch.zeros_like(scores)


def led_by_first(
    model: nn.Module, graph: Graph | None, kind: str | Granularity, weights: Sequence[str], ranking: str
) -> str | Criterion:
    """Return the criterion of weights whose first one decides for all.

    Raises InputError unless the graph says that they go together.
    """
    if len(weights) == 1 and graph is None:
        return ranking
    if graph is None:
        raise InputError("group_dependency Leader is about weights that go together, which a trace tells; give graph=")
    found = find_targets(unwrapped(model), kind, list(weights), graph)
    makers = [part.param for part in found[0].scored]
    if len(found) > 1 or weights[0] not in makers:
        groups = ", ".join(target.name for target in found)
        raise InputError(
            f"group_dependency is Leader, but the weights are of several groups ({groups}), or {weights[0]} is in "
            "none; make a pruner for each group"
        )
    return Led(ranking, weights[0])
