"""Another order of a group's units: every member is reordered alike, and the model computes what it did."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from prunus.axes import Graph, Group, Surgery, units_of, unwrapped
from prunus.axes.positions import Kept, kept_positions
from prunus.errors import InputError, ProofError
from prunus.plans.proof import Proof, prove
from prunus.plans.surgery import check_same_model
from prunus.plans.tensors import cut, named_state

_PLAIN = ("channel", "feature", "ffn", "hidden")


@torch.no_grad()
def reorder_(model: nn.Module, graph: Graph, orders: Mapping[str, Tensor]) -> Proof:
    """Reorder the units of groups in place, in every tensor that carries them; parameters keep their identity.

    graph: traced from this model or its like. orders: group name -> (U,) int64, the unit that comes to each place.
    Gradients go along; an optimizer's state does not, so reorder before training.
    Returns the proof: outputs are the same in float64, with the model's own weights and with generic ones.
    Raises InputError, naming why, for a group whose units cannot be reordered and for what is no permutation of them,
    ProofError where outputs differ; the model is then as it was.
    """
    model = unwrapped(model)
    check_same_model(model, {name: meta.shape for name, meta in graph.trace.state.items()})
    for name, order in orders.items():
        if why := fixed_order(graph, name):
            raise InputError(f"{name} cannot be reordered: {why}")
        if order.dtype != torch.int64 or order.sort().values.tolist() != list(range(graph[name].size)):
            raise InputError(f"the order of {name} must hold each of 0..{graph[name].size - 1} once, as int64")
    moved = graph.kept(orders)
    try:
        surgery = Surgery({}, {}, kept=moved)
        proof = prove(model, graph, surgery, {}, lambda dense: _moved_(dense, graph, moved), lambda dense: dense)
    except ProofError as error:
        raise ProofError(f"{', '.join(orders)} cannot be reordered: {error}") from error
    _moved_(model, graph, moved)
    return proof


def fixed_order(graph: Graph, name: str) -> str | None:
    """Say why the units of a group keep their order, or None where `reorder_` takes any.

    Only units of one position each are reordered: heads, gates and flattened maps move several at once.
    Raises NameNotFound for a name that is neither a group nor a frozen weight.
    """
    frozen = [f for f in graph.frozen if name in (f.param, f.param.rpartition(".")[0])]
    if frozen and all(group.name != name for group in graph.groups):
        return f"{frozen[0].param} dim {frozen[0].dim} is frozen, {frozen[0].reason}"
    group = graph[name]
    return _not_plain(group)


def _not_plain(group: Group) -> str | None:
    if group.kind not in _PLAIN:
        return f"its units are {units_of(group)}, no single channels"
    for member in group.members:
        if member.role == "spared":
            return f"rows of {member.param} are divided by their own norm"
        if (count := member.index.shape[1]) != 1:
            return f"a unit is {count} positions of {member.param} dim {member.dim}"
    return None


def _moved_(model: nn.Module, graph: Graph, moved: Kept) -> nn.Module:
    state = named_state(model)
    members = {(m.param, m.dim): m for group in graph.groups if group.leaf in moved for m in group.members}
    for (name, dim), member in members.items():
        edit = {dim: kept_positions(member.axis, moved)}
        tensor = state[name]
        tensor.data.copy_(cut(tensor.data, edit))
        if tensor.grad is not None:
            tensor.grad.copy_(cut(tensor.grad, edit))
    return model
