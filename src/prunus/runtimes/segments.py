"""A traced model as pieces that can be timed alone, at any counts: a sum of products and what only it feeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import Graph
from prunus.axes.algebra import Axis
from prunus.axes.context import Value
from prunus.axes.positions import Kept, size_after
from prunus.axes.trace import GETITEM, Meta, Node, Ref
from prunus.plans.rewrite import is_assertion, rewritten

Sizes = Mapping[str, int]
"""Units left, by group; those that are absent are whole."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Operations that run one after the other and are timed together, so that a runtime fuses what it would fuse.

    nodes: indices, ascending; the last one's result is the segment's.
    groups: names of the groups whose sizes change it.
    """

    graph: Graph
    nodes: tuple[int, ...]

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Nodes that it reads, parameters among them, in order."""
        own = set(self.nodes)
        refs = (ref.index for i in self.nodes for ref in self.graph.trace.nodes[i].refs())
        return tuple(dict.fromkeys(index for index in refs if index not in own))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups whose sizes change it."""
        values = [self.graph.context.values[i] for i in (*self.inputs, *self.nodes)]
        return groups_of(self.graph, [axis for value in values if isinstance(value, Value) for axis in value.dims])

    @cached_property
    def axes(self) -> tuple[tuple[str, ...], ...]:
        """Its groups, each for itself where there are two; of more, those that it reads apart from the others."""
        if len(self.groups) <= 2:
            return tuple((name,) for name in self.groups)
        reads = (self.graph.context.values[i] for i in self.inputs if self.graph.trace.nodes[i].kind == "op")
        read = groups_of(self.graph, [axis for value in reads if isinstance(value, Value) for axis in value.dims])
        return tuple(filter(None, (read, tuple(name for name in self.groups if name not in read))))

    def at(self, sizes: Sizes) -> Built:
        """Return it with so many units left, over random tensors."""
        kept = kept_of(self.graph, {name: sizes[name] for name in self.groups if name in sizes})
        context, nodes = self.graph.context, self.graph.trace.nodes
        shapes = {index: _shape(self.graph, index, kept) for index in self.inputs}
        steps = tuple((i, *rewritten(context, nodes[i], kept, {})) for i in self.nodes)
        return Built(steps, shapes, frozenset(i for i in self.inputs if nodes[i].kind in ("parameter", "buffer")))


@dataclass(frozen=True, eq=False)
class Built:
    """A segment at given counts.

    steps: (index, operator, arguments with `Ref`, keyword arguments). shapes: of what it reads, by index.
    weights: which of these are the model's own.
    """

    steps: tuple[tuple[int, Any, tuple[Any, ...], Mapping[str, Any]], ...]
    shapes: Mapping[int, Meta]
    weights: frozenset[int]

    @cached_property
    def signature(self) -> str:
        """What decides how long it takes: operators, shapes, dtypes and numbers; alike for layers that are alike."""
        number = {index: i for i, index in enumerate((*self.shapes, *(step[0] for step in self.steps)))}

        def spelled(x: Any) -> Any:
            return f"%{number[x.index]}" if isinstance(x, Ref) else x

        reads = [
            f"{'w' if i in self.weights else 'x'}{list(meta.shape)}{str(meta.dtype).removeprefix('torch.')}"
            for i, meta in self.shapes.items()
        ]
        does = [
            f"{target}{_mapped(spelled, args)}{_mapped(spelled, dict(kwargs)) or ''}"
            for _, target, args, kwargs in self.steps
        ]
        return f"{' '.join(reads)}: {'; '.join(does)}"

    def module(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return it as a module with random weights, and random inputs for it."""
        torch_random = torch.Generator().manual_seed(0)
        tensors = {index: _random(meta, torch_random) for index, meta in self.shapes.items()}
        inputs = tuple(tensors[index] for index in tensors if index not in self.weights)
        return self._module(tensors), inputs

    def _module(self, tensors: Mapping[int, Tensor]) -> nn.Module:
        """Write it as straight Python, so that nothing is timed but its operations."""
        root, graph, made = nn.Module(), torch.fx.Graph(), dict[int, torch.fx.Node]()
        for index in self.shapes:
            if index not in self.weights:
                made[index] = graph.placeholder(f"x{index}")
        for index in self.shapes:
            if index in self.weights:
                root.register_buffer(f"w{index}", tensors[index])
                made[index] = graph.get_attr(f"w{index}")

        def own(value: Any) -> Any:
            return _mapped(lambda x: made[x.index] if isinstance(x, Ref) else x, value)

        for index, target, args, kwargs in self.steps:
            made[index] = graph.call_function(target, own(args), own(dict(kwargs)))
        graph.output(made[self.steps[-1][0]])
        return torch.fx.GraphModule(root, graph)


def segments_of(graph: Graph, dropped: Sequence[str] = ()) -> tuple[Segment, ...]:
    """Cut a model into segments; residual blocks that are left out have none.

    Views cost nothing where they stand alone. What has no tensor for a result is left out.
    """
    nodes, users = graph.trace.nodes, graph.trace.users
    anchors = set(graph.context.mac_nodes)
    gone = [range(graph.block(name).first, graph.block(name).result + 1) for name in dropped]
    taken: set[int] = set()
    found = []
    for node in nodes:
        if node.index in taken or not _runs(node) or any(node.index in span for span in gone):
            continue
        chain = [node.index]
        while (after := _only_user(nodes, users, chain[-1])) is not None and after not in anchors:
            chain.append(after)
        taken.update(chain)
        segment = Segment(graph, tuple(chain))
        if not all(_is_view(nodes[i]) for i in chain) and _is_plain(graph, segment):
            found.append(segment)
    return tuple(found)


def kept_of(graph: Graph, sizes: Sizes) -> Kept:
    """Return kept positions of so many units: the first ones, since it is counts that cost."""
    return {graph[name].leaf: np.arange(count) for name, count in sizes.items()}


def groups_of(graph: Graph, axes: Iterable[Axis]) -> tuple[str, ...]:
    """Name the groups that axes are made of, in the model's order."""
    leaves = {leaf for axis in axes for leaf in axis.leaves()}
    return tuple(group.name for group in graph.groups if group.leaf.root() in leaves or group.leaf in leaves)


def _only_user(nodes: Sequence[Node], users: Mapping[int, tuple[int, ...]], index: int) -> int | None:
    """Return the node that alone reads a tensor, where it can be timed with it."""
    found = users.get(index, ())
    if len(found) != 1 or not isinstance(nodes[index].value, Meta) or not _runs(nodes[found[0]]):
        return None
    # Its other operands have to be there before the segment runs: the last to be computed leads.
    later = [ref.index for ref in nodes[found[0]].refs() if ref.index > index and nodes[ref.index].kind == "op"]
    return None if later else found[0]


def _runs(node: Node) -> bool:
    return node.kind == "op" and isinstance(node.value, Meta) and node.target is not GETITEM and not is_assertion(node)


def _is_view(node: Node) -> bool:
    """Tell whether an operation returns its input under other sizes, by its schema."""
    returns = node.target._schema.returns if isinstance(node.target, torch._ops.OpOverload) else ()
    return any(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def _is_plain(graph: Graph, segment: Segment) -> bool:
    """Tell whether shapes of all that it reads are known."""
    nodes, values = graph.trace.nodes, graph.context.values
    return all(isinstance(nodes[i].value, Meta) and isinstance(values[i], Value) for i in segment.inputs)


def _shape(graph: Graph, index: int, kept: Kept) -> Meta:
    value, meta = graph.context.values[index], graph.trace.nodes[index].value
    assert isinstance(value, Value)
    assert isinstance(meta, Meta)
    return Meta(tuple(size_after(axis, kept) for axis in value.dims), meta.dtype)


def _random(meta: Meta, generator: torch.Generator) -> Tensor:
    """Return normal numbers, or zeros for positions, which are there whatever the sizes, or ones for masks."""
    if meta.dtype == torch.bool:
        return torch.ones(meta.shape, dtype=torch.bool)
    if not meta.dtype.is_floating_point:
        return torch.zeros(meta.shape, dtype=meta.dtype)
    return torch.randn(meta.shape, generator=generator).abs().to(meta.dtype)  # variances among them


def _mapped(change: Any, value: Any) -> Any:
    return pytree.tree_map(change, value, is_leaf=lambda x: isinstance(x, Ref))


__all__ = ["Built", "Segment", "Sizes", "groups_of", "kept_of", "segments_of"]
