"""Axes that must keep equally many positions, because one number is the size of both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from prunus.axes.algebra import Axis, flatten
from prunus.axes.context import Context
from prunus.axes.following import Claim
from prunus.axes.planted import Attribute

Pair = tuple[Axis, Axis]


def settle(ctx: Context, claims: Sequence[Claim]) -> list[Pair]:
    """Return the pairs of leaves that must keep equally many positions; freeze where no such pair can say it.

    Pieces of one `chunk`, and sizes that one attribute of a module holds, are equal. Factors that two sizes share
    cancel: H*a == H*b asks for a == b. What is left and is no single leaf cannot be pruned without breaking the tie.
    """
    pairs: dict[Pair, None] = {}
    for axes in ctx.equal:
        for a, b in combinations(axes, 2):
            pairs.update(dict.fromkeys(_equated(a, b, "one number cuts it into pieces that are not single axes")))
    held: dict[str, dict[Axis, None]] = {}
    for source, axis in claims:
        if isinstance(source, Attribute) and source.in_module:
            held.setdefault(source.path, {})[axis.root()] = None
    for path, axes_held in held.items():
        whole = next((a for a in axes_held if a.is_frozen()), None)
        for a, b in combinations(axes_held, 2):
            if whole is not None:
                for axis in (a, b):
                    axis.freeze(f"{path} is its size and that of an axis which keeps all positions")
            elif a.root().kind == b.root().kind == "leaf":
                pairs[a.root(), b.root()] = None
    return [(a, b) for a, b in pairs if a is not b]


def _equated(a: Axis, b: Axis, why: str) -> list[Pair]:
    """State |a| == |b|: nothing where they are one, a pair of leaves where that says it, else frozen."""
    left, right = flatten(a, "product"), flatten(b, "product")
    for factor in list(left):
        if factor in right:
            left.remove(factor)
            right.remove(factor)
    if not left and not right:
        return []
    if len(left) == len(right) == 1 and left[0].kind == right[0].kind == "leaf":
        return [(left[0], right[0])]
    for factor in (*left, *right):
        factor.freeze(why)
    return []
