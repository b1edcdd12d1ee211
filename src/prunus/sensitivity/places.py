"""Where each parameter stands in the forward pass, and on how large a feature map it works."""

from __future__ import annotations

from dataclasses import dataclass

from prunus.axes import Graph
from prunus.axes.context import Value
from prunus.axes.trace import Meta, Node


@dataclass(frozen=True, order=True)
class Place:
    """order: index of the first operation on data that takes it. stage: the feature map it makes, such as `28x28`."""

    order: int
    stage: str


NOWHERE = Place(1 << 62, "")
"""The place of a parameter that no operation on data takes."""


def places(graph: Graph) -> dict[str, Place]:
    """Return the place of every parameter that the example reached.

    The feature map is what is left of the result's shape without the batch and without the dimensions that the
    parameter itself makes: height and width of a convolution's, tokens of a linear layer's in a transformer, and `1`
    where nothing is left.
    """
    found: dict[str, Place] = {}
    made_of: dict[int, tuple[str, ...]] = {}
    for node in graph.trace.nodes:
        if node.kind != "op":
            made_of.update({node.index: (str(node.target),)} if node.kind in ("parameter", "buffer") else {})
            continue
        refs = [ref.index for ref in node.refs()]
        names = tuple(name for index in refs for name in made_of.get(index, ()))
        if refs and all(index in made_of for index in refs):
            made_of[node.index] = names
        for name in () if node.index in made_of else names:
            found.setdefault(name, Place(node.index, _stage(graph, node, name)))
    return found


def _stage(graph: Graph, node: Node, name: str) -> str:
    result, parameter = graph.context.values[node.index], graph.context.state.get(name)
    if not isinstance(result, Value) or not isinstance(node.value, Meta) or parameter is None:
        return ""
    own = {leaf for axis in parameter.dims for leaf in axis.leaves() if axis.root().size > 1}
    sizes = [s for s, axis in zip(node.shape[1:], result.dims[1:], strict=True) if not own & set(axis.leaves())]
    return "x".join(map(str, sizes)) or "1"
