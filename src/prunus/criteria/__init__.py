"""Which units matter least: criteria return scores, none touches a weight."""

from prunus.criteria.activations import MeanActivation, ZeroActivations
from prunus.criteria.base import (
    Criterion,
    Joined,
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
from prunus.criteria.depth import BlockInfluence
from prunus.criteria.experts import RouterWeightedActivation
from prunus.criteria.first_order import Snip, Taylor, TaylorActivation
from prunus.criteria.flow import Grasp, SynFlow
from prunus.criteria.fluctuation import Fluctuation
from prunus.criteria.geometry import GeometricMedian
from prunus.criteria.inputs import RIA, Wanda
from prunus.criteria.magnitude import Magnitude, l1, l2, linf, lp
from prunus.criteria.regression import Reconstruction, ThiNet
from prunus.criteria.scaling import BatchNormScale
from prunus.criteria.training import Movement
from prunus.criteria.woodfisher import WoodFisher

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
register("taylor_activation", TaylorActivation)
register("snip", Snip)
register("grasp", Grasp)
register("synflow", SynFlow)
register("obd", OptimalBrainDamage)
register("obs", OptimalBrainSurgeon)
register("woodfisher", WoodFisher)
register("movement", Movement)
register("wanda", Wanda)
register("ria", RIA)
register("flap", Fluctuation)
register("reconstruction", Reconstruction)
register("thinet", ThiNet)
register("block_influence", BlockInfluence)
register("reap", RouterWeightedActivation)

__all__ = [
    "RIA",
    "BatchNormScale",
    "BlockInfluence",
    "Criterion",
    "Fluctuation",
    "GeometricMedian",
    "Grasp",
    "Joined",
    "Magnitude",
    "MeanActivation",
    "Movement",
    "OptimalBrainDamage",
    "OptimalBrainSurgeon",
    "Random",
    "Reconstruction",
    "RouterWeightedActivation",
    "Snip",
    "SynFlow",
    "Taylor",
    "TaylorActivation",
    "ThiNet",
    "Wanda",
    "WoodFisher",
    "ZeroActivations",
    "collect_for",
    "criterion",
    "criterion_names",
    "normalised",
    "pieces_of",
    "register",
    "score_target",
]
