"""What makes units small before they are pruned: named terms of the loss."""

from prunus.regularizers.base import Regularizer, register, regularizer, regularizer_names
from prunus.regularizers.kinds import L1, BnL1, GroupLasso, GroupVariance, GrowingL2
from prunus.regularizers.terms import Regularizers, check_names

register("l1", L1)
register("group_lasso", GroupLasso)
register("group_variance", GroupVariance)
register("bn_l1", BnL1)
register("growing_l2", GrowingL2)

__all__ = [
    "L1",
    "BnL1",
    "GroupLasso",
    "GroupVariance",
    "GrowingL2",
    "Regularizer",
    "Regularizers",
    "check_names",
    "register",
    "regularizer",
    "regularizer_names",
]
