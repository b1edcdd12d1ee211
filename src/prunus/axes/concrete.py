"""Capture of one run: for models whose values decide which operations run, and on how many rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from prunus.axes.planted import planting
from prunus.axes.trace import Meta, Node, Trace, record_node, ties_of


def as_it_ran(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Trace:
    """Record the operations of one forward on real values; what the example does not reach stays whole.

    The operations hold for this example alone, so they serve the analysis but cannot take the model's place.
    """
    state = {**dict(model.named_parameters()), **{name: b.detach().clone() for name, b in model.named_buffers()}}
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    tensors = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    specs: list[Any] = []

    def run(weights: dict[str, Tensor], inputs: list[Tensor]) -> list[Any]:
        given = {**dict(enumerate(leaves)), **dict(zip(tensors, inputs, strict=True))}
        own, keywords = pytree.tree_unflatten([given[i] for i in range(len(leaves))], spec)
        outputs, out_spec = pytree.tree_flatten(torch.func.functional_call(model, weights, own, keywords))
        specs.append(out_spec)
        return outputs

    with planting(model) as recorder, torch.no_grad():
        module = make_fx(
            run, tracing_mode="real", pre_dispatch=True, record_stack_traces=True, _error_on_data_dependent_ops=False
        )(state, list(tensors.values()))
    slots = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    kinds = {name: "parameter" for name, _ in model.named_parameters()}
    names = {slot: (kinds.get(name, "buffer"), name) for slot, name in zip(slots, state, strict=False)}
    index: dict[Any, int] = {}
    nodes: list[Node] = []
    for node in module.graph.nodes:
        index[node] = len(nodes)
        nodes.append(record_node(node, len(nodes), index, names))
    constants = {node.name: getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"}
    metas = {
        name: Meta(tuple(t.shape), t.dtype)
        for name, t in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    }
    parameters = frozenset(name for name, _ in model.named_parameters(remove_duplicate=False))
    noted = (tuple(recorder.calls), tuple(recorder.matches))
    return Trace(
        tuple(nodes), metas, parameters, ties_of(model), constants, specs[0], args, kwargs, *noted, concrete=True
    )
