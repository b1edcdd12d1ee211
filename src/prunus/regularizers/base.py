"""What a regularizer is, and the names under which regularizers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.granularity import Granularity, Target, TargetSpec, find_targets, granularity
from prunus.granularity.registry import Registry
from prunus.granularity.spelling import Call
from prunus.granularity.targets import GraphLike
from prunus.granularity.units import TileUnits


@runtime_checkable
class Regularizer(Protocol):
    """A named term of the loss that makes units small before they are pruned."""

    @property
    def name(self) -> str:
        """Under which the term is logged."""

    @property
    def threshold(self) -> float:
        """A unit whose root mean square is at most this becomes 0 when `Regularizers.threshold_` is called."""

    @property
    def granularity(self) -> str | Granularity:
        """What goes together, as a policy says it; `layer` for whole weights."""

    def find(self, model: nn.Module, graph: GraphLike | None) -> list[Target]:
        """Resolve the targets; raises NameNotFound or InputError."""

    def strength_at(self, step: int) -> float:
        """The factor λ of the term at an optimizer step, counted from 0."""

    def chosen(self, target: Target, params: Mapping[str, Tensor]) -> Tensor | None:
        """Say, once, which units of a target take part: (U,) bool, or None for all."""

    def penalty(self, parts: Sequence[Tensor], counts: Tensor) -> Tensor:
        """The term of one target without its strength.

        parts: (U, E) per scored tensor, short units padded with 0; counts: (U,) elements of each unit in all of them.
        Returns one number, differentiable; its gradient at 0 is 0.
        """


class Layer:
    """A whole weight as one unit."""

    name = "layer"

    def units(self, shape: torch.Size) -> TileUnits:
        """One unit."""
        return TileUnits(shape, tuple(shape))


@dataclass(frozen=True)
class Groups:
    """What the regularizers over groups share.

    strength: λ >= 0, the factor of the term. granularity: what goes together; with a graph, `filter` and `channel` are
        coupled groups, whose unit is everything that the criterion would score; `layer` is a whole weight.
    targets: as a policy's. threshold: see `Regularizer`; it changes nothing in the loss.
    """

    strength: float
    granularity: str | Granularity = "filter"
    targets: TargetSpec = "*"
    threshold: float = 0.0

    def __post_init__(self) -> None:
        check_number("strength", self.strength)
        check_number("threshold", self.threshold)
        read_granularity(self.granularity)

    def find(self, model: nn.Module, graph: GraphLike | None) -> list[Target]:
        """Weights, or coupled groups where the structure is known."""
        return find_targets(model, read_granularity(self.granularity), self.targets, graph)

    def strength_at(self, step: int) -> float:
        """The same at every step."""
        return self.strength

    def chosen(self, target: Target, params: Mapping[str, Tensor]) -> Tensor | None:
        """All units."""
        return None


KNOWN: Registry[Regularizer] = Registry("regularizer")
register = KNOWN.register
regularizer_names = KNOWN.names


def regularizer(spec: str | Mapping[str, Any] | Regularizer) -> Regularizer:
    """Read a regularizer.

    spec: `group_lasso(1e-4, granularity=filter)`, `{kind: group_lasso, strength: 1e-4, targets: "conv*"}`, or an object
        with the methods of `Regularizer`.
    Raises NameNotFound for an unknown name or key, InputError for wrong values.
    """
    if isinstance(spec, str):
        return KNOWN.read(spec)
    if isinstance(spec, Mapping):
        fields = {str(key): value for key, value in spec.items()}
        kind = fields.pop("kind", None)
        if not isinstance(kind, str):
            raise InputError(f"regularizer {dict(spec)} has no `kind`; write {{kind: group_lasso, strength: 1e-4}}")
        return KNOWN.read(Call(kind, (), fields))
    if isinstance(spec, type) or not isinstance(spec, Regularizer):
        raise InputError(
            f"regularizer is {spec!r}; a text such as 'l1(1e-5)', a mapping with `kind`, or an object with penalty() "
            "is wanted"
        )
    return spec


def read_granularity(spec: str | Granularity) -> Granularity:
    """Read a granularity, `layer` too."""
    return Layer() if spec == "layer" else granularity(spec)


def check_number(what: str, value: object, *, least: float = 0.0) -> None:
    """Raise InputError for what is no finite number of at least `least`."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < float("inf")
    if not good:
        raise InputError(f"{what} is {value!r}; a number of at least {least:g} is wanted")
