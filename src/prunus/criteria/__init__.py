"""Which units matter least: criteria return scores, none touches a weight."""

from prunus.criteria.base import (
    Criterion,
    criterion,
    criterion_names,
    normalised,
    register,
    score_target,
)
from prunus.criteria.control import Random
from prunus.criteria.magnitude import Magnitude, l1, l2, linf, lp

register("magnitude", Magnitude)
register("l1", l1)
register("l2", l2)
register("linf", linf)
register("lp", lp)
register("random", Random)

__all__ = [
    "Criterion",
    "Magnitude",
    "Random",
    "criterion",
    "criterion_names",
    "normalised",
    "register",
    "score_target",
]
