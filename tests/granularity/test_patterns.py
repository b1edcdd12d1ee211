"""Patterns: libraries by votes, the best shape for each kernel, and shapes that the user gives."""

from itertools import combinations

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError
from prunus.granularity import Pattern, Tetris, granularity, pattern_library
from prunus.sensitivity import perform_sensitivity_analysis

PLUS, CORNER = ".x.-xxx-.x.", "xxx-x..-x.."


def flags(shape):
    return torch.tensor([[entry == "x" for entry in row] for row in shape.split("-")])


def kept(kind, scores):
    units = granularity(kind).units(scores.shape)
    pruned = units.pick(scores.reshape(-1), 0)
    assert int(pruned.sum()) == units.fixed
    return units.scatter(pruned)


def voting(votes):
    """Scores of shape (kernels, 1, 3, 3) whose best entries are the shapes, each as often as it has votes."""
    kernels = [flags(shape).float() + 0.1 for shape, count in votes.items() for _ in range(count)]
    return torch.stack(kernels).unsqueeze(1)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("m", [1, 3, 8])
@pytest.mark.parametrize("centre", ["free", "kept"])
def test_a_pattern_is_what_counting_and_trying_all_shapes_gives(k, m, centre):
    scores = torch.rand(7, 5, 3, 3, generator=torch.Generator().manual_seed(k))
    shapes = [set(c) for c in combinations(range(9), k) if centre == "free" or 4 in c]
    kernels = scores.reshape(-1, 9).tolist()
    best = [max(shapes, key=lambda s, row=row: sum(row[i] for i in s)) for row in kernels]
    votes = sorted(shapes, key=lambda s: (-best.count(s), sorted(s)))
    library = [s for s in votes[:m] if s in best]
    want = [max(library, key=lambda s, row=row: sum(row[i] for i in s)) for row in kernels]
    got = kept(f"pattern({k}, {m}, centre={centre})", scores).reshape(-1, 9)
    assert [set(row.nonzero().flatten().tolist()) for row in got] == want


def test_with_every_shape_in_the_library_each_kernel_keeps_its_own_best_entries():
    scores = torch.rand(6, 4, 3, 3)
    want = torch.zeros(24, 9, dtype=torch.bool).scatter(1, scores.reshape(24, 9).topk(4).indices, True)
    assert torch.equal(kept("pattern(4, 126)", scores).reshape(24, 9), want)


def test_one_vote_less_and_a_shape_is_not_in_the_library():
    scores = voting({PLUS: 3, CORNER: 2})
    assert torch.equal(kept("pattern(5, 2)", scores)[:, 0], scores[:, 0] > 1)
    assert torch.equal(kept("pattern(5, 1)", scores)[:, 0], flags(PLUS).expand(5, 3, 3))


def test_equal_votes_and_equal_sums_go_to_earlier_entries():
    assert torch.equal(kept("tetris(xxx-...-..., ...-...-xxx)", torch.ones(1, 1, 3, 3))[0, 0], flags("xxx-...-..."))
    votes = voting({"...-...-xxx": 1, "xxx-...-...": 1})
    assert torch.equal(kept("pattern(3, 1)", votes)[0, 0], flags("xxx-...-..."))


@pytest.mark.parametrize("spec", ["pattern(4, 5)", "pattern(3, 6, centre=kept)", f"tetris({PLUS}, {CORNER})"])
def test_pruned_weights_choose_their_own_shapes_again(spec):
    scores = torch.rand(12, 4, 3, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    once = kept(spec, scores)
    assert torch.equal(kept(spec, scores * once), once)


def test_kernels_of_one_and_three_dims_have_patterns_too():
    assert kept("pattern(2, 3)", torch.rand(4, 3, 5)).sum(-1).unique().tolist() == [2]
    assert kept("pattern(3, 4)", torch.rand(4, 3, 2, 2, 2)).sum((2, 3, 4)).unique().tolist() == [3]
    assert torch.equal(kept("tetris(x.x)", torch.rand(2, 1, 3))[0, 0], torch.tensor([True, False, True]))


def test_tetris_takes_the_given_shape_with_the_most_saliency():
    scores = voting({PLUS: 1, CORNER: 1})
    assert torch.equal(kept(f"tetris({PLUS}, {CORNER})", scores)[:, 0], torch.stack([flags(PLUS), flags(CORNER)]))
    scores[0, 0, 0, 0] = 9.0
    assert torch.equal(kept(f"tetris({PLUS}, {CORNER})", scores)[0, 0], flags(CORNER))


def test_one_library_for_the_net_is_elected_by_the_kernels_of_all_tensors():
    first, second = voting({PLUS: 3, CORNER: 2}), voting({CORNER: 4, "xxx-.x.-.x.": 1})
    assert pattern_library([first, second], 5, 1) == Tetris((CORNER,))
    assert pattern_library([first, second], 5, 2) == Tetris((CORNER, PLUS))
    both = torch.cat([first, second])
    assert torch.equal(kept(pattern_library([first, second], 5, 2), both), kept("pattern(5, 2)", both))
    assert torch.equal(kept(pattern_library([both], 4, 3, keep_centre=True), both), kept(Pattern(4, 3, True), both))


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("pattern(4)", (8, 4), r"pattern\(4, 8\) on shape \(8, 4\): at least 3 dims"),
        ("pattern(4)", (8, 4, 1, 1), r"on shape \(8, 4, 1, 1\): a kernel of 1 has no 4 entries"),
        ("pattern(9)", (8, 4, 3, 3), "a kernel of 9 has no 9"),
        ("pattern(2, centre=kept)", (8, 4, 2, 2), "no centre"),
        (f"tetris({PLUS})", (8, 4, 5, 5), r"kernels of \(3, 3\)"),
        (f"tetris({PLUS})", (8, 4, 9), r"kernels of \(3, 3\)"),
    ],
)
def test_weights_without_such_kernels_are_refused(kind, shape, words):
    with pytest.raises(InputError, match=words):
        granularity(kind).units(torch.Size(shape))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pattern(0)", "k of a pattern"),
        ("pattern(4, 0)", "m of a pattern"),
        ("pattern(4, centre=maybe)", "centre=kept"),
        ("tetris", "no shapes"),
        ("tetris(.x.-xx)", "one length"),
        ("tetris(.y.)", "rows of one length"),
        ("tetris(xx.-..., .x.-...)", "number of x"),
        ("tetris(x., x.-..)", "differ in size"),
        ("tetris(xxx)", "all or nothing"),
    ],
)
def test_misspelt_patterns_are_explained(spec, words):
    with pytest.raises(InputError, match=words):
        granularity(spec)


def test_scores_that_cannot_be_summed_and_mixed_kernels_are_refused():
    scores = torch.ones(1, 2, 3, 3)
    scores[0, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="NaN or inf"):
        kept("pattern(4)", scores)
    with pytest.raises(InputError, match=r"\(3, 3\), \(5, 5\)"):
        pattern_library([torch.ones(1, 1, 3, 3), torch.ones(1, 1, 5, 5)], 4)
    with pytest.raises(InputError, match=r"not \[\(5,\)\]"):
        pattern_library([torch.ones(1, 1, 5)], 4)


def test_a_policy_and_a_plan_ask_a_pattern_for_no_ratio():
    prunus.Policy(granularity="pattern(4)", schedule={"kind": "one_shot"})
    with pytest.raises(InputError, match="leave final out"):
        prunus.Policy(granularity="pattern(4)", schedule={"kind": "one_shot", "final": 0.5})
    with pytest.raises(InputError, match="never gradual"):
        prunus.Policy(granularity=f"tetris({PLUS})", schedule={"kind": "agp", "final": 0.5, "end": 3})
    graph = prunus.trace(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)), torch.randn(2, 3, 8, 8))
    made = prunus.plan(graph, granularity="pattern(4, 6)")
    assert made.masks.keys() == {"0.weight", "2.weight"}
    for mask in made.masks.values():
        assert (mask.sum((2, 3)) == 4).all()
        assert len(mask.reshape(-1, 9).unique(dim=0)) <= 6
    with pytest.raises(InputError, match="either ratio"):
        prunus.plan(graph, granularity="element")


def test_sensitivity_has_one_level_where_the_granularity_says_how_much():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    curves = perform_sensitivity_analysis(
        model, lambda m: {"zeros": float((m[0].weight == 0).sum() + (m[2].weight == 0).sum())}, granularity="pattern(3)"
    )
    assert curves.levels == (pytest.approx(6 / 9),)
    assert curves.values["zeros"] == {"0.weight": (18 * 6.0,), "2.weight": (24 * 6.0,)}
