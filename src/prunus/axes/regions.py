"""Regions of a captured graph that run under another mode become part of it."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

REGIONS = ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def inline_regions_(module: GraphModule) -> None:
    """Put the operations of `torch.autocast` and `torch.enable_grad` regions into the graph around them.

    What the modes themselves change, the dtype of a product and whether gradients flow, is no matter of shapes.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") in REGIONS:
            _inline_(module, node)


def _inline_(module: GraphModule, region: Node) -> None:
    position, name = next((i, arg) for i, arg in enumerate(region.args) if isinstance(arg, Node))
    body = module.get_submodule(str(name.target))
    assert isinstance(body, GraphModule)
    inline_regions_(body)
    operands = iter(region.args[position + 1 :])
    here: dict[Node, Any] = {}
    results: Any = ()
    with module.graph.inserting_before(region):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                here[node] = next(operands)
            elif node.op == "output":
                results = [here[result] for result in node.args[0]]
            else:
                here[node] = module.graph.node_copy(node, lambda inner: here[inner])
    for user in list(region.users):
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(region)
    if not name.users:
        module.graph.erase_node(name)
