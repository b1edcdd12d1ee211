"""Exactly k of n, against a stable sort in Python."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus import selection
from prunus.errors import InputError
from prunus.selection import lowest_k, lowest_k_per_row

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def brute_force(lists: list[list[float]], k: int) -> list[list[bool]]:
    """Python's sort is stable, and -0.0 == 0.0 for it: position decides among equals."""
    order = sorted((value, i, j) for i, values in enumerate(lists) for j, value in enumerate(values))
    chosen = {(i, j) for _, i, j in order[:k]}
    return [[(i, j) in chosen for j in range(len(values))] for i, values in enumerate(lists)]


def as_lists(masks):
    return [mask.reshape(-1).tolist() for mask in masks]


few = st.sampled_from([-math.inf, -2.5, -1.0, -0.0, 0.0, 1e-40, 0.5, 1.0, 1.0000001, 3.0, math.inf])
any_float = st.floats(allow_nan=False, width=32)
value_lists = st.lists(st.lists(st.one_of(few, any_float), max_size=9), max_size=4)


@settings(max_examples=300, deadline=None)
@given(lists=value_lists, share=st.floats(0, 1), dtype=st.sampled_from(DTYPES), small=st.booleans())
def test_lowest_k_equals_a_stable_sort(lists, share, dtype, small):
    tensors = [torch.tensor(values, dtype=torch.float64).to(dtype) for values in lists]
    exact = [tensor.tolist() for tensor in tensors]
    k = round(share * sum(map(len, exact)))
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(selection, "_CHUNK", 2)
        masks = lowest_k(tensors, k)
    assert as_lists(masks) == brute_force(exact, k)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_k_of_many_tied_scores(dtype):
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randint(-2, 3, (n,), generator=generator).to(dtype) for n in (7, 0, 1, 12)]
    exact = [tensor.tolist() for tensor in tensors]
    for k in range(21):
        assert as_lists(lowest_k(tensors, k)) == brute_force(exact, k)


def test_neighbouring_floats_are_told_apart_in_the_last_bit():
    one = torch.tensor(1.0)
    scores = torch.stack([torch.nextafter(one, torch.tensor(2.0)), one, torch.nextafter(one, torch.tensor(0.0))])
    assert lowest_k([scores], 1)[0].tolist() == [False, False, True]
    assert lowest_k([scores], 2)[0].tolist() == [False, True, True]
    tiny = torch.tensor([1.0 + 2**-52, 1.0, 1.0 - 2**-53], dtype=torch.float64)
    assert lowest_k([tiny], 2)[0].tolist() == [False, True, True]


def test_minus_zero_ties_with_zero():
    scores = [torch.tensor([0.0, 1.0]), torch.tensor([-0.0, -0.0])]
    assert as_lists(lowest_k(scores, 1)) == [[True, False], [False, False]]
    assert lowest_k_per_row(torch.tensor([[0.0, -0.0]]), 1).tolist() == [[True, False]]


def test_mixed_dtypes_are_compared_exactly():
    half, double = torch.tensor([1.0], dtype=torch.float16), torch.tensor([1.0 - 2**-40], dtype=torch.float64)
    assert as_lists(lowest_k([half, double], 1)) == [[False], [True]]


def test_shapes_views_and_gradients_pass_through():
    scores = torch.randn(4, 6, requires_grad=True).t()
    mask = lowest_k([scores], 5)[0]
    assert mask.shape == (6, 4)
    assert mask.dtype == torch.bool
    worst = scores.detach().reshape(-1).sort(stable=True).indices[:5]
    assert sorted(worst.tolist()) == mask.reshape(-1).nonzero().squeeze(1).tolist()


def test_chunks_of_full_size_agree_with_sort():
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(300_000, generator=generator).round(decimals=3) for _ in range(2)]
    mask = torch.cat(lowest_k(scores, 123_457))
    expected = torch.zeros(600_000, dtype=torch.bool)
    expected[torch.cat(scores).sort(stable=True).indices[:123_457]] = True
    assert torch.equal(mask, expected)


def test_none_and_all_of_nothing():
    assert lowest_k([], 0) == []
    assert lowest_k([torch.empty(0, 3)], 0)[0].shape == (0, 3)
    assert lowest_k_per_row(torch.empty(3, 0), 0).shape == (3, 0)
    assert lowest_k([torch.tensor(2.0)], 1)[0].tolist() is True


@pytest.mark.parametrize("k", [-1, 4, 2.0, "2", Fraction(1)])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(InputError, match="k is"):
        lowest_k([torch.arange(3.0)], k)
    with pytest.raises(InputError, match="k is"):
        lowest_k_per_row(torch.zeros(2, 3), k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 1, 2, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_refused(dtype, k, sign):
    scores = torch.tensor([1.0, math.inf, math.copysign(math.nan, sign), -math.inf], dtype=dtype)
    with pytest.raises(InputError, match="NaN"):
        lowest_k([torch.zeros(0), scores], k)
    with pytest.raises(InputError, match="NaN"):
        lowest_k_per_row(scores.unsqueeze(0), k)


def test_nan_with_the_smallest_payload_is_not_taken_for_infinity():
    nan = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)
    with pytest.raises(InputError, match="tensor 1 contains NaN"):
        lowest_k([torch.zeros(3), nan], 2)


def test_integers_and_vectors_are_refused():
    with pytest.raises(InputError, match="int64"):
        lowest_k([torch.arange(3)], 1)
    with pytest.raises(InputError, match="matrix"):
        lowest_k_per_row(torch.zeros(3), 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rows=st.integers(1, 5), columns=st.integers(1, 6), dtype=st.sampled_from(DTYPES))
def test_rows_equal_a_stable_sort_of_each(data, rows, columns, dtype):
    values = data.draw(st.lists(st.lists(few, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    k = data.draw(st.integers(0, columns))
    scores = torch.tensor(values, dtype=torch.float64).to(dtype)
    expected = [brute_force([row], k)[0] for row in scores.tolist()]
    assert lowest_k_per_row(scores, k).tolist() == expected


def test_rows_are_selected_alike_in_steps(monkeypatch):
    scores = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    whole = lowest_k_per_row(scores, 3)
    monkeypatch.setattr(selection, "_CHUNK", 2)
    assert torch.equal(lowest_k_per_row(scores, 3), whole)
    assert whole.sum(dim=1).eq(3).all()
