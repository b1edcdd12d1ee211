"""ERK, LAMP, OWL, linear and curves, against the papers' definitions written a second time."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.allocation import ScoredTarget, allocator, cut, lamp_scores, num_kept, num_pruned
from prunus.errors import FileError, InputError, NameNotFound
from prunus.granularity import granularity, weight_targets

SHAPES = [(4, 1, 3, 3), (8, 4, 3, 3), (16, 8, 1, 1), (10, 256)]
CURVES = {"metric": "top1", "levels": [0.2, 0.6], "dense": 0.9, "curves": {"t0": [0.9, 0.7], "t1": [0.8, 0.4]}}


def of_shapes(*shapes: tuple[int, ...], seed: int = 0, **options: Any) -> dict[str, ScoredTarget]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"t{i}": ScoredTarget(torch.rand(math.prod(shape), generator=generator), shapes=(shape,), **options)
        for i, shape in enumerate(shapes)
    }


def rigl_densities(shapes: list[tuple[int, ...]], sparsity: float, *, kernel: bool) -> list[float]:
    """Evci's loop: layers whose probability exceeds one are made dense, the fullest first, until none does."""
    raw = [sum(s if kernel else s[:2]) / math.prod(s if kernel else s[:2]) for s in shapes]
    sizes, dense = [math.prod(s) for s in shapes], set[int]()
    while True:
        right = sum((1 - sparsity) * n if i not in dense else -sparsity * n for i, n in enumerate(sizes))
        epsilon = right / sum(r * n for i, (r, n) in enumerate(zip(raw, sizes, strict=True)) if i not in dense)
        fullest = max(r for i, r in enumerate(raw) if i not in dense)
        if epsilon * fullest <= 1:
            return [1.0 if i in dense else epsilon * r for i, r in enumerate(raw)]
        dense |= {i for i, r in enumerate(raw) if r == fullest}


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", ["erdos_renyi_kernel", "erdos_renyi"])
def test_erdos_renyi_keeps_what_the_paper_s_loop_keeps(name: str, sparsity: float) -> None:
    counts = allocator(name).counts(of_shapes(*SHAPES), sparsity)
    densities = rigl_densities(SHAPES, sparsity, kernel=name.endswith("kernel"))
    for shape, density, pruned in zip(SHAPES, densities, counts.values(), strict=True):
        assert abs((1 - density) * math.prod(shape) - pruned) <= 2  # the counts of four are rounded to one total
    assert sum(counts.values()) == num_pruned(sparsity, sum(map(math.prod, SHAPES)))


def test_erdos_renyi_by_hand() -> None:
    """(4 + 4) / 16 against (4 + 16) / 64: 8 ε and 20 ε of 80 stay; half of 80 needs ε = 40 / 28."""
    assert allocator("erdos_renyi").counts(of_shapes((4, 4), (4, 16)), 0.5) == {"t0": 16 - 11, "t1": 64 - 29}


def test_a_filter_target_has_the_density_of_its_weight() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 64, 3))
    found = {
        t.name: ScoredTarget.of(t, torch.rand(t.num_units)) for t in weight_targets(model, granularity("filter"), "*")
    }
    assert [target.shapes for target in found.values()] == [((16, 3, 3, 3),), ((64, 16, 3, 3),)]
    counts = allocator("erdos_renyi_kernel").counts(found, 0.5)
    assert counts["0.weight"] == 0  # 25 of 432 is denser than 86 of 9216
    assert counts["1.weight"] > 32


def lamp_by_definition(scores: list[float]) -> list[float]:
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    found = [0.0] * len(scores)
    for place, i in enumerate(order):
        rest = sum(scores[j] ** 2 for j in order[place:])
        found[i] = scores[i] ** 2 / rest if rest else 0.0
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0, 1e-3]), min_size=1, max_size=9))
def test_lamp_scores_follow_the_definition(scores: list[float]) -> None:
    got = lamp_scores(torch.tensor(scores, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor(lamp_by_definition(scores), dtype=torch.float64))


def test_lamp_by_hand() -> None:
    """1/14, 4/13, 9/9 beside 1/2, 1: the first two and a half go first, whatever the second layer's unit."""
    targets = {"a": ScoredTarget(torch.tensor([1.0, 2.0, 3.0])), "b": ScoredTarget(torch.tensor([1e-9, 1e-9]))}
    torch.testing.assert_close(lamp_scores(targets["a"].scores), torch.tensor([1 / 14, 4 / 13, 1]).double())
    assert allocator("lamp").counts(targets, 0.4) == {"a": 2, "b": 0}
    assert allocator("lamp").counts(targets, 0.6) == {"a": 2, "b": 1}


def test_lamp_does_not_lose_small_numbers_when_it_squares() -> None:
    tiny = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) * 1e-200
    torch.testing.assert_close(lamp_scores(tiny), torch.tensor([1 / 14, 4 / 13, 1], dtype=torch.float64))


def owl_densities(layers: list[np.ndarray], sparsity: float, m: float, spread: float) -> np.ndarray:
    """The authors' lines."""
    outliers = np.array([100 * float((x > m * x.mean()).sum()) / x.size for x in layers])
    outliers = (outliers - outliers.min()) * (1 / (outliers.max() - outliers.min()) * spread * 2)
    return outliers - outliers.mean() + (1 - sparsity)


@pytest.mark.parametrize("m", [2.0, 5.0])
def test_owl_keeps_what_the_authors_lines_keep(m: float) -> None:
    rng = np.random.default_rng(0)
    layers = [rng.exponential(size=4000) ** power for power in (1.0, 1.5, 2.0, 3.0)]
    targets = {f"t{i}": ScoredTarget(torch.tensor(layer)) for i, layer in enumerate(layers)}
    counts = allocator({"owl": {"m": m}}).counts(targets, 0.7)
    want = (1 - owl_densities(layers, 0.7, m, 0.08)) * 4000
    assert np.abs(np.array(list(counts.values())) - want).max() <= 1
    assert sum(counts.values()) == 11200
    assert max(want) - min(want) == pytest.approx(0.16 * 4000)


def test_owl_takes_the_targets_of_a_block_together() -> None:
    calm, wild = torch.ones(100), torch.cat([torch.ones(90), torch.full((10,), 100.0)])
    names = (
        "layers.0.q.weight",
        "layers.0.mlp.up.weight",
        "layers.1.q.weight",
        "layers.1.mlp.up.weight",
        "head.weight",
    )
    targets = {name: ScoredTarget(wild if name == "layers.1.q.weight" else calm) for name in names}
    counts = allocator("owl").counts(targets, 0.5)
    assert list(counts.values()) == [57, 57, 40, 40, 56]  # 0.16 between them, the odd unit from the last


def test_owl_without_any_outlier_is_uniform() -> None:
    assert set(allocator("owl").counts(of_shapes((10, 10), (10, 10)), 0.3).values()) == {30}


def test_linear_meets_its_ends_where_their_mean_is_asked() -> None:
    targets = of_shapes((10, 10), (10, 10), (10, 10))
    line = allocator({"linear": {"first": 0.3, "last": 0.7}})
    assert list(line.counts(targets, 0.5).values()) == [30, 50, 70]
    assert list(line.counts(targets, 0.25).values()) == [15, 25, 35]


def test_curves_cut_at_a_drop_or_at_the_total(tmp_path: Any) -> None:
    """Drops are 0, .2 and .1, .5 at .2, .6: .1 cuts at .4 and .2; of 200 units half needs .5·.4/.2 steps of both."""
    file = tmp_path / "curves.json"
    file.write_text(json.dumps(CURVES))
    targets = of_shapes((10, 10), (10, 10))
    given_drop = allocator({"curves": {"file": str(file), "max_drop": 0.1}})
    assert given_drop.uses_progress
    assert given_drop.counts(targets, 1.0) == {"t0": 40, "t1": 20}
    assert given_drop.counts(targets, 0.5) == {"t0": 20, "t1": 10}
    share = allocator({"curves": {"file": str(file)}})
    assert not share.uses_progress
    assert share.counts(targets, 0.3) == {"t0": 40, "t1": 20}
    assert share.counts(targets, 0.4) == {"t0": 53, "t1": 27}  # a drop of 1/6
    assert share.counts(targets, 0.6) == {"t0": 60, "t1": 60}
    assert share.counts(targets, 0.8) == {"t0": 80, "t1": 80}


@given(
    drops=st.lists(st.floats(-0.2, 1), min_size=1, max_size=6),
    most=st.floats(0, 0.8),
)
@example(drops=[-0.125, 3.7520623691244434e-228, -0.125], most=0.0)
def test_a_curve_is_cut_where_it_first_falls_too_far(drops: list[float], most: float) -> None:
    levels = [0.9 * (at + 1) / len(drops) for at in range(len(drops))]
    found = cut(levels, drops, most)
    assert 0 <= found <= levels[-1]
    on_the_way = np.linspace(0, found, 50)
    assert (np.interp(on_the_way, [0, *levels], [0, *drops]) <= most + 1e-9).all()
    if found < levels[-1]:  # all of what is allowed is used
        assert np.interp(found, [0, *levels], [0, *drops]) == pytest.approx(most, abs=1e-9)


def test_a_curve_that_is_no_number_is_cut_at_the_level_before() -> None:
    assert cut((0.3, 0.5, 0.9), (math.nan, 0.0, 0.0), 0.1) == 0
    assert cut((0.3, 0.5, 0.9), (0.0, math.inf, 0.0), 0.1) == 0.3


EVERY: list[Any] = [
    "uniform", "global", "erdos_renyi_kernel", "erdos_renyi", "lamp", "owl", {"linear": {"first": 0.2, "last": 0.9}},
]  # fmt: skip
EXACT = EVERY[1:]


def drawn(lists: list[list[float]], **options: Any) -> dict[str, ScoredTarget]:
    return {
        f"t{i}": ScoredTarget(torch.tensor(v, dtype=torch.float64), shapes=((len(v), 1 + i),), **options)
        for i, v in enumerate(lists)
    }


LISTS = st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0]), max_size=9), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(lists=LISTS, fraction=st.floats(0, 1), spec=st.sampled_from(EXACT), minimum=st.integers(0, 2))
def test_the_total_is_exact_within_floors(lists: Any, fraction: float, spec: Any, minimum: int) -> None:
    targets = drawn(lists, minimum=minimum)
    counts = allocator(spec).counts(targets, fraction)
    most = {name: max(0, t.num_units - minimum) for name, t in targets.items()}
    assert list(counts) == list(targets)
    assert all(0 <= counts[name] <= most[name] for name in counts)
    assert sum(counts.values()) == min(num_pruned(fraction, sum(map(len, lists))), sum(most.values()))


@settings(max_examples=40, deadline=None)
@given(lists=LISTS, pair=st.tuples(st.floats(0, 1), st.floats(0, 1)), spec=st.sampled_from(EVERY))
def test_no_target_gets_less_when_more_is_asked(lists: Any, pair: tuple[float, float], spec: Any) -> None:
    targets = drawn(lists)
    less, more = (allocator(spec).counts(targets, fraction) for fraction in sorted(pair))
    assert all(less[name] <= more[name] for name in targets)


@pytest.mark.parametrize("spec", EVERY)
def test_ceilings_are_met_and_the_rest_goes_elsewhere(spec: Any) -> None:
    model = nn.Sequential(nn.Linear(20, 10), nn.Linear(10, 10), nn.Linear(10, 30))
    torch.manual_seed(0)
    model[0].weight.data *= 1e-3
    found = weight_targets(model, granularity("element"), "*")
    targets = {
        t.name: ScoredTarget.of(t, model.get_parameter(t.name).detach().abs().flatten(), max_ratio=0.7) for t in found
    }
    counts = allocator(spec).counts(targets, 0.65)
    assert all(counts[t.name] <= 0.7 * t.num_units for t in found)
    assert sum(counts.values()) == 390


@pytest.mark.parametrize(("ratio", "total", "stays"), [(1.0, 7, 0), (0.3, 10, 7), (0.35, 10, 7), (0.999, 10, 1)])
def test_what_stays_under_a_ceiling(ratio: float, total: int, stays: int) -> None:
    assert num_kept(ratio, total) == stays


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ({"owl": {"m": -1}}, InputError, "owl.m is -1"),
        ({"owl": {"lam": 0.1}}, NameNotFound, "option of allocation owl named 'lam'"),
        ("linear", InputError, r"linear lacks first; write \{linear: \{first, last\}\}"),
        ({"linear": {"first": 0.0, "last": 0.0}}, InputError, "both 0"),
        ({"linear": {"first": 0.5, "last": 1.0}}, InputError, "would remove everything"),
        ({"curves": {"file": "nowhere.json"}}, FileError, "nowhere.json cannot be read"),
        ("erdos_reny", NameNotFound, "did you mean erdos_renyi"),
    ],
)
def test_wrong_words_are_named(spec: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        allocator(spec)


@pytest.mark.parametrize("content", ["{", "[]", '{"levels": [0.5]}', '{"levels": ["x"], "dense": 1, "curves": {}}'])
def test_a_file_without_curves_is_named(content: str, tmp_path: Any) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(FileError, match=r"bad.json holds no sensitivity curves"):
        allocator({"curves": {"file": str(tmp_path / "bad.json")}})


@pytest.mark.parametrize("wrong", [0, 1.5, "0.5", True])
def test_a_ceiling_is_a_ratio(wrong: Any) -> None:
    with pytest.raises(InputError, match="max_ratio is"):
        num_kept(wrong, 10)
