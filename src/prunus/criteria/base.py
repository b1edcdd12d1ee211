"""What a criterion is, the names under which criteria are known, and how a coupled target is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound, naming
from prunus.granularity import JoinedUnits, Piece, Target
from prunus.granularity.registry import Registry
from prunus.granularity.spelling import parse_call
from prunus.plans import named_state
from prunus.statistics import Calibration, OfGradients, OfModel, Statistics, collect, statistic

Normalise = Literal["mean", "none", "max", "gaussian"]
Join = Literal["mean", "sum", "max", "first"]


Reads = Literal["weights", "norms", "readers", "blocks", "experts"]


@runtime_checkable
class Criterion(Protocol):
    """Which units matter least; a pure function of what it reads.

    An attribute `reads` says which tensors of a coupled target are scored: `weights` (also where there is none), the
    ones that the granularity names; `norms`, the scales of batch norms over the units; `readers`, the weights that
    read the units; `blocks`, residual blocks alone; `experts`, the stacked weights of a mixture's experts.
    """

    @property
    def name(self) -> str:
        """The spelling that `criterion()` reads back."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the statistics that must be collected first; empty when the weights suffice."""

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Score each unit of one tensor; low means prune.

        piece: `piece.table()` is the tensor as (U, E), any float dtype, short units padded with 0; `piece.counts` the
            real elements per unit; `piece.param` its name, from which a random criterion derives its seed, so that
            every rank agrees.
        statistics: what `needs` asked for, as `statistics.mean(name, piece.param)`.
        Returns (U,), float32 (float64 for float64 weights), on the tensor's device, never NaN for finite weights.
        """


KNOWN: Registry[Criterion] = Registry("criterion", "prunus.criteria")
register = KNOWN.register
criterion_names = KNOWN.names


def criterion(spec: str | Criterion) -> Criterion:
    """Read a criterion by its name.

    spec: `l1`, `l2`, `linf`, `lp(3)`, `magnitude`, `random(seed=0)`, the name of an entry point of
        `prunus.criteria`, or an object with `name`, `needs` and `score`. Every name takes `normalise` and `join`
        too, see `Joined`: `taylor(normalise=max, join=sum)`.
    Raises NameNotFound for an unknown name, InputError for wrong arguments or an object that is no criterion.
    """
    wanted = "a name such as 'l1' or an object with name, needs and score"
    if not isinstance(spec, str):
        return KNOWN.given(spec, Criterion, wanted)  # type: ignore[type-abstract]
    call = parse_call("criterion", spec)
    how = {key: call.kwargs.pop(key) for key in ("normalise", "join") if key in call.kwargs}
    made = KNOWN.given(KNOWN.read(call), Criterion, wanted)  # type: ignore[type-abstract]
    return Joined(made, **how) if how else made


@dataclass(frozen=True)
class Joined:
    """A criterion that says how its scores of the tensors of a coupled group become one.

    normalise: how those of one tensor are made comparable with another's, see `normalised`. join: the `mean`, `sum` or
    `max` of what is comparable, or what the `first` tensor says. None: as whoever asks would have it, `mean` mostly.
    """

    criterion: Criterion
    normalise: Normalise | None = None
    join: Join | None = None

    def __post_init__(self) -> None:
        for what, word, known in (
            ("normalisation", self.normalise, get_args(Normalise)),
            ("join", self.join, get_args(Join)),
        ):
            if word is not None and word not in known:
                raise NameNotFound.of(f"{what} of {self.criterion.name}", str(word), known)

    @property
    def name(self) -> str:
        """`taylor(join=max)`."""
        call = parse_call("criterion", self.criterion.name)
        given = {"normalise": self.normalise, "join": self.join}
        return str(replace(call, kwargs=call.kwargs | {key: word for key, word in given.items() if word is not None}))

    @property
    def needs(self) -> frozenset[str]:
        """What the criterion needs."""
        return self.criterion.needs

    @property
    def reads(self) -> str:
        """What the criterion reads."""
        return _reads(self.criterion)

    def score(self, piece: Piece, statistics: Statistics) -> Tensor:
        """Return the criterion's scores of one tensor, (U,)."""
        return self.criterion.score(piece, statistics)


def collect_for(
    model: nn.Module,
    criterion: Criterion,
    targets: Iterable[Target],
    calibration: Calibration | None,
    gathered: Statistics | None = None,
) -> Statistics:
    """Collect what a criterion needs of these targets.

    gathered: what a training under way has observed.
    Raises InputError where it needs calibration data and there is none, or reads what a target does not have.
    """
    tensors = named_state(model) if criterion.needs else {}
    pieces = [piece for target in targets if criterion.needs for piece in pieces_of(target, tensors, criterion)]
    with naming(criterion.name):
        _check_blocks(pieces, criterion)
        return collect(model, dict.fromkeys(criterion.needs, pieces), calibration, gathered)


def pieces_of(target: Target, tensors: Mapping[str, Tensor], criterion: Criterion) -> list[Piece]:
    """Return the tensors of a target that a criterion reads.

    tensors: by state-dict name.
    Raises InputError, naming target and criterion, where the target has none.
    """
    reads = _reads(criterion)
    if reads not in get_args(Reads):
        raise NameNotFound.of(f"word for what {criterion.name} reads", reads, get_args(Reads))
    parts = {
        "weights": target.scored,
        "norms": tuple(part for part in target.parts if part.role == "norm"),
        "readers": tuple(part for part in target.parts if part.role == "in"),
        "blocks": tuple(part for part in target.parts if part.role == "block"),
        "experts": tuple(part for part in target.parts if part.role == "expert"),
    }[reads]
    if not parts:
        what, instead = _MISSING[reads]
        raise InputError(
            f"{target.name}: no {what}, so {criterion.name} has nothing to read; choose other targets, granularity "
            f"{instead}, or another criterion"
        )
    return [Piece(target.name, part, part.read(tensors)) for part in parts]


_MISSING = {
    "weights": ("weight makes its units", "element"),
    "norms": ("batch norm scales its units", "filter with a traced graph"),
    "readers": ("weight that reads its units is known", "filter with a traced graph"),
    "blocks": ("residual block is its unit", "layer"),
    "experts": ("expert of a mixture is its unit", "filter with targets of kind expert"),
}


def _reads(criterion: Criterion) -> str:
    reads: str = getattr(criterion, "reads", "weights")
    return reads


def _check_blocks(pieces: Iterable[Piece], criterion: Criterion) -> None:
    """Raise InputError where residual blocks were to be scored by what is observed of single weights."""
    for piece in pieces:
        if isinstance(piece.part.units, JoinedUnits):
            for name in criterion.needs:
                kind = statistic(name)
                if not isinstance(kind, OfGradients) and not (isinstance(kind, OfModel) and kind.of_blocks):
                    raise InputError(
                        f"{piece.target}: {parse_call('statistic', name).name} is observed of single weights, but its "
                        "units are whole blocks; choose l2, taylor or block_influence, or another granularity"
                    )


def score_target(
    target: Target,
    tensors: Mapping[str, Tensor],
    criterion: Criterion,
    statistics: Statistics | None = None,
    *,
    normalise: Normalise = "mean",
    join: Join = "mean",
) -> Tensor:
    """Score the units of a target: a weight's directly, a coupled group's over all tensors that the criterion reads.

    tensors: by state-dict name. statistics: from `collect_for`, where the criterion needs any.
    normalise, join: how the parts of a group are made comparable, and joined, unless the criterion says so itself, see
        `Joined`; a single part is left as it is.
    Returns (U,) float32 or float64, on the device of the first part.
    """
    found = Statistics() if statistics is None else statistics
    scores = [_score(piece, found, criterion) for piece in pieces_of(target, tensors, criterion)]
    if len(scores) == 1:
        return scores[0]
    if isinstance(criterion, Joined):
        normalise, join = criterion.normalise or normalise, criterion.join or join
    first = scores[0]
    table = torch.stack([normalised(score, normalise).to(first.device, first.dtype) for score in scores])
    return _joined(table, join)


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


def _score(piece: Piece, statistics: Statistics, criterion: Criterion) -> Tensor:
    scores = criterion.score(piece, statistics)
    if scores.shape != piece.counts.shape or not scores.is_floating_point():
        raise InputError(
            f"criterion {criterion.name} returned {scores.dtype} {tuple(scores.shape)} for {piece.param}; "
            f"float ({piece.counts.numel()},), one score per unit, is wanted"
        )
    return scores


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _joined(table: Tensor, by: Join) -> Tensor:
    """Join the scores of the parts, (P, U), into (U,)."""
    if by not in get_args(Join):
        raise NameNotFound.of("join", by, get_args(Join))
    if by == "first":
        return table[0]
    if by == "max":
        return table.amax(dim=0)
    return table.mean(dim=0) if by == "mean" else table.sum(dim=0)
