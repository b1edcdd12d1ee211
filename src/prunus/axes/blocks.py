"""Residual blocks: modules that hand on their input plus something, so that they can be left out as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes.rules.pointwise import base_name
from prunus.axes.trace import Meta, Node, Ref, Trace

PASSES = ("clone", "contiguous", "dropout", "alias", "to", "detach")


@dataclass(frozen=True)
class Block:
    """A residual block, as a unit of depth.

    name: module path. source, result: the nodes of its input and its output, which are one where it is left out.
    first: its first node.
    takes: the argument that is the input, by position or by name. wraps: whether it returns a tuple of one.
    params: parameters that only it holds.
    """

    name: str
    source: int
    first: int
    result: int
    takes: int | str
    wraps: bool
    params: int


def find_blocks(trace: Trace, model: nn.Module) -> tuple[Block, ...]:
    """Return the residual blocks in the order in which they run; the model runs once on the example inputs.

    A block has parameters, runs once and gives one tensor, which its input reaches through sums alone, so that removing
    the block leaves the input. A last relu is passed where the input comes out of one. Stages made of blocks are left
    out: their blocks are listed.
    """
    found: dict[str, tuple[int, int, int]] = {}
    for path, (first, last) in _spans(trace).items():
        pair = _residual(trace, first, last)
        if pair is not None:
            found[path] = (pair[0], first, pair[1])
    calls = _observed(model, trace, found)
    blocks = []
    for path, (source, first, result) in sorted(found.items(), key=lambda item: item[1][2]):
        own = {id(p): p.numel() for p in model.get_submodule(path).parameters()}
        if path in calls and own:
            blocks.append(Block(path, source, first, result, *calls[path], sum(own.values())))
    stages = {parent for block in blocks for parent in _parents(block.name)}
    return tuple(block for block in blocks if block.name not in stages)


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _spans(trace: Trace) -> dict[str, tuple[int, int]]:
    """Return the first and last operation of every module whose operations run without a break."""
    spans: dict[str, tuple[int, int, int]] = {}
    for place, node in enumerate([n for n in trace.nodes if n.kind == "op" and n.value is not None]):
        parts = node.module.split(".") if node.module else []
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            begin, count, _ = spans.get(path, (place, 0, 0))
            spans[path] = (begin, count + 1, place)
    ops = [n.index for n in trace.nodes if n.kind == "op" and n.value is not None]
    return {p: (ops[begin], ops[last]) for p, (begin, count, last) in spans.items() if last - begin + 1 == count}


def _residual(trace: Trace, first: int, last: int) -> tuple[int, int] | None:
    """Return input and output of a run of operations, where the one is the other plus something."""
    inside = range(first, last + 1)
    results = [i for i in inside if any(u not in inside for u in trace.users.get(i, ()))]
    if len(results) != 1 or not isinstance(trace.nodes[results[0]].value, Meta):
        return None
    node = trace.nodes[results[0]]
    if base_name(node.target) == "relu":
        source = _summed(trace, trace.nodes[node.args[0].index], first)
        nonnegative = source is not None and base_name(trace.nodes[source].target) == "relu"
        return (source, node.index) if source is not None and nonnegative else None
    source = _summed(trace, node, first)
    return None if source is None else (source, node.index)


def _summed(trace: Trace, node: Node, first: int) -> int | None:
    """Follow sums back to the one tensor of this shape that comes from before operation `first`."""
    if node.index < first or node.kind != "op":
        return node.index if node.kind in ("op", "input") else None
    name = base_name(node.target)
    operands = [a for a in node.args[: 2 if name == "add" else 1] if isinstance(a, Ref)]
    if name not in ("add", *PASSES) or (name == "add" and len(operands) != 2):
        return None
    same = [trace.nodes[o.index] for o in operands if trace.nodes[o.index].value == node.value]
    sources = [s for s in (_summed(trace, operand, first) for operand in same) if s is not None]
    return sources[0] if len(sources) == 1 else None


@torch.no_grad()
def _observed(model: nn.Module, trace: Trace, found: Iterable[str]) -> dict[str, tuple[int | str, bool]]:
    """Run the model and see which argument of each block has the shape of its result, and how it is returned."""
    calls: dict[str, tuple[int | str, bool]] = {}

    def look(path: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        tensors = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
        wraps = isinstance(output, tuple) and len(output) == 1
        named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        takes = [k for k, x in named if isinstance(x, Tensor) and len(tensors) == 1 and x.shape == tensors[0].shape]
        if takes and (wraps or isinstance(output, Tensor)):
            calls[path] = (takes[0], wraps)

    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda _m, args, kwargs, output, path=path: look(path, args, kwargs, output), with_kwargs=True
        )
        for path in found
    ]
    flags = {module: module.training for module in model.modules()}
    try:
        model.eval()
        model(*trace.args, **trace.kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in flags.items():
            module.training = flag
    return calls
