"""One small function per operation: which axes it couples, which it makes, which it freezes.

A rule takes (context, node) and returns the node's Value (or one per result). Register one with `@rule("aten.op")`;
an operation without a rule freezes what it touches and is reported.
"""

from prunus.axes.rules import contraction, factories, indexing, norm, pointwise, recurrent, reduction, shape, spatial
from prunus.axes.rules.registry import Rule, lookup, rule

__all__ = [
    "Rule",
    "contraction",
    "factories",
    "indexing",
    "lookup",
    "norm",
    "pointwise",
    "recurrent",
    "reduction",
    "rule",
    "shape",
    "spatial",
]
