"""The order in which n:m keeps more: against all orders of eight columns, and by hand."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import InputError
from prunus.granularity import kept_saliency, permutation_for


def uniform(rows, columns, seed=0):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best_of_all(scores, n):
    """The most that any order of eight columns keeps: the 35 ways to make two groups of four."""
    splits = [[0, *rest, *sorted(set(range(1, 8)) - set(rest))] for rest in combinations(range(1, 8), 3)]
    assert len(splits) == 35
    return max(kept_saliency(scores[:, split], n, 4) for split in splits)


def test_kept_saliency_by_hand():
    assert kept_saliency(torch.tensor([[4.0, 1, 3, 2, 5, 6]]), 2, 4) == 4 + 3 + 6


def test_four_good_columns_in_one_group_are_spread_over_two():
    scores = torch.tensor([[9.0, 8, 7, 6, 1, 1, 1, 1]])
    order = permutation_for(scores, 2, 4)
    assert kept_saliency(scores, 2, 4) == 9 + 8 + 1 + 1
    assert kept_saliency(scores[:, order], 2, 4) == 9 + 8 + 7 + 6


@pytest.mark.parametrize("rows", [1, 2, 5, 20])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_eight_columns_swaps_find_nearly_the_best_of_all_orders(rows, n):
    found, best, before = 0.0, 0.0, 0.0
    for seed in range(20):
        scores = uniform(rows, 8, seed)
        now = kept_saliency(scores[:, permutation_for(scores, n, 4)], n, 4)
        assert kept_saliency(scores, n, 4) <= now <= best_of_all(scores, n) + 1e-12
        assert now >= 0.95 * best_of_all(scores, n)
        found, best, before = found + now, best + best_of_all(scores, n), before + kept_saliency(scores, n, 4)
    assert found - before >= 0.8 * (best - before)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 4),
    more=st.integers(1, 3),
    extra=st.integers(0, 20),
    rows=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_an_order_is_a_permutation_that_no_swap_improves_and_never_loses(n, more, extra, rows, seed):
    m = n + more
    scores = uniform(rows, m + extra, seed) - 0.3
    order = permutation_for(scores, n, m)
    assert sorted(order.tolist()) == list(range(m + extra))
    now = kept_saliency(scores[:, order], n, m)
    assert now >= kept_saliency(scores, n, m)
    for a, b in combinations(range(m + extra), 2):
        swapped = order.clone()
        swapped[[a, b]] = order[[b, a]]
        assert kept_saliency(scores[:, swapped], n, m) <= now + 1e-9


def test_columns_that_fit_stay_where_they_are():
    assert permutation_for(torch.ones(3, 12), 2, 4).tolist() == list(range(12))
    assert permutation_for(torch.eye(4).repeat(1, 3), 2, 4).tolist() == list(range(12))
    assert permutation_for(uniform(3, 4), 2, 4).tolist() == [0, 1, 2, 3]


def test_the_same_scores_give_the_same_order_and_scaling_does_not_matter():
    scores = uniform(9, 32)
    order = permutation_for(scores, 2, 4)
    assert torch.equal(permutation_for(scores.clone(), 2, 4), order)
    assert torch.equal(permutation_for(scores * 2.0**40, 2, 4), order)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_scores_never_lose_either(dtype):
    scores = uniform(64, 64).to(dtype)
    assert kept_saliency(scores[:, permutation_for(scores, 2, 4)], 2, 4) > kept_saliency(scores, 2, 4)


@pytest.mark.parametrize(
    "bad", [torch.ones(8), torch.ones(2, 8).long(), torch.full((2, 8), torch.nan), torch.ones(2, 3)]
)
def test_what_cannot_be_ordered_is_refused(bad):
    with pytest.raises(InputError):
        permutation_for(bad, 2, 4)
