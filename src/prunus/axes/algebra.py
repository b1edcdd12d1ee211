"""The axis algebra: what a dimension of a tensor is made of, and what must be the same thing.

    leaf      a64          64 positions that nothing has yet divided
    product   H4 * D16     reshape, heads: the first factor varies slowest
    sum       a32 + b32    concatenation: the first term comes first

`unify` states that two dimensions hold the same positions. A leaf that meets a term *becomes* that term wherever it
occurs (union-find with substitution), two products meet at their common radix, a product meets a sum by dividing its
slowest factor. The cost follows the number of terms, never the number of channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal

Kind = Literal["leaf", "product", "sum"]


class AxisConflictError(Exception):
    """Two dimensions that must be equal have no common refinement at axis level."""


class Axis:
    """A term of the algebra; `root()` gives what it has become.

    size: number of positions.
    reason: why a leaf must keep all its positions, or None where it may be pruned.
    """

    __slots__ = ("kind", "parent", "parts", "reason", "size", "uid")
    _uids = itertools.count()

    def __init__(self, size: int, kind: Kind = "leaf", parts: Sequence[Axis] = ()) -> None:
        self.size = size
        self.kind: Kind = kind
        self.parts = tuple(parts)
        self.parent: Axis | None = None
        self.reason: str | None = None
        self.uid = next(Axis._uids)

    def root(self) -> Axis:
        """Return the term that this one has been unified into."""
        node = self
        while node.parent is not None:
            node = node.parent
        step = self
        while step is not node:  # path compression keeps long chains of residual additions flat
            step.parent, step = node, step.parent
        return node

    def leaves(self) -> Iterator[Axis]:
        """Yield the leaves in order; a leaf that occurs twice comes twice."""
        node = self.root()
        if node.kind == "leaf":
            yield node
        for part in node.parts:
            yield from part.leaves()

    def freeze(self, reason: str) -> None:
        """Keep every position of every leaf; the first reason given stays."""
        for leaf in self.leaves():
            if leaf.reason is None:
                leaf.reason = reason

    def is_frozen(self) -> bool:
        """Tell whether no leaf of this term may lose a position."""
        return all(leaf.reason is not None or leaf.size <= 1 for leaf in self.leaves())

    def contains(self, other: Axis) -> bool:
        """Tell whether `other` occurs in this term."""
        node, other = self.root(), other.root()
        return node is other or any(part.contains(other) for part in node.parts)

    def __repr__(self) -> str:
        node = self.root()
        if node.kind == "leaf":
            return f"a{node.uid}:{node.size}" + ("!" if node.reason else "")
        return "(" + (" * " if node.kind == "product" else " + ").join(map(repr, node.parts)) + ")"


def product(factors: Sequence[Axis]) -> Axis:
    """Return the axis whose positions are all combinations, the last factor varying fastest."""
    flat = [f for factor in factors for f in flatten(factor, "product") if f.size != 1]
    if not flat:
        return factors[0].root() if factors else Axis(1)
    return flat[0] if len(flat) == 1 else Axis(math.prod(f.size for f in flat), "product", flat)


def concat(terms: Sequence[Axis]) -> Axis:
    """Return the axis that holds the terms' positions one after the other; empty terms vanish."""
    flat = [t for term in terms for t in flatten(term, "sum") if t.size != 0]
    if not flat:
        return Axis(0)
    return flat[0] if len(flat) == 1 else Axis(sum(t.size for t in flat), "sum", flat)


def flatten(axis: Axis, kind: Kind) -> list[Axis]:
    """Return the roots of an axis' nested products (or sums) as one list."""
    node = axis.root()
    if node.kind != kind:
        return [node]
    return [leaf for part in node.parts for leaf in flatten(part, kind)]


def unify(a: Axis, b: Axis) -> None:
    """State that position i of `a` and position i of `b` are kept or removed together.

    Raises AxisConflictError where no common refinement exists. Unions made before the conflict stay: they only
    couple more than needed, which is safe once the caller freezes both.
    """
    a, b = a.root(), b.root()
    if a is b:
        return
    if a.size != b.size:
        raise AxisConflictError(f"{a.size} positions against {b.size}")
    if b.kind == "leaf":
        a, b = b, a
    if a.kind == "leaf":
        _bind(a, b)
    elif a.kind == b.kind == "product":
        _unify_products(flatten(a, "product"), flatten(b, "product"))
    elif a.kind == b.kind == "sum":
        _unify_sums(flatten(a, "sum"), flatten(b, "sum"))
    else:
        _distribute(*((a, b) if a.kind == "product" else (b, a)))


def _bind(leaf: Axis, term: Axis) -> None:
    if term.contains(leaf):
        raise AxisConflictError("an axis would contain itself")
    if leaf.reason is not None:
        term.freeze(leaf.reason)
    leaf.parent = term


def _refine(axis: Axis, kind: Kind, parts: Sequence[Axis]) -> None:
    """Make `axis` equal to the term over fresh `parts`, whatever it is now."""
    term = product(parts) if kind == "product" else concat(parts)
    unify(axis, term)


def _unify_products(xs: list[Axis], ys: list[Axis]) -> None:
    """Meet two factor lists at their common radix, from the fastest factor on."""
    while xs or ys:
        if not xs or not ys:
            raise AxisConflictError("products of different length")
        x, y = xs[-1].root(), ys[-1].root()
        if x.kind == "product" or y.kind == "product":
            xs[-1:], ys[-1:] = flatten(x, "product"), flatten(y, "product")
        elif x.size == y.size:
            xs.pop(), ys.pop()
            unify(x, y)
        elif x.size < y.size:
            xs, ys = ys, xs
        else:
            _split_factor(xs, ys)


def _split_factor(xs: list[Axis], ys: list[Axis]) -> None:
    """Resolve xs[-1] > ys[-1]: several ys make up the x, or the x is divided by the y."""
    x, group, size = xs[-1], 0, 1
    while group < len(ys) and size < x.size:
        group += 1
        size *= ys[-group].size
    if size == x.size:
        term = product(ys[-group:])
        del ys[-group:], xs[-1:]
        unify(x, term)
        return
    y = ys.pop()
    if x.size % y.size:
        raise AxisConflictError(f"{x.size} does not divide by {y.size}")
    outer, inner = Axis(x.size // y.size), Axis(y.size)
    _refine(x, "product", [outer, inner])
    xs[-1:] = [outer]
    unify(inner, y)


def _unify_sums(xs: list[Axis], ys: list[Axis]) -> None:
    """Meet two term lists at their common cuts, from the first term on."""
    xs, ys = xs[::-1], ys[::-1]
    while xs and ys:
        x, y = xs[-1].root(), ys[-1].root()
        if x.kind == "sum" or y.kind == "sum":
            xs[-1:], ys[-1:] = flatten(x, "sum")[::-1], flatten(y, "sum")[::-1]
        elif x.size == y.size:
            xs.pop(), ys.pop()
            unify(x, y)
        elif x.size < y.size:
            xs, ys = ys, xs
        else:
            head, tail = Axis(y.size), Axis(x.size - y.size)
            _refine(x, "sum", [head, tail])
            xs[-1:] = [tail, head]


def _distribute(prod: Axis, total: Axis) -> None:
    """Unify a product with a sum: the slow factors become a sum, the fast ones stay common to every term."""
    outer, terms = flatten(prod, "product"), flatten(total, "sum")
    common = math.gcd(*(t.size for t in terms))
    inner: list[Axis] = []
    while len(outer) > 1 and common % (math.prod(f.size for f in inner) * outer[-1].size) == 0:
        inner.insert(0, outer.pop())
    if not inner:
        _distribute_blocks(outer, terms)
        return
    inner_size = math.prod(f.size for f in inner)
    pieces = [Axis(t.size // inner_size) for t in terms]
    for term, piece in zip(terms, pieces, strict=True):
        unify(term, product([piece, *inner]))
    unify(product(outer), concat(pieces))


def _distribute_blocks(factors: list[Axis], terms: list[Axis]) -> None:
    """Unify where terms are smaller than what varies below the slowest factor: several make up one block of it."""
    inner = factors[1:]
    block = math.prod(f.size for f in inner)
    runs: list[list[Axis]] = [[]]
    for term in terms:
        runs[-1].append(term)
        if sum(t.size for t in runs[-1]) % block == 0:
            runs.append([])
    runs = [run for run in runs if run]
    if len(runs) == 1:
        raise AxisConflictError(f"{product(factors)!r} has no cut at {' + '.join(str(t.size) for t in terms)}")
    pieces = [Axis(sum(t.size for t in run) // block) for run in runs]
    for run, piece in zip(runs, pieces, strict=True):
        unify(concat(run), product([piece, *inner]))
    unify(factors[0], concat(pieces))
