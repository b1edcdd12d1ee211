"""One small function per operation: which axes it couples, which it makes, which it freezes.

A rule takes (context, node) and returns the node's Value (or one per result). Register one with `@rule("aten.op")`;
an operation without a rule freezes what it touches and is reported.
"""

from prunus.axes.rules import (
    contraction,
    experts,
    factories,
    indexing,
    losses,
    norm,
    pointwise,
    products,
    recurrent,
    reduction,
    routing,
    shape,
    spatial,
    transforms,
    weight_norm,
)
from prunus.axes.rules.registry import Rule, lookup, rule

__all__ = [
    "Rule",
    "contraction",
    "experts",
    "factories",
    "indexing",
    "lookup",
    "losses",
    "norm",
    "pointwise",
    "products",
    "recurrent",
    "reduction",
    "routing",
    "rule",
    "shape",
    "spatial",
    "transforms",
    "weight_norm",
]
