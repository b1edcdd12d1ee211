"""Which units matter least: criteria return scores, none touches a weight."""

from prunus.criteria.base import (
    Criterion,
    collect_for,
    criterion,
    criterion_names,
    normalised,
    pieces_of,
    register,
    score_target,
)
from prunus.criteria.control import Random
from prunus.criteria.curvature import OptimalBrainDamage, OptimalBrainSurgeon
from prunus.criteria.first_order import Snip, Taylor, TaylorActivation
from prunus.criteria.flow import Grasp, SynFlow
from prunus.criteria.inputs import Wanda
from prunus.criteria.magnitude import Magnitude, l1, l2, linf, lp
from prunus.criteria.scaling import BatchNormScale
from prunus.criteria.training import Movement
from prunus.criteria.woodfisher import WoodFisher

register("magnitude", Magnitude)
register("l1", l1)
register("l2", l2)
register("linf", linf)
register("lp", lp)
register("random", Random)
register("bn_scale", BatchNormScale)
register("taylor", Taylor)
register("taylor_activation", TaylorActivation)
register("snip", Snip)
register("grasp", Grasp)
register("synflow", SynFlow)
register("obd", OptimalBrainDamage)
register("obs", OptimalBrainSurgeon)
register("woodfisher", WoodFisher)
register("movement", Movement)
register("wanda", Wanda)

__all__ = [
    "BatchNormScale",
    "Criterion",
    "Grasp",
    "Magnitude",
    "Movement",
    "OptimalBrainDamage",
    "OptimalBrainSurgeon",
    "Random",
    "Snip",
    "SynFlow",
    "Taylor",
    "TaylorActivation",
    "Wanda",
    "WoodFisher",
    "collect_for",
    "criterion",
    "criterion_names",
    "normalised",
    "pieces_of",
    "register",
    "score_target",
]
