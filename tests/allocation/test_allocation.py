"""Exact counts, floors and rounding, against brute force."""

import math
from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.allocation import (
    Allocator,
    Global,
    PerLayer,
    ScoredTarget,
    Threshold,
    Uniform,
    allocator,
    check_ratio,
    num_pruned,
    with_floors,
)
from prunus.errors import InputError, NameNotFound
from prunus.granularity import weight_targets

EVERY = ["uniform", "global", {"per_layer": {"*": 0.4}}, {"threshold": {"*": 0.5}}]


def scored(*lists, **options):
    return {f"t{i}": ScoredTarget(torch.tensor(values), **options) for i, values in enumerate(lists)}


@pytest.mark.parametrize(
    ("fraction", "total", "expected"),
    [(0.5, 3, 2), (0.145, 100, 15), (0.29, 100, 29), (0.0, 7, 0), (1.0, 7, 7), (0.7, 10, 7), (0.1, 4, 0), (0.5, 1, 1)],
)
def test_counts_by_hand(fraction, total, expected):
    assert num_pruned(fraction, total) == expected


@given(thousandths=st.integers(0, 1000), total=st.integers(0, 10**9))
def test_counts_round_the_written_decimal_half_up(thousandths, total):
    assert num_pruned(thousandths / 1000, total) == (2 * thousandths * total + 1000) // 2000


@given(fraction=st.floats(0, 1), total=st.integers(0, 10**6))
def test_counts_are_within_half_a_unit(fraction, total):
    assert abs(Decimal(fraction) * total - num_pruned(fraction, total)) <= Decimal("0.5000001")


@given(size=st.integers(0, 60), share=st.floats(0, 1), minimum=st.integers(0, 3), round_to=st.integers(1, 16))
def test_floors_keep_the_smallest_allowed_number(size, share, minimum, round_to):
    pruned = round(share * size)
    kept = size - with_floors(pruned, size, minimum=minimum, round_to=round_to)
    allowed = [n for n in range(size + 1) if (n % round_to == 0 or n == size) and n >= min(minimum, size)]
    assert kept == min(n for n in allowed if n >= size - pruned)


def test_uniform_by_hand():
    assert Uniform().counts(scored([0.0] * 10, [0.0] * 5, []), 0.5) == {"t0": 5, "t1": 3, "t2": 0}


def test_structured_targets_keep_a_unit_and_round_up():
    assert Uniform().counts(scored([0.0] * 4, minimum=1), 0.99) == {"t0": 3}
    assert Uniform().counts(scored([0.0] * 10, round_to=4), 0.5) == {"t0": 2}
    assert Global().counts(scored([1.0, 1.0], [5.0, 5.0], minimum=1), 0.99) == {"t0": 1, "t1": 1}


@pytest.mark.parametrize("spec", EVERY)
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_counts_stay_within_floors_and_keep_the_order(spec, fraction):
    targets = scored([0.1, 0.9, 0.4], [0.2] * 7, [1.0], minimum=1, round_to=2)
    counts = allocator(spec).counts(targets, fraction)
    assert list(counts) == list(targets)
    for name, target in targets.items():
        kept = target.num_units - counts[name]
        assert 1 <= kept <= target.num_units
        assert kept % 2 == 0 or kept == target.num_units


@pytest.mark.parametrize("spec", EVERY)
def test_fixed_targets_keep_their_number(spec):
    targets = {"a": ScoredTarget(torch.ones(8), fixed=4), "b": ScoredTarget(torch.ones(10))}
    assert allocator(spec).counts(targets, 0.3)["a"] == 4


def test_global_ranks_only_what_is_not_fixed():
    targets = {"a": ScoredTarget(torch.zeros(8), fixed=4), "b": ScoredTarget(torch.ones(10))}
    assert Global("none").counts(targets, 0.5) == {"a": 4, "b": 5}


@settings(max_examples=150, deadline=None)
@given(
    lists=st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0]), max_size=8), min_size=1, max_size=4),
    fraction=st.floats(0, 1),
    normalise=st.sampled_from(["mean", "none", "max"]),
)
def test_global_prunes_exactly_k_of_all_lowest_first(lists, fraction, normalise):
    lists = [[float(value) for value in values] for values in lists]
    targets = {f"t{i}": ScoredTarget(torch.tensor(v, dtype=torch.float64)) for i, v in enumerate(lists)}
    counts = Global(normalise).counts(targets, fraction)
    scale = {"mean": lambda v: sum(v) / len(v), "max": max, "none": lambda v: 1}[normalise]
    flat = [(x / (scale(v) or 1), i) for i, v in enumerate(lists) for x in v]
    k = num_pruned(fraction, len(flat))
    lowest = sorted(flat)[:k]
    assert sum(counts.values()) == k
    assert list(counts.values()) == [sum(i == j for _, j in lowest) for i in range(len(lists))]


def test_global_protects_the_best_unit_and_prunes_elsewhere_instead():
    targets = scored([1.0, 2.0], [10.0, 20.0, 30.0, 40.0], minimum=1)
    assert Global("none").counts(targets, 0.5) == {"t0": 1, "t1": 2}
    assert Global("none").counts(scored([1.0, 2.0], [10.0, 20.0, 30.0, 40.0]), 0.5) == {"t0": 2, "t1": 1}


def test_global_weighs_units_by_their_elements():
    """Total cost 4·1 + 2·10 = 24; half is 12: the units of cost 1, 1, 10 fit in order of score, the next does not."""
    targets = {
        "small": ScoredTarget(torch.tensor([0.1, 0.2, 0.8, 0.9]), weight=1),
        "large": ScoredTarget(torch.tensor([0.3, 0.4]), weight=10),
    }
    assert Global("none").counts(targets, 0.5) == {"small": 2, "large": 1}


@settings(max_examples=100, deadline=None)
@given(
    lists=st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 40)), min_size=1, max_size=8), min_size=1),
    fraction=st.floats(0, 1),
)
def test_global_counts_the_elements_of_units_that_differ_in_size(lists, fraction):
    targets = {
        f"t{i}": ScoredTarget(
            torch.tensor([float(s) for s, _ in units]), 7.5, sizes=torch.tensor([n for _, n in units])
        )
        for i, units in enumerate(lists)
    }
    ranked = sorted(((s, i, n) for i, units in enumerate(lists) for s, n in units), key=lambda unit: unit[:2])
    left, gone = fraction * sum(n for _, _, n in ranked) * (1 + 1e-12), [0] * len(lists)
    for _, i, size in ranked:
        left -= size
        if left < 0:
            break
        gone[i] += 1
    assert list(Global("none").counts(targets, fraction).values()) == gone
    for units, target in zip(lists, targets.values(), strict=True):
        order = sorted(range(len(units)), key=lambda place: units[place][0])
        for count in range(len(units) + 1):
            assert target.spent(count) == sum(units[place][1] for place in order[:count])


def test_global_element_sparsity_of_a_model_is_exact():
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.Linear(11, 5), nn.Linear(5, 3))
    params = dict(model.named_parameters())
    targets = {
        t.name: ScoredTarget.of(t, params[t.name].detach().abs().reshape(-1)) for t in weight_targets(model, "element")
    }
    total = sum(t.num_units for t in targets.values())
    for fraction in (0.1, 1 / 3, 0.5, 0.95):
        assert sum(Global().counts(targets, fraction).values()) == math.floor(fraction * total + 0.5)


def test_per_layer_takes_the_first_match_and_scales_with_progress():
    kind = PerLayer({"conv*": 0.5, "conv2": 0.9, "fc": 0.2})
    targets = {name: ScoredTarget(torch.ones(10)) for name in ("conv1", "conv2", "fc", "other")}
    assert kind.counts(targets, 1.0) == {"conv1": 5, "conv2": 5, "fc": 2, "other": 0}
    assert kind.counts(targets, 0.5) == {"conv1": 3, "conv2": 3, "fc": 1, "other": 0}
    assert kind.uses_progress
    assert not Uniform().uses_progress


def test_per_layer_finds_a_group_by_its_parameter_and_brackets_by_name():
    targets = {"g[0]": ScoredTarget(torch.ones(10), names=("g[0]", "conv1.weight"))}
    assert PerLayer({"conv1.weight": 0.3}).counts(targets, 1.0) == {"g[0]": 3}
    assert PerLayer({"g[0]": 0.3}).counts(targets, 1.0) == {"g[0]": 3}
    with pytest.raises(NameNotFound, match=r"did you mean conv1\.weight"):
        PerLayer({"conv1.wieght": 0.3}).counts(targets, 1.0)


def test_threshold_prunes_what_is_at_most_as_large_and_star_is_last():
    kind = Threshold({"*": 0.25, "t1": 2.0})
    targets = scored([0.1, 0.25, 0.3], [1.0, 2.0, 3.0])
    assert kind.counts(targets, 1.0) == {"t0": 2, "t1": 2}
    assert kind.counts(targets, 0.5) == {"t0": 1, "t1": 1}
    with pytest.raises(NameNotFound, match="t9"):
        Threshold({"t9": 1.0}).counts(targets, 1.0)


@pytest.mark.parametrize(
    ("granularity", "weight", "minimum", "round_to", "fixed"),
    [
        ("filter", 18, 1, 4, None),
        ("channel", 54, 1, 4, None),
        ("element", 1, 0, 1, None),
        ("kernel", 9, 0, 1, None),
        ("1:2", 1, 0, 1, 54),
    ],
)
def test_scored_targets_read_their_bounds_off_the_target(granularity, weight, minimum, round_to, fixed):
    target = weight_targets(nn.Conv2d(2, 6, 3), granularity)[0]
    got = ScoredTarget.of(target, torch.zeros(target.num_units), round_to=4)
    assert (got.weight, got.minimum, got.round_to, got.fixed) == (weight, minimum, round_to, fixed)


@pytest.mark.parametrize("spec", EVERY)
def test_allocators_satisfy_the_protocol(spec):
    assert isinstance(allocator(spec), Allocator)
    assert allocator(allocator(spec)) is not None
    assert allocator(spec) == allocator(spec)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("unifrom", NameNotFound, "did you mean uniform"),
        ({"global": {"normalize": "max"}}, NameNotFound, "did you mean normalise"),
        ({"global": {"normalise": "men"}}, NameNotFound, "did you mean mean"),
        ({"per_layer": {}}, InputError, "empty"),
        ("per_layer", InputError, "empty"),
        ({"per_layer": {"a": "40%"}}, InputError, "did you mean 0.4"),
        ({"per_layer": 0.5}, InputError, "mapping"),
        ({"threshold": {"a": -1}}, InputError, "at least 0"),
        ({"uniform": {"x": 1}}, NameNotFound, "option of allocation uniform"),
        ({"uniform": {}, "global": {}}, InputError, "exactly one"),
        (3, InputError, "counts"),
        (Uniform, InputError, "counts"),
    ],
)
def test_wrong_allocations_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        allocator(spec)


@pytest.mark.parametrize("value", [0, 0.0, 0.4, 0.999, 1e-9])
def test_ratios_pass_as_floats(value):
    assert check_ratio("final", value) == value
    assert isinstance(check_ratio("final", value), float)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.0, "final is 1.0, which would remove everything"),
        (1, "remove everything"),
        (-0.1, "final is -0.1"),
        ("40", r"did you mean 0\.4\?"),
        ("40%", r"did you mean 0\.4\?"),
        ("0.4", r"did you mean 0\.4\?"),
        ("0.5%", r"did you mean 0\.005\?"),
        (40, r"did you mean 0\.4\?"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (True, "True"),
        (False, "False"),
        (None, "None"),
        ("half", "'half'"),
        ([0.5], "number"),
    ],
)
def test_what_is_no_ratio_is_explained(value, words):
    with pytest.raises(InputError, match=words):
        check_ratio("final", value)


@pytest.mark.parametrize("round_to", [0, -4, 2.0, True])
def test_round_to_is_checked(round_to):
    with pytest.raises(InputError, match="round_to"):
        ScoredTarget(torch.ones(2), round_to=round_to)
