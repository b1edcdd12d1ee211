"""Laws of every registered criterion, closed forms of the norms, and the scores of groups."""

import hashlib
import math
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from criteria_tables import rows
from prunus import criteria
from prunus.criteria import (
    Criterion,
    Magnitude,
    Random,
    criterion,
    criterion_names,
    normalised,
    register,
    score_target,
)
from prunus.errors import InputError, NameNotFound
from prunus.granularity import MemberUnits, Part, Target, granularity, registry
from prunus.granularity.spelling import Call, parse_call
from prunus.statistics import Statistics

ARGUMENTS = {"lp": "lp(3)"}
EVERY = [ARGUMENTS.get(name, name) for name in criterion_names()]
ALONE = [spec for spec in EVERY if not criterion(spec).needs]
NORMS = ["l1", "l2", "linf", "lp(3)", "magnitude"]


def score(spec, units, counts=None, name="w"):
    return criterion(spec).score(rows(units, counts, name), Statistics())


def test_the_promised_names_are_registered():
    assert {"l1", "l2", "linf", "lp", "magnitude", "random"} <= set(criterion_names())


@pytest.mark.parametrize("spec", EVERY)
def test_members_satisfy_the_protocol_and_read_back(spec):
    made = criterion(spec)
    assert isinstance(made, Criterion)
    assert isinstance(made.needs, frozenset)
    assert criterion(made.name) == made
    assert eval(repr(made), {**vars(criteria), "inf": math.inf}) == made


@pytest.mark.parametrize("spec", ALONE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (5, 1), (4, 6), (3, 0)])
def test_one_finite_score_per_unit_in_full_precision(spec, dtype, shape):
    units = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = units.clone()
    scores = score(spec, units)
    assert scores.shape == shape[:1]
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert scores.isfinite().all()
    assert torch.equal(units, before)


@pytest.mark.parametrize("spec", ALONE)
def test_the_same_call_gives_the_same_scores(spec):
    units = torch.randn(6, 4)
    first = score(spec, units)
    torch.manual_seed(99)
    assert torch.equal(first, score(spec, units))


@pytest.mark.parametrize("spec", NORMS)
def test_weight_scores_follow_a_permutation_of_the_units(spec):
    units = torch.randn(7, 5, dtype=torch.float64)
    order = torch.randperm(7)
    torch.testing.assert_close(score(spec, units[order]), score(spec, units)[order])


@pytest.mark.parametrize("spec", NORMS)
def test_zero_units_score_lowest_and_signs_do_not_matter(spec):
    units = torch.randn(5, 4)
    units[2] = 0
    scores = score(spec, units)
    assert scores.argmin() == 2
    assert scores[2] == 0
    assert torch.equal(scores, score(spec, -units))


@pytest.mark.parametrize("spec", NORMS)
def test_padding_does_not_change_a_mean(spec):
    units = torch.randn(5, 3, dtype=torch.float64)
    padded = torch.cat([units, torch.zeros(5, 2, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(score(spec, padded, torch.full((5,), 3)), score(spec, units))


def test_norms_by_hand():
    units = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
    assert score("l1", units).tolist() == [3.5, 1.0]
    assert score("l1(reduce=sum)", units).tolist() == [7.0, 2.0]
    assert score("l2(reduce=sum)", units)[0].item() == pytest.approx(5.0)
    assert score("l2", units)[0].item() == pytest.approx(math.sqrt(12.5))
    assert score("linf", units).tolist() == [4.0, 1.0]
    assert score("lp(inf)", units).tolist() == [4.0, 1.0]
    assert score("magnitude", units).tolist() == [3.5, 1.0]


@settings(max_examples=60, deadline=None)
@given(p=st.floats(1, 20), seed=st.integers(0, 999))
def test_any_p_agrees_with_vector_norm_in_float64(p, seed):
    units = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.linalg.vector_norm(units, p, dim=1)
    torch.testing.assert_close(Magnitude(p, "sum").score(rows(units), Statistics()), expected)
    torch.testing.assert_close(Magnitude(p).score(rows(units), Statistics()), expected / 6 ** (1 / p))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("spec", ["l2", "lp(8)"])
def test_small_and_large_weights_keep_their_order(spec, scale):
    scores = score(spec, torch.tensor([[1.0, 2.0], [1.0, 3.0], [0.0, 1.0]]) * scale)
    assert scores.isfinite().all()
    assert scores[2] < scores[0] < scores[1]
    assert scores[2] > 0


def test_a_single_half_weight_scores_its_exact_size():
    units = torch.tensor([[-0.1], [65504.0]], dtype=torch.float16)
    for spec in ("l1", "l2", "lp(7)", "linf"):
        assert torch.equal(score(spec, units), units.float().abs().squeeze(1))


def test_random_depends_on_seed_and_key_alone():
    first = score(Random(1), torch.randn(50, 2), name="a")
    assert torch.equal(first, score(Random(1), torch.zeros(50, 9), name="a"))
    assert not torch.equal(first, score(Random(1), torch.randn(50, 2), name="b"))
    assert not torch.equal(first, score(Random(2), torch.randn(50, 2), name="a"))
    seed = int.from_bytes(hashlib.sha256(b"1:a").digest()[:8], "little", signed=True)
    assert torch.equal(first, torch.rand(50, generator=torch.Generator().manual_seed(seed)))


def test_normalisations_by_hand():
    scores = torch.tensor([1.0, 3.0])
    assert normalised(scores, "mean").tolist() == [0.5, 1.5]
    assert normalised(scores, "max").tolist() == pytest.approx([1 / 3, 1.0])
    assert normalised(scores, "gaussian").tolist() == [-1.0, 1.0]
    assert normalised(scores, "none").tolist() == [1.0, 3.0]
    for word in ("mean", "max", "gaussian", "none"):
        assert normalised(torch.zeros(3), word).tolist() == [0, 0, 0]
    with pytest.raises(NameNotFound, match="did you mean max"):
        normalised(scores, "maxi")


def coupled():
    """A producer of two outputs and its bias; the second tensor is not scored."""
    each = torch.tensor([[0], [1]])
    parts = (
        Part("a", MemberUnits((2, 3), 0, each), True),
        Part("b", MemberUnits((4, 2), 1, each), True),
        Part("c", MemberUnits((2,), 0, each), False),
    )
    return Target("g", parts, "g")


@pytest.mark.parametrize(
    ("normalise", "join", "expected"),
    [
        ("mean", "mean", [(0.5 + 1.6) / 2, (1.5 + 0.4) / 2]),
        ("mean", "sum", [0.5 + 1.6, 1.5 + 0.4]),
        ("mean", "max", [1.6, 1.5]),
        ("mean", "first", [0.5, 1.5]),
        ("none", "sum", [1 + 8, 3 + 2]),
        ("max", "mean", [(1 / 3 + 1) / 2, (1 + 0.25) / 2]),
        ("gaussian", "sum", [0, 0]),
    ],
)
def test_group_scores_by_hand_whether_asked_of_the_criterion_or_of_the_call(normalise, join, expected):
    params = {
        "a": torch.tensor([[1.0] * 3, [3.0] * 3]),
        "b": torch.tensor([[8.0, -2.0]] * 4),
        "c": torch.tensor([1e9, 0.0]),
    }
    scores = score_target(coupled(), params, criterion("l1"), normalise=normalise, join=join)
    assert scores.tolist() == pytest.approx(expected)
    spelled = criterion(f"l1(normalise={normalise}, join={join})")
    others = {"normalise": "gaussian", "join": "first"}
    assert score_target(coupled(), params, spelled, **others).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("spec", EVERY)
def test_every_criterion_takes_how_groups_are_joined_and_changes_nothing_else(spec):
    plain, call = criterion(spec), parse_call("criterion", spec)
    for words in ({"normalise": "none"}, {"join": "max"}, {"normalise": "max", "join": "sum"}):
        made = criterion(str(Call(call.name, call.args, call.kwargs | words)))
        assert isinstance(made, Criterion)
        assert made.criterion == plain
        assert (made.needs, made.reads) == (plain.needs, getattr(plain, "reads", "weights"))
        assert criterion(made.name) == made
        assert eval(repr(made), {**vars(criteria), "inf": math.inf}) == made
    weight = rows(torch.randn(5, 3))
    if not plain.needs and not hasattr(plain, "reads"):
        assert torch.equal(made.score(weight, Statistics()), plain.score(weight, Statistics()))


def test_a_single_part_is_scored_plainly():
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    target = Target("w", (Part("w", granularity("filter").units(weight.shape), True),))
    assert score_target(target, {"w": weight}, criterion("l1")).tolist() == [1.5, 3.5]


@dataclass(frozen=True)
class Wrong:
    name = "wrong"
    needs = frozenset()

    def score(self, piece, statistics):
        return piece.tensor


def test_a_criterion_of_the_wrong_shape_is_named():
    target = Target("w", (Part("w", granularity("filter").units(torch.Size((2, 2))), True),))
    with pytest.raises(InputError, match=r"wrong returned .* for w"):
        score_target(target, {"w": torch.ones(2, 2)}, criterion(Wrong()))


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("l3", NameNotFound, "did you mean l"),
        ("lp", InputError, "missing"),
        ("lp(0.5)", InputError, "at least 1"),
        ("lp(nan)", InputError, "at least 1"),
        ("lp(x)", InputError, "at least 1"),
        ("l1(reduce=median)", NameNotFound, "reduction"),
        ("l1(redcue=sum)", NameNotFound, "did you mean reduce"),
        ("l1(join=median)", NameNotFound, "join of l1.*did you mean mean"),
        ("taylor(normalise=maxi)", NameNotFound, "normalisation of taylor.*did you mean max"),
        ("l1(jon=max)", NameNotFound, "argument of l1"),
        ("random(seed=1.5)", InputError, "whole number"),
        ("l1(", InputError, "cannot be read"),
        (Magnitude, InputError, "name such as"),
        (object(), InputError, "name such as"),
    ],
)
def test_misspelt_criteria_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        criterion(spec)


def test_registration_refuses_taken_names_and_no_words():
    with pytest.raises(InputError, match="already"):
        register("l1", Random)
    with pytest.raises(InputError, match="no word"):
        register("l 1", Random)


def test_entry_points_are_names_too_and_checked(monkeypatch):
    def entry_points(*, group):
        assert group == "prunus.criteria"
        point = EntryPoint("mine", "prunus.criteria.control:Random", group)
        return [point, EntryPoint("bad", "fractions:Fraction", group), EntryPoint("gone", "nowhere:x", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert "mine" in criterion_names()
    assert criterion("mine(seed=4)") == Random(4)
    assert criterion("l2") == Magnitude(2)
    with pytest.raises(InputError, match="criterion is Fraction"):
        criterion("bad")
    with pytest.raises(InputError, match="criterion 'gone' cannot be loaded from nowhere:x"):
        criterion("gone")
    with pytest.raises(NameNotFound, match="did you mean mine"):
        criterion("mines")
