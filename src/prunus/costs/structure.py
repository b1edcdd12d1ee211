"""What a structure costs that is not built: energy, from the axes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from prunus.axes import Graph
from prunus.axes.context import Value
from prunus.axes.positions import Kept, size_after
from prunus.axes.trace import Meta
from prunus.costs.energy import joules


def energy_of_structure(graph: Graph, sizes: Mapping[str, int] | None = None, dropped: Sequence[str] = ()) -> float:
    """Return the joules of one forward on the example inputs, as `energy` counts them.

    sizes: units left in the groups named, all by default. dropped: residual blocks that are left out.
    """
    size = graph.size(sizes, dropped)
    kept = {graph[name].leaf: np.arange(count) for name, count in (sizes or {}).items()}
    gone = [range(graph.block(name).first, graph.block(name).result + 1) for name in dropped]
    return sum(joules(size.macs, size.bytes, _moved(graph, kept, gone)).values())


def _moved(graph: Graph, kept: Kept, gone: Sequence[range]) -> int:
    """Return the bytes that sums of products read and write, each tensor once per operation, weights aside."""
    context, nodes = graph.context, graph.trace.nodes
    weights = _weights(graph)
    total = 0
    for index in dict.fromkeys(context.mac_nodes):
        if not any(index in span for span in gone):
            read = [ref.index for ref in nodes[index].refs() if ref.index not in weights]
            for i in (*read, index):
                value, meta = context.values[i], nodes[i].value
                if isinstance(value, Value) and isinstance(meta, Meta):
                    total += math.prod(size_after(axis, kept) for axis in value.dims) * meta.dtype.itemsize
    return total


def _weights(graph: Graph) -> set[int]:
    """Return the nodes that hold parameters, or what is computed from parameters alone."""
    found: set[int] = set()
    for node in graph.trace.nodes:
        refs = [ref.index for ref in node.refs()]
        if node.kind == "parameter" or (node.kind == "op" and refs and all(index in found for index in refs)):
            found.add(node.index)
    return found
