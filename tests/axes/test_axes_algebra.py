"""The algebra against brute force: terms are built at random, kept positions are computed by enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.axes.algebra import Axis, AxisConflictError, concat, product, unify
from prunus.axes.positions import kept_positions, size_after, unit_positions

FAST = settings(max_examples=150, deadline=None)


@st.composite
def terms(draw: st.DrawFn, size: int, depth: int = 3) -> Axis:
    """Draw a term of exactly `size` positions."""
    divisors = [d for d in range(2, size) if size % d == 0]
    kinds = ["leaf"] + (["sum"] if size > 1 and depth else []) + (["product"] if divisors and depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "sum":
        cut = draw(st.integers(1, size - 1))
        return concat([draw(terms(cut, depth - 1)), draw(terms(size - cut, depth - 1))])
    if kind == "product":
        outer = draw(st.sampled_from(divisors))
        return product([draw(terms(outer, depth - 1)), draw(terms(size // outer, depth - 1))])
    return Axis(size)


def enumerate_positions(axis: Axis) -> list[tuple[tuple[Axis, int], ...]]:
    """List, for every position of a term, the (leaf, unit) pairs that it is made of."""
    node = axis.root()
    if node.kind == "leaf":
        return [((node, i),) if node.size > 1 else () for i in range(node.size)]  # a factor of 1 may vanish
    parts = [enumerate_positions(part) for part in node.parts]
    if node.kind == "sum":
        return [position for part in parts for position in part]
    out: list[tuple[tuple[Axis, int], ...]] = [()]
    for part in parts:
        out = [a + b for a in out for b in part]
    return out


def draw_kept(data: st.DataObject, *axes: Axis) -> dict[Axis, np.ndarray]:
    """Keep a random non-empty set of every leaf."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    leaves = list(dict.fromkeys(leaf for axis in axes for leaf in axis.leaves()))
    return {leaf: np.sort(rng.permutation(leaf.size)[: rng.integers(1, leaf.size + 1)]) for leaf in leaves}


def by_enumeration(axis: Axis, kept: dict[Axis, np.ndarray]) -> list[int]:
    alive = {leaf: set(positions.tolist()) for leaf, positions in kept.items()}
    made = enumerate_positions(axis)
    return [i for i, owners in enumerate(made) if all(unit in alive[leaf] for leaf, unit in owners)]


@FAST
@given(st.data(), st.integers(1, 48))
def test_kept_positions_and_size_equal_enumeration(data: st.DataObject, size: int) -> None:
    axis = data.draw(terms(size))
    kept = draw_kept(data, axis)
    assert kept_positions(axis, kept).tolist() == by_enumeration(axis, kept)
    assert size_after(axis, kept) == len(by_enumeration(axis, kept))


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 6, 12, 16, 24, 36, 48, 60]))
def test_unified_terms_keep_the_same_positions(data: st.DataObject, size: int) -> None:
    a, b = data.draw(terms(size)), data.draw(terms(size))
    try:
        unify(a, b)
    except AxisConflictError:
        return
    kept = draw_kept(data, a, b)
    assert kept_positions(a, kept).tolist() == kept_positions(b, kept).tolist()
    assert size_after(a, kept) == size_after(b, kept) == len(kept_positions(a, kept))
    assert enumerate_positions(a) == enumerate_positions(b)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([6, 12, 24, 36]))
def test_unifying_a_web_of_terms_holds_for_every_pair_or_conflicts(data: st.DataObject, size: int) -> None:
    """Terms share leaves, as they do in a network; a conflict may come, a wrong pairing may not."""
    pool = [data.draw(terms(size, 2)) for _ in range(4)]
    pool.append(concat([pool[0], pool[1]]))
    pool.append(concat([pool[2], pool[3]]))
    pool.append(product([Axis(2), pool[0]]))
    stated = []
    for _ in range(4):
        i, j = data.draw(st.sampled_from([(0, 1), (0, 2), (1, 3), (4, 5), (4, 6), (5, 6), (2, 3)]))
        try:
            unify(pool[i], pool[j])
        except AxisConflictError:
            continue
        stated.append((i, j))
    kept = draw_kept(data, *pool)
    for i, j in stated:
        assert kept_positions(pool[i], kept).tolist() == kept_positions(pool[j], kept).tolist()


@FAST
@given(st.data(), st.integers(1, 40))
def test_unit_positions_equal_enumeration(data: st.DataObject, size: int) -> None:
    axis = data.draw(terms(size))
    made = enumerate_positions(axis)
    for leaf in dict.fromkeys(axis.leaves()):
        rows = unit_positions(axis, leaf)
        want = [[i for i, owners in enumerate(made) if (leaf, unit) in owners] for unit in range(leaf.size)]
        assert rows.tolist() == want or leaf.size == 1


def test_unit_positions_of_a_leaf_that_occurs_in_two_terms() -> None:
    leaf = Axis(3)
    assert unit_positions(concat([leaf, Axis(2), leaf]), leaf).tolist() == [[0, 5], [1, 6], [2, 7]]


def test_unit_positions_refuse_a_square() -> None:
    leaf = Axis(3)
    with pytest.raises(ValueError, match="two factors"):
        unit_positions(product([leaf, leaf]), leaf)


def test_a_leaf_becomes_what_it_meets_wherever_it_occurs() -> None:
    leaf, heads, depth = Axis(12), Axis(3), Axis(4)
    other = concat([leaf, Axis(5)])
    unify(leaf, product([heads, depth]))
    assert [a.size for a in other.leaves()] == [3, 4, 5]
    assert kept_positions(other, {heads: np.array([1])}).tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 16]


def test_products_meet_at_the_common_radix() -> None:
    a, b = product([Axis(4), Axis(6)]), product([Axis(8), Axis(3)])
    unify(a, b)
    assert [leaf.size for leaf in a.leaves()] == [leaf.size for leaf in b.leaves()] == [4, 2, 3]


def test_sums_meet_at_the_common_cuts() -> None:
    a, b = concat([Axis(4), Axis(6)]), concat([Axis(7), Axis(3)])
    unify(a, b)
    assert [leaf.size for leaf in a.leaves()] == [leaf.size for leaf in b.leaves()] == [4, 3, 3]


def test_a_product_meets_a_sum_by_dividing_its_slowest_factor() -> None:
    a, b = product([Axis(6), Axis(4)]), concat([Axis(8), Axis(16)])
    unify(a, b)
    assert list(a.leaves())[-1] in set(b.leaves())
    assert [leaf.size for leaf in b.leaves()] == [2, 4, 4, 4]


def test_a_product_meets_a_sum_of_terms_smaller_than_its_block() -> None:
    """Two heads of rotary halves, as a concatenation of four: each head is one half after the other."""
    heads, depth, terms = Axis(2), Axis(16), [Axis(8) for _ in range(4)]
    unify(product([heads, depth]), concat(terms))
    assert [leaf.size for leaf in depth.leaves()] == [8, 8]
    assert terms[0].root() is terms[2].root() is not terms[1].root()
    assert terms[1].root() is terms[3].root()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (lambda: product([Axis(4), Axis(3)]), lambda: product([Axis(3), Axis(4)])),
        (lambda: product([Axis(29), Axis(2)]), lambda: concat([Axis(29), Axis(29)])),
        (lambda: Axis(4), lambda: Axis(5)),
    ],
    ids=["radices without common divisor", "odd halves of an interleaved axis", "sizes"],
)
def test_what_has_no_common_refinement_conflicts(a: object, b: object) -> None:
    with pytest.raises(AxisConflictError):
        unify(a(), b())  # type: ignore[operator]


def test_occurs_check_refuses_an_infinite_axis() -> None:
    leaf = Axis(1)
    leaf_in_itself = Axis(1, "product", [leaf, Axis(1)])
    with pytest.raises(AxisConflictError, match="itself"):
        unify(leaf, leaf_in_itself)


def test_a_frozen_leaf_passes_its_reason_to_the_term_that_it_becomes() -> None:
    leaf, a, b = Axis(6), Axis(2), Axis(3)
    leaf.freeze("first")
    unify(product([a, b]), leaf)
    assert a.reason == b.reason == "first"
    leaf.freeze("second")
    assert a.reason == "first"


def test_unifying_frozen_with_free_freezes_both_ways() -> None:
    for order in (0, 1):
        pair = [Axis(4), Axis(4)]
        pair[order].freeze("why")
        unify(*pair)
        assert pair[0].is_frozen()
        assert pair[1].is_frozen()


def test_a_thousand_residual_additions_stay_flat() -> None:
    first = Axis(64)
    axes = [Axis(64) for _ in range(5000)]
    for axis in axes:
        unify(first, axis)
    unify(axes[0], product([Axis(8), Axis(8)]))
    assert all(a.root() is first.root() for a in axes)


def test_long_concatenations_do_not_exhaust_the_stack() -> None:
    """DenseNet's pattern, 2000 deep: each sum holds the one before."""
    axis = Axis(4)
    for _ in range(2000):
        axis = concat([axis, Axis(4)])
    assert axis.size == 4 * 2001
    assert math.prod([size_after(axis, {})]) == axis.size
