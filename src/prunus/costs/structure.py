"""What a structure costs that is not built: energy, from the axes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from prunus.axes import Graph
from prunus.axes.algebra import Axis
from prunus.axes.context import Value
from prunus.axes.positions import size_after
from prunus.axes.trace import Meta
from prunus.costs.energy import joules


def energy_of_structure(graph: Graph, sizes: Mapping[str, int] | None = None, dropped: Sequence[str] = ()) -> float:
    """Return the joules of one forward on the example inputs, as `energy` counts them.

    sizes: units left in the groups named, all by default. dropped: residual blocks that are left out.
    """
    return energies_of(graph)(sizes or {}, dropped)


def energies_of(graph: Graph) -> Callable[[Mapping[str, int], Sequence[str]], float]:
    """Return `energy_of_structure` of one graph, for many structures."""
    tensors = _moved(graph)

    def energy(sizes: Mapping[str, int], dropped: Sequence[str]) -> float:
        size = graph.size(sizes, dropped)
        kept = {graph[name].leaf: np.arange(count) for name, count in sizes.items()}
        gone = [range(graph.block(name).first, graph.block(name).result + 1) for name in dropped]
        moved = sum(
            math.prod(size_after(axis, kept) for axis in dims) * width
            for node, dims, width in tensors
            if not any(node in span for span in gone)
        )
        return sum(joules(size.macs, size.bytes, moved).values())

    return energy


def _moved(graph: Graph) -> list[tuple[int, tuple[Axis, ...], int]]:
    """Return the tensors that sums of products read and write, weights aside: node, axes, bytes of an element."""
    context, nodes = graph.context, graph.trace.nodes
    weights = _weights(graph)
    found = []
    for index in dict.fromkeys(context.mac_nodes):
        for i in (*(ref.index for ref in nodes[index].refs() if ref.index not in weights), index):
            value, meta = context.values[i], nodes[i].value
            if isinstance(value, Value) and isinstance(meta, Meta):
                found.append((index, value.dims, meta.dtype.itemsize))
    return found


def _weights(graph: Graph) -> set[int]:
    """Return the nodes that hold parameters, or what is computed from parameters alone."""
    found: set[int] = set()
    for node in graph.trace.nodes:
        refs = [ref.index for ref in node.refs()]
        if node.kind == "parameter" or (node.kind == "op" and refs and all(index in found for index in refs)):
            found.add(node.index)
    return found
