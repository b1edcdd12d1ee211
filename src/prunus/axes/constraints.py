"""Axes that must keep equally many positions, because one number is the size of both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from prunus.axes.algebra import Axis, concat, flatten, unify
from prunus.axes.context import Context
from prunus.axes.following import Claim
from prunus.axes.groups import first_reason
from prunus.axes.planted import Attribute

Pair = tuple[Axis, Axis]


def settle(ctx: Context, claims: Sequence[Claim]) -> list[Pair]:
    """Return the pairs of leaves that must keep equally many positions; freeze where no such pair can say it.

    Pieces of one `chunk`, and sizes that one attribute of a module holds, are equal. Factors that two sizes share
    cancel: H*a == H*b asks for a == b. What is left and is no single leaf cannot be pruned without breaking the tie,
    and what is tied to an axis that keeps all its positions keeps them too.
    """
    held: dict[str, dict[Axis, None]] = {}
    for source, axis in claims:
        if isinstance(source, Attribute) and source.in_module:
            held.setdefault(source.path, {})[axis.root()] = None
    ties = [("one number", axes) for axes in ctx.equal]
    ties += [(path, tuple(axes)) for path, axes in held.items() if len(axes) > 1]
    pairs: dict[Pair, None] = {}
    within: list[tuple[str, tuple[Axis, ...]]] = []
    for name, axes in ties:
        for a, b in combinations(axes, 2):
            why = f"{name} sizes it and axes of another make-up"
            found = _equated(a.root(), b.root(), why)
            pairs.update(dict.fromkeys(found))
            within += [(name, pair) for pair in found]
    ties += within  # H * a == H * b where a is frozen and H is not
    before = -1
    while before != (before := sum(axis.is_frozen() for _, axes in ties for axis in axes)):
        for name, axes in ties:
            stiff = next((axis for axis in axes if axis.is_frozen()), None)
            if stiff is not None:
                why = f"{name} sizes it and an axis that is frozen: {first_reason(stiff)}"
                for axis in axes:
                    axis.freeze(why)
    return [(a, b) for a, b in pairs if a is not b]


def _equated(a: Axis, b: Axis, why: str) -> list[Pair]:
    """State |a| == |b|: nothing where they are one, pairs of leaves where those say it, else frozen."""
    left, right = flatten(a, "product"), flatten(b, "product")
    for factor in list(left):
        if factor in right:
            left.remove(factor)
            right.remove(factor)
    if not left and not right:
        return []
    if len(left) == len(right) == 1 and left[0].size == right[0].size:
        pairs = _matched(left[0], right[0])
        if pairs:
            return pairs
    for factor in (*left, *right):
        factor.freeze(why)
    return []


def _matched(a: Axis, b: Axis) -> list[Pair]:
    """Pair leaves, or the terms of two sums that are cut alike.

    A leaf against a sum is cut where the sum is, as the halves of rotary positions are.
    """
    if b.kind == "leaf":
        a, b = b, a
    own, terms = flatten(a, "sum"), flatten(b, "sum")
    if any(term.kind != "leaf" for term in (*own, *terms)):
        return []
    if [term.size for term in own] == [term.size for term in terms]:
        return list(zip(own, terms, strict=True))
    if a.kind != "leaf":
        return []
    pieces = [Axis(term.size) for term in terms]
    unify(a, concat(pieces))
    return list(zip(pieces, terms, strict=True))
