"""The masked model where statistics or routers see fewer units: its graph, with such operations on kept units alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Graph, Surgery
from prunus.axes.context import Value
from prunus.axes.positions import Kept, kept_positions, size_after
from prunus.axes.trace import Node, Ref
from prunus.plans.graph_model import GraphModel
from prunus.plans.rewrite import rewritten


def is_inexact(graph: Graph, kept: Kept) -> bool:
    """Tell whether the plan makes a statistic or a router run over fewer units than the masked model has."""
    return bool(_over_fewer(graph, kept))


def _over_fewer(graph: Graph, kept: Kept) -> set[int]:
    counted = [*graph.context.approximate.items(), *((i, [axis]) for i, axis in graph.context.routed.items())]
    return {i for i, axes in counted if any(size_after(axis, kept) != axis.root().size for axis in axes)}


def reference(masked: nn.Module, graph: Graph, kept: Kept, dropped: Iterable[str]) -> GraphModel:
    """Return the masked model as a graph in which every such operation gathers, runs, and puts back between zeros.

    So a router's softmax and choice are those of logits that are minus infinity for every expert that is removed.

    masked: the dense model, removed units zeroed; it is taken over. graph: traced from it or from its like.
    dropped: residual blocks whose output becomes their input.
    """
    nodes = graph.trace.nodes
    inexact = _over_fewer(graph, kept)
    skipped = {graph.block(name).result: graph.block(name).source for name in dropped}
    model = GraphModel(masked, graph, Surgery({}, {}))
    for place, step in enumerate(model._steps):
        if step.index in inexact:
            node = nodes[step.index]
            run = _over_kept(graph, node, kept)
            model._steps[place] = replace(step, target=run, args=tuple(node.refs()), kwargs={})
        elif step.index in skipped:
            model._steps[place] = replace(step, target=torch.clone, args=(Ref(skipped[step.index]),), kwargs={})
    model._last_use = {}
    return model


def _over_kept(graph: Graph, node: Node, kept: Kept) -> Callable[..., Any]:
    """Return a function of the operation's tensors, in order, that runs it on kept positions."""
    ctx = graph.context
    target, args, kwargs = rewritten(ctx, node, kept, {})
    values = [ctx.values[ref.index] for ref in node.refs()]
    results = ctx.values[node.index]

    def run(*tensors: Tensor) -> Any:
        given = iter([_gather(t, v, kept) for t, v in zip(tensors, values, strict=True)])
        own, keywords = pytree.tree_map_only(Ref, lambda _: next(given), (args, dict(kwargs)))
        out = target(*own, **keywords)
        if isinstance(out, Tensor):
            return _scatter(out, results, kept)
        assert isinstance(results, tuple)
        return tuple(_scatter(t, v, kept) for t, v in zip(out, results, strict=True))

    return run


def _gather(tensor: Tensor, value: Any, kept: Kept) -> Tensor:
    for dim, axis in enumerate(value.dims if isinstance(value, Value) else ()):
        if size_after(axis, kept) != axis.root().size:
            tensor = tensor.index_select(dim, torch.from_numpy(kept_positions(axis, kept)))
    return tensor


def _scatter(tensor: Tensor, value: Any, kept: Kept) -> Tensor:
    if isinstance(value, Value) and value.points is not None:  # the dense numbers of what was chosen
        tensor = torch.from_numpy(kept_positions(value.points, kept))[tensor]
    for dim, axis in enumerate(value.dims if isinstance(value, Value) else ()):
        if size_after(axis, kept) != axis.root().size:
            shape = [axis.root().size if i == dim else n for i, n in enumerate(tensor.shape)]
            tensor = tensor.new_zeros(shape).index_copy(dim, torch.from_numpy(kept_positions(axis, kept)), tensor)
    return tensor
