"""What a criterion is, the names under which criteria are known, and how a coupled target is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from prunus.errors import InputError, NameNotFound
from prunus.granularity import Target
from prunus.granularity.spelling import build, parse_call

Normalise = Literal["mean", "none", "max", "gaussian"]
Reduce = Literal["mean", "sum", "max", "first"]

ENTRY_POINTS = "prunus.criteria"


@runtime_checkable
class Criterion(Protocol):
    """Which units matter least; a pure function of what it reads."""

    @property
    def name(self) -> str:
        """The spelling that `criterion()` reads back."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the statistics that must be collected first; empty when the weights suffice."""

    def score(self, units: Tensor, counts: Tensor, *, key: str) -> Tensor:
        """Score each unit; low means prune.

        units: (U, E), any float dtype, short units padded with 0; counts: (U,) int64, real elements per unit.
        key: the tensor's name; a random criterion derives its seed from it, so that every rank agrees.
        Returns (U,), float32 (float64 for float64 weights), on the units' device, never NaN for finite
        weights.
        """


_REGISTRY: dict[str, Callable[..., Criterion]] = {}


def register(name: str, factory: Callable[..., Criterion]) -> None:
    """Make a criterion known by a name in YAML, on the command line and in Python.

    factory: a class or function whose arguments follow the name: `lp(3)` calls factory(3).
    Raises InputError for a name that is taken or is no word.
    """
    if not name.isidentifier():
        raise InputError(f"criterion name {name!r} is no word; use letters, digits and underscores")
    if _REGISTRY.setdefault(name, factory) is not factory:
        raise InputError(f"criterion {name!r} is already registered; choose another name")


def criterion(spec: str | Criterion) -> Criterion:
    """Read a criterion by its name.

    spec: `l1`, `l2`, `linf`, `lp(3)`, `magnitude`, `random(seed=0)`, the name of an entry point of
        `prunus.criteria`, or an object with `name`, `needs` and `score`.
    Raises NameNotFound for an unknown name, InputError for wrong arguments or an object that is no criterion.
    """
    made = build("criterion", spec, _factories(spec)) if isinstance(spec, str) else spec
    if isinstance(made, type) or not isinstance(made, Criterion):
        raise InputError(
            f"criterion is {made!r}; a name such as 'l1' or an object with name, needs and score is wanted"
        )
    return made


def criterion_names() -> tuple[str, ...]:
    """List every known name, those of installed entry points too."""
    return tuple(sorted({*_REGISTRY, *(point.name for point in entry_points(group=ENTRY_POINTS))}))


def score_target(
    target: Target,
    params: Mapping[str, Tensor],
    criterion: Criterion,
    *,
    normalise: Normalise = "mean",
    reduce: Reduce = "mean",
) -> Tensor:
    """Score the units of a target: a weight's directly, a coupled group's over all its scored parts.

    params: tensors by state dict name.
    normalise, reduce: how the parts of a group are made comparable, and joined; a single part is left as it
        is.
    Returns (U,) float32 or float64, on the device of the first scored part.
    """
    scores = [
        _score_part(part.param, part.units.gather(params[part.param]), part.units.counts, criterion)
        for part in target.scored
    ]
    if len(scores) == 1:
        return scores[0]
    first = scores[0]
    table = torch.stack([normalised(score, normalise).to(first.device, first.dtype) for score in scores])
    return _reduced(table, reduce)


def normalised(scores: Tensor, by: Normalise) -> Tensor:
    """Scale the scores of one tensor so that those of several can be compared.

    `mean` and `max` divide by that value, `gaussian` subtracts the mean and divides by the standard
    deviation, `none` leaves them alone. A tensor of zeros, or of equal scores under `gaussian`, becomes
    zeros. The order never changes.
    Raises NameNotFound for another word.
    """
    if by not in get_args(Normalise):
        raise NameNotFound.of("normalisation", by, get_args(Normalise))
    if by == "none" or not scores.numel():
        return scores
    if by == "gaussian":
        centred = scores - scores.mean()
        return centred / _nonzero(centred.square().mean().sqrt())
    return scores / _nonzero(scores.mean() if by == "mean" else scores.max())


def _factories(spec: str) -> dict[str, Callable[..., Criterion]]:
    """Return the registry with the entry points; only the one that is asked for is loaded."""
    name = parse_call("criterion", spec).name
    known = dict(_REGISTRY)
    for point in entry_points(group=ENTRY_POINTS):
        known.setdefault(point.name, _loaded(point) if point.name == name else point.load)
    return known


def _loaded(point: EntryPoint) -> Callable[..., Criterion]:
    try:
        factory: Callable[..., Criterion] = point.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        raise InputError(f"criterion {point.name!r} cannot be loaded from {point.value}: {error}") from error
    return factory


def _score_part(key: str, units: Tensor, counts: Tensor, criterion: Criterion) -> Tensor:
    scores = criterion.score(units.detach(), counts.to(units.device), key=key)
    if scores.shape != counts.shape or not scores.is_floating_point():
        raise InputError(
            f"criterion {criterion.name} returned {scores.dtype} {tuple(scores.shape)} for {key}; "
            f"float ({counts.numel()},), one score per unit, is wanted"
        )
    return scores


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _reduced(table: Tensor, by: Reduce) -> Tensor:
    """Join the scores of the parts, (P, U), into (U,)."""
    if by not in get_args(Reduce):
        raise NameNotFound.of("reduction", by, get_args(Reduce))
    if by == "first":
        return table[0]
    if by == "max":
        return table.amax(dim=0)
    return table.mean(dim=0) if by == "mean" else table.sum(dim=0)
