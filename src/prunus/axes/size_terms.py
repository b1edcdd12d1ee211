"""What a model costs as polynomials in the units that are left: what `Graph.size` says, without the graph."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prunus.axes.algebra import Axis
from prunus.axes.graph import Graph

Polynomial = tuple[tuple[int, tuple[str, ...]], ...]
"""Terms: a number, and the groups whose sizes it is multiplied with; a group that stands twice is squared."""


@dataclass(frozen=True)
class SizeTerms:
    """Parameters, their bytes, and MACs of one forward on the example inputs, each as a polynomial in group sizes."""

    params: Polynomial
    macs: Polynomial
    bytes: Polynomial


def size_terms(graph: Graph) -> SizeTerms:
    """Return polynomials whose values at sizes of groups are what `graph.size` says of them."""
    names = {group.leaf: group.name for group in graph.groups}
    params: Counter[tuple[str, ...]] = Counter()
    num_bytes: Counter[tuple[str, ...]] = Counter()
    for name, value in graph.context.state.items():
        if name in graph.trace.parameters and name not in graph.trace.ties:
            terms = _product(value.dims, names)
            params.update(terms)
            width = graph.trace.state[name].dtype.itemsize
            num_bytes.update({groups: count * width for groups, count in terms.items()})
    macs: Counter[tuple[str, ...]] = Counter()
    for axes in graph.context.macs:
        macs.update(_product(axes, names))
    return SizeTerms(_terms(params), _terms(macs), _terms(num_bytes))


def evaluate(polynomial: Polynomial, sizes: Mapping[str, int]) -> int:
    """Return a polynomial's value where `sizes` units are left in each group that it names."""
    return sum(factor * math.prod(sizes[name] for name in groups) for factor, groups in polynomial)


def _terms(counted: Counter[tuple[str, ...]]) -> Polynomial:
    return tuple((factor, groups) for groups, factor in counted.items())


def _product(axes: Iterable[Axis], names: Mapping[Axis, str]) -> Counter[tuple[str, ...]]:
    out: Counter[tuple[str, ...]] = Counter({(): 1})
    for axis in axes:
        factors = _polynomial(axis, names)
        made: Counter[tuple[str, ...]] = Counter()
        for left, a in out.items():
            for right, b in factors.items():
                made[tuple(sorted((*left, *right)))] += a * b
        out = made
    return out


def _polynomial(axis: Axis, names: Mapping[Axis, str]) -> Counter[tuple[str, ...]]:
    """Return the size of an axis: leaves that are no group keep all their positions."""
    node = axis.root()
    if node.kind == "leaf":
        return Counter({(names[node],): 1}) if node in names else Counter({(): node.size})
    if node.kind == "product":
        return _product(node.parts, names)
    total: Counter[tuple[str, ...]] = Counter()
    for part in node.parts:
        total.update(_polynomial(part, names))
    return total
