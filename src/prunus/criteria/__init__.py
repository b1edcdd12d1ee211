"""Which units matter least: criteria return scores, none touches a weight."""

from prunus.criteria.activations import MeanActivation, ZeroActivations
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
from prunus.criteria.depth import BlockInfluence
from prunus.criteria.first_order import Taylor
from prunus.criteria.fluctuation import Fluctuation
from prunus.criteria.geometry import GeometricMedian
from prunus.criteria.inputs import RIA, Wanda
from prunus.criteria.magnitude import Magnitude, l1, l2, linf, lp
from prunus.criteria.regression import Reconstruction, ThiNet
from prunus.criteria.scaling import BatchNormScale

register("magnitude", Magnitude)
register("l1", l1)
register("l2", l2)
register("linf", linf)
register("lp", lp)
register("fpgm", GeometricMedian)
register("random", Random)
register("bernoulli", Random)
register("apoz", ZeroActivations)
register("mean_activation", MeanActivation)
register("bn_scale", BatchNormScale)
register("taylor", Taylor)
register("wanda", Wanda)
register("ria", RIA)
register("flap", Fluctuation)
register("reconstruction", Reconstruction)
register("thinet", ThiNet)
register("block_influence", BlockInfluence)

__all__ = [
    "RIA",
    "BatchNormScale",
    "BlockInfluence",
    "Criterion",
    "Fluctuation",
    "GeometricMedian",
    "Magnitude",
    "MeanActivation",
    "Random",
    "Reconstruction",
    "Taylor",
    "ThiNet",
    "Wanda",
    "ZeroActivations",
    "collect_for",
    "criterion",
    "criterion_names",
    "normalised",
    "pieces_of",
    "register",
    "score_target",
]
