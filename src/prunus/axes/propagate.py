"""Walk over a trace once, in order, and let each operation's rule say what hangs together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prunus.axes.algebra import unify
from prunus.axes.context import Context, Inexact, Value, because, fresh, frozen, frozen_result
from prunus.axes.rules import lookup
from prunus.axes.rules.pointwise import base_name, is_pointwise, pointwise
from prunus.axes.rules.registry import Result
from prunus.axes.rules.routing import confirm, follow
from prunus.axes.trace import GETITEM, Meta, Node, Ref, Trace


def propagate(trace: Trace, training: Trace | None = None, inexact: Inexact = "forbid") -> Context:
    """Return the axes of every tensor in the trace.

    training: the same model captured as it trains. What runs then alone (auxiliary heads) couples and freezes too, so
    that the thinned model still trains; its own parameters stay whole, since no proof reaches them.
    inexact: what may happen to statistics that count the units; see `trace`.
    """
    ctx = Context(trace, inexact)
    for name, meta in trace.state.items():
        ctx.state[name] = _state_value(name, meta)
    for name, first in trace.ties.items():
        for a, b in zip(ctx.state[name].dims, ctx.state[first].dims, strict=True):
            unify(a, b)
    _walk(ctx)
    walked = [ctx]
    if training is not None:
        notes = Context(training, inexact, state=ctx.state, unknown=ctx.unknown, kinds=ctx.kinds)
        walked.append(replace(notes, floors=ctx.floors, stacks=ctx.stacks))
        _walk(walked[1])
    for each in walked:
        confirm(each)
    _freeze_unreached(ctx)
    return ctx


def _walk(ctx: Context) -> None:
    for node in ctx.trace.nodes:
        ctx.values.append(_visit(ctx, node))
        ctx.mac_nodes.extend([node.index] * (len(ctx.macs) - len(ctx.mac_nodes)))
        if node.kind == "op":
            _write_through(ctx, node)


def _state_value(name: str, meta: Meta) -> Value:
    if meta.dtype.is_floating_point or meta.dtype.is_complex:
        return fresh(meta.shape)
    return frozen(meta.shape, f"{name} holds {str(meta.dtype).removeprefix('torch.')} numbers, not activations")


def _visit(ctx: Context, node: Node) -> Value | tuple[Value | None, ...] | None:
    if node.kind in ("parameter", "buffer"):
        return ctx.state[node.target]
    if node.kind == "output":
        for ref in node.refs():
            _freeze_value(ctx, ref, "it is an output of the model")
        return None
    if node.value is None:
        return None
    if node.kind != "op":
        word = "an input of the model" if node.kind == "input" else "a constant of the model"
        return frozen(node.value.shape, f"it is {word} ({node.target})") if isinstance(node.value, Meta) else None
    if node.target is GETITEM:
        source: Any = ctx.values[node.args[0].index]
        picked: Value | None = source[node.args[1]] if isinstance(source, tuple) else source
        return picked
    return _apply(ctx, node)


def _apply(ctx: Context, node: Node) -> Result:
    function = lookup(node.target)
    if function is None and is_pointwise(node.target) and isinstance(node.value, Meta):
        function = pointwise
    if function is None or any(ctx.values[ref.index] is None for ref in node.refs()):
        return unknown(ctx, node)
    try:
        return follow(ctx, node, function(ctx, node))
    except (AssertionError, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        # a call that the rule was not written for; what it has coupled so far is frozen with the rest
        return unknown(ctx, node, f"its rule does not cover this call ({type(error).__name__})")


def unknown(ctx: Context, node: Node, why: str = "Prunus has no rule for it") -> Result:
    """Freeze what an operation without a rule touches, and report it."""
    ctx.unknown.setdefault(node.op, []).append(node.location)
    for ref in node.refs():
        _freeze_value(ctx, ref, because(why, node))
    return frozen_result(node, "Prunus has no rule for the operation that made it")


def _freeze_value(ctx: Context, ref: Ref, reason: str) -> None:
    found = ctx.values[ref.index]
    for value in found if isinstance(found, tuple) else (found,):
        if value is not None:
            for axis in (*value.dims, *([] if value.points is None else [value.points])):
                axis.freeze(reason)


def _write_through(ctx: Context, node: Node) -> None:
    """An in-place operation changes what later readers of its argument see.

    The argument itself is replaced. Where other tensors see the same memory, because it is a view or has views, their
    zeros can no longer be relied on, so axes that lose them are frozen.
    """
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable or not node.args or not isinstance(node.args[0], Ref):
        return
    target, after = node.args[0], ctx.values[node.index]
    before = ctx.values[target.index]
    if not isinstance(after, Value) or not isinstance(before, Value) or len(after.dims) != len(before.dims):
        return
    lost = [d for d, was, now in zip(before.dims, before.zero, after.zero, strict=True) if was and not now]
    if lost and shares_memory(ctx.trace, target, node):
        ctx.freeze(lost, "it is overwritten in place through a view", node)
    ctx.values[target.index] = after


def shares_memory(trace: Trace, target: Ref, until: Node) -> bool:
    """Tell whether a value is a view, no operation's own result, or has been viewed before node `until`."""
    source = trace.nodes[target.index]
    views = (node for node in trace.nodes[target.index + 1 : until.index] if _is_view(node))
    return source.kind != "op" or _is_view(source) or any(target in node.refs() for node in views)


def _is_view(node: Node) -> bool:
    """Tell whether a result may lie in its argument's memory; dropout hands it on when it is off."""
    schema = getattr(node.target, "_schema", None)
    return (
        node.target is GETITEM
        or base_name(node.target) in ("dropout", "feature_dropout", "alpha_dropout")
        or (schema is not None and any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns))
    )


def _freeze_unreached(ctx: Context) -> None:
    """A parameter that the example inputs never reach keeps its shape: nothing is known about it."""
    read = {ref.index for node in ctx.trace.nodes for ref in node.refs()}
    reached = {
        ctx.trace.ties.get(node.target, node.target)
        for node in ctx.trace.nodes
        if node.kind in ("parameter", "buffer") and node.index in read
    }
    for name, value in ctx.state.items():
        if ctx.trace.ties.get(name, name) not in reached:
            for axis in value.dims:
                axis.freeze(f"the example inputs never reach {name}")
