"""Element by element operations: broadcast dimensions are coupled; what is asked is whether 0 stays 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from prunus.axes.algebra import Axis
from prunus.axes.context import Context, Value
from prunus.axes.rules.registry import rule
from prunus.axes.trace import Node, Ref

# fmt: off
# f(0, ..., 0) == 0, so zeros along a dimension survive when every operand has them.
KEEPS_ZERO = frozenset([
    "relu", "relu6", "gelu", "silu", "tanh", "leaky_relu", "elu", "celu", "selu", "mish", "abs", "neg", "sign",
    "sgn", "sin", "sinh", "asin", "tan", "atan", "asinh", "atanh", "sqrt", "square", "erf", "expm1", "log1p",
    "floor", "ceil", "round", "trunc", "frac", "hardswish", "softshrink", "hardshrink", "tanhshrink",
    "softsign", "clone", "detach", "alias", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "to",
    "_to_copy", "type_as", "lift_fresh_copy", "copy", "prelu", "positive", "nan_to_num", "add", "sub", "rsub",
    "hypot", "maximum", "minimum", "fmax", "fmin", "lerp", "where", "expand_as", "bernoulli", "zeros_like",
    "real", "imag", "angle", "special_erfinv", "conj", "deg2rad", "rad2deg",
])
# A single zero operand makes the product zero.
MULTIPLIES = frozenset(["mul", "__and__", "logical_and", "bitwise_and"])
# Infinite or undefined at 0: the masked model would hold inf or nan where the thinned one holds nothing.
SINGULAR = frozenset([
    "log", "log2", "log10", "reciprocal", "rsqrt", "logit", "digamma", "lgamma", "acosh", "remainder", "fmod",
    "addcdiv", "xlogy",
])
# Pointwise, though torch does not tag them so.
UNTAGGED = frozenset([
    "dropout", "feature_dropout", "alpha_dropout", "contiguous", "alias", "lift_fresh_copy", "type_as", "clone",
    "detach", "to", "_to_copy", "where", "expand_as", "rand_like", "randn_like", "zeros_like", "ones_like",
    "full_like", "empty_like", "bernoulli", "fill", "copy", "prelu", "softplus", "relu6", "masked_fill", "celu",
    "hardswish", "hardtanh", "silu", "leaky_relu", "__and__", "__or__", "__xor__", "rrelu", "hardshrink",
    "positive", "floor_divide", "real", "imag", "angle", "log_sigmoid", "special_erfinv", "conj", "exponential",
    "uniform", "normal", "random", "log_normal", "cauchy", "geometric",
])
# Other names of the same operations; torch tags none of them.
ALIASES = {
    "multiply": "mul", "subtract": "sub", "divide": "div", "true_divide": "div", "negative": "neg",
    "absolute": "abs", "fix": "trunc", "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
    "not_equal": "ne", "arcsin": "asin", "arcsinh": "asinh", "arccos": "acos", "arccosh": "acosh",
    "arctan": "atan", "arctanh": "atanh", "arctan2": "atan2", "clip": "clamp", "_conj": "conj",
    "resolve_conj": "conj", "conj_physical": "conj", "_neg_view": "neg", "resolve_neg": "alias",
    "special_expm1": "expm1", "special_log1p": "log1p", "special_erf": "erf", "special_erfc": "erfc",
    "special_expit": "sigmoid", "special_exp2": "exp2", "special_logit": "logit", "special_psi": "digamma",
    "special_digamma": "digamma", "special_gammaln": "lgamma", "special_round": "round", "special_xlogy": "xlogy",
}
# fmt: on


def is_pointwise(target: Any) -> bool:
    """Tell whether an operator works element by element."""
    name = base_name(target)
    return torch.Tag.pointwise in getattr(target, "tags", ()) or name in UNTAGGED or name in ALIASES


def base_name(target: Any) -> str:
    """Return `relu` for `aten.relu_.default`."""
    name = str(target).split(".")[1] if "." in str(target) else str(target)
    return name if name.startswith("__") else name.rstrip("_")


def broadcast(ctx: Context, node: Node, inputs: Sequence[Value]) -> list[list[tuple[Value, int]]]:
    """Return, per dimension of the result, the inputs that extend over it and the dimension they do it with."""
    rank = len(node.shape)
    carriers: list[list[tuple[Value, int]]] = [[] for _ in range(rank)]
    for value in inputs:
        for i, axis in enumerate(value.dims):
            out = rank - len(value.dims) + i
            if axis.size == node.shape[out]:
                carriers[out].append((value, i))
    for group in carriers:
        for (first, i), (other, j) in pairwise(group):
            ctx.unify(first.dims[i], other.dims[j], node)
    return carriers


def pointwise(ctx: Context, node: Node) -> Value:
    """Couple the operands along broadcast dimensions."""
    inputs = [v for ref in node.refs() if isinstance(v := ctx.values[ref.index], Value)]
    carriers = broadcast(ctx, node, inputs)
    dims = tuple(
        group[0][0].dims[group[0][1]] if group else Axis(n) for group, n in zip(carriers, node.shape, strict=True)
    )
    keep = _zero_rule(ctx, node, inputs)
    return Value(dims, tuple(keep(group) for group in carriers))


def _zero_rule(ctx: Context, node: Node, inputs: Sequence[Value]) -> Callable[[list[tuple[Value, int]]], bool]:
    """Return the function that decides whether zeros along a dimension survive the operation."""
    name = base_name(node.target)
    name = ALIASES.get(name, name)
    numbers = [a for a in node.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    if name in MULTIPLIES:
        return lambda group: any(v.zero[i] for v, i in group)
    if name in ("div", "floor_divide"):
        return _division(ctx, node)
    if name in SINGULAR or (name == "pow" and not _positive_power(node)):
        for value in inputs:
            ctx.freeze(
                (d for d, z in zip(value.dims, value.zero, strict=True) if z),
                "it is not finite at zero",
                node,
            )
        return lambda group: False
    if name in ("clamp", "hardtanh", "clamp_min", "clamp_max"):
        safe = _clamp_keeps_zero(node, name)
    elif name == "masked_fill":
        safe = isinstance(node.args[2], (int, float)) and node.args[2] == 0
        inputs = inputs[:1]
    elif name == "pow":
        safe = True
    elif name in ("add", "sub", "rsub", "where", "maximum", "minimum"):
        safe = not any(numbers)
    else:
        safe = name in KEEPS_ZERO and not node.op.startswith("aten.bernoulli_")  # which overwrites what it is given
    considered = [v for v in inputs if name != "where" or v is not inputs[0]]

    def all_zero(group: list[tuple[Value, int]]) -> bool:
        carried = [v for v, i in group if v.zero[i] and any(v is c for c in considered)]
        return safe and bool(carried) and len(carried) == len(considered)

    return all_zero


def _division(ctx: Context, node: Node) -> Callable[[list[tuple[Value, int]]], bool]:
    numerator, denominator = ctx.optional(node.args[0]), ctx.optional(node.args[1])
    if denominator is not None:
        zeros = (d for d, z in zip(denominator.dims, denominator.zero, strict=True) if z)
        ctx.freeze(zeros, "it is divided by", node)
    return lambda group: any(v is numerator and v.zero[i] for v, i in group)


def _positive_power(node: Node) -> bool:
    exponent = node.args[1]
    return isinstance(exponent, (int, float)) and exponent > 0 and not isinstance(node.args[0], (int, float))


def _clamp_keeps_zero(node: Node, name: str) -> bool:
    if name == "clamp_min":
        low, high = node.args[1], None
    elif name == "clamp_max":
        low, high = None, node.args[1]
    else:
        default = (-1.0, 1.0) if name == "hardtanh" else (None, None)
        low, high = (node.arg(i + 1, key, default[i]) for i, key in enumerate(("min", "max")))
    if isinstance(low, Ref) or isinstance(high, Ref):
        return False
    return (low is None or low <= 0) and (high is None or high >= 0)


@rule("aten.prelu")
def prelu(ctx: Context, node: Node) -> Value:
    """Couple the slope, where there is one per channel, with dimension 1."""
    value, slope = ctx.value(node.args[0]), ctx.value(node.args[1])
    if slope.dims[0].size == value.dims[1].size > 1:
        ctx.unify(value.dims[1], slope.dims[0], node)
    return value
