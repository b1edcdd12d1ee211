"""Losses of models that return them: what is averaged or compared class by class keeps its positions."""

from __future__ import annotations

from prunus.axes.context import Context, Value, frozen_result
from prunus.axes.rules.pointwise import base_name
from prunus.axes.rules.registry import Result, rule
from prunus.axes.trace import Node

# Element by element, then none, the mean or the sum of all; where in the arguments that is said.
REDUCTION = {
    "mse_loss": 2, "l1_loss": 2, "smooth_l1_loss": 2, "huber_loss": 2, "soft_margin_loss": 2, "kl_div": 2,
    "binary_cross_entropy": 3, "binary_cross_entropy_with_logits": 4,
}  # fmt: skip
ZERO_AT_ZERO = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
NONE, MEAN, SUM = 0, 1, 2


@rule("aten.cross_entropy_loss", "aten.nll_loss", "aten.nll_loss_nd", "aten.nll_loss2d")
def of_classes(ctx: Context, node: Node) -> Result:
    """Scores (N, C, ...) against class numbers or shares: classes are normalised over, samples are averaged."""
    for ref in node.refs():
        ctx.freeze(ctx.value(ref).dims, "a loss is taken over it", node)
    return frozen_result(node, "it is a loss")


@rule(*(f"aten.{name}" for name in REDUCTION))
def of_elements(ctx: Context, node: Node) -> Value:
    """Compare two tensors of one shape; a sum of 0s loses nothing, a mean counts."""
    name = base_name(node.target)
    x, others = ctx.value(node.args[0]), [ctx.value(ref) for ref in list(node.refs())[1:]]
    for other in others:
        for ours, theirs in zip(reversed(x.dims), reversed(other.dims), strict=False):
            if ours.size == theirs.size:
                ctx.unify(ours, theirs, node)
    target = others[0]
    zero = tuple(name in ZERO_AT_ZERO and a and b for a, b in zip(x.zero, target.zero, strict=True))
    reduction = node.arg(REDUCTION[name], "reduction", MEAN)
    if reduction == NONE:
        return Value(x.dims, zero)
    summed = [axis for axis, gone in zip(x.dims, zero, strict=True) if not (gone and reduction == SUM)]
    ctx.freeze(summed, "a loss averages it" if reduction == MEAN else "a loss adds terms that are not zero", node)
    return Value((), ())
