"""Laws of every granularity, and the units of small tensors by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.errors import InputError, NameNotFound
from prunus.granularity import NM, Block, Channel, Element, Filter, Kernel, MemberUnits, Vector, granularity

CASES = [
    (spec, shape)
    for spec in [
        "element",
        "vector(4, dim=1)",
        "vector(3, dim=0)",
        "block(2, 4)",
        "2:4",
        "1:3",
        "filter",
        "channel",
        "shape",
    ]
    for shape in [(5, 7), (6, 4, 3, 3), (4, 9, 1, 2), (1, 4)]
]
CASES += [("kernel", (6, 4, 3, 3)), ("kernel", (2, 1, 5)), ("element", (7,)), ("element", ()), ("filter", (3,))]
CASES += [("vector(5, dim=2)", (2, 3, 7)), ("vector(2, dim=-1)", (3, 5)), ("block(9, 9)", (2, 3, 2))]
PATTERNS = ["pattern(4, 2)", "pattern(3, centre=kept)", "tetris(.x.-xxx-..., xx.-xx.-...)"]
CASES += [(spec, shape) for spec in PATTERNS for shape in [(6, 4, 3, 3), (1, 1, 3, 3)]]
CASES += [("pattern(2, 3)", (2, 3, 5)), ("pattern(1)", (2, 1, 2, 1, 2))]
EMPTY = [(spec, (0, 5)) for spec in ["element", "vector(2)", "block(2, 2)", "2:4", "filter", "channel", "shape"]]
EMPTY += [("element", (3, 0)), ("2:4", (3, 0)), ("filter", (3, 0)), ("kernel", (0, 2, 3))]
EMPTY += [(spec, (0, 2, 3, 3)) for spec in PATTERNS]


def numbered(shape):
    """Every element another number, none zero."""
    return torch.arange(1, math.prod(shape) + 1, dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize(("spec", "shape"), CASES + EMPTY)
def test_units_partition_every_element_once(spec, shape):
    units = granularity(spec).units(torch.Size(shape))
    gathered = units.gather(numbered(shape))
    assert gathered.shape[0] == units.num_units == units.counts.numel()
    assert units.counts.dtype == torch.int64
    assert int(units.counts.sum()) == math.prod(shape)
    assert torch.equal((gathered != 0).sum(dim=1), units.counts)
    assert sorted(gathered[gathered != 0].tolist()) == list(range(1, math.prod(shape) + 1))


@pytest.mark.parametrize(("spec", "shape"), CASES + EMPTY)
def test_scatter_of_none_keeps_all_and_of_all_keeps_none(spec, shape):
    units = granularity(spec).units(torch.Size(shape))
    none = torch.zeros(units.num_units, dtype=torch.bool)
    assert torch.equal(units.scatter(none), torch.ones(shape, dtype=torch.bool))
    assert not units.scatter(~none).any()


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_scatter_prunes_what_gather_returned(spec, shape):
    units, tensor = granularity(spec).units(torch.Size(shape)), numbered(shape)
    gathered = units.gather(tensor)
    for unit in range(units.num_units):
        pruned = torch.zeros(units.num_units, dtype=torch.bool)
        pruned[unit] = True
        keep = units.scatter(pruned)
        assert keep.shape == tensor.shape
        assert sorted(tensor[~keep].tolist()) == sorted(gathered[unit][gathered[unit] != 0].tolist())


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_pick_marks_the_exact_number(spec, shape):
    units = granularity(spec).units(torch.Size(shape))
    scores = torch.randn(units.num_units, generator=torch.Generator().manual_seed(0))
    for num in {0, 1, units.num_units // 2, units.num_units}:
        assert int(units.pick(scores, num).sum()) == (num if units.fixed is None else units.fixed)


@pytest.mark.parametrize(("spec", "shape"), CASES)
def test_names_read_back_to_the_same(spec, shape):
    kind = granularity(spec)
    assert granularity(kind.name) == kind
    assert granularity(kind) is kind


def test_element_view_shares_memory():
    tensor = torch.zeros(300, 40)
    units = Element().units(tensor.shape)
    assert units.gather(tensor).data_ptr() == tensor.data_ptr()
    assert units.counts.untyped_storage().nbytes() == 8


def test_vector_by_hand_has_a_short_last_one():
    units = Vector(2, dim=1).units(torch.Size((2, 3)))
    assert units.gather(torch.tensor([[1, 2, 3], [4, 5, 6]])).tolist() == [[1, 2], [3, 0], [4, 5], [6, 0]]
    assert units.counts.tolist() == [2, 1, 2, 1]
    keep = units.scatter(torch.tensor([True, False, False, True]))
    assert keep.tolist() == [[False, False, True], [True, True, False]]


def test_vector_along_out_runs_down_the_rows():
    units = granularity("vector(2, along=out)").units(torch.Size((4, 2)))
    assert units.gather(torch.arange(8).reshape(4, 2)).tolist() == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_vector_along_out_of_a_convolution_shares_one_input_and_position():
    weight = numbered((32, 3, 2, 2))
    got = granularity("vector(16, along=out)").units(weight.shape).gather(weight)
    assert torch.equal(got, weight.reshape(2, 16, 12).transpose(1, 2).reshape(24, 16))


def test_shape_is_a_column_of_the_unfolded_convolution():
    weight = numbered((3, 2, 2, 2))
    assert torch.equal(granularity("shape").units(weight.shape).gather(weight), weight.reshape(3, 8).T)
    matrix = numbered((3, 5))
    assert torch.equal(granularity("shape").units(matrix.shape).gather(matrix), matrix.T)


def test_block_by_hand_over_the_unfolded_kernel():
    units = Block(2, 3).units(torch.Size((3, 2, 2)))
    got = units.gather(torch.arange(1, 13).reshape(3, 2, 2))
    assert got.tolist() == [[1, 2, 3, 5, 6, 7], [4, 0, 0, 8, 0, 0], [9, 10, 11, 0, 0, 0], [12, 0, 0, 0, 0, 0]]
    assert units.counts.tolist() == [6, 2, 3, 1]


def test_kernel_filter_and_channel_are_slices():
    weight = numbered((3, 2, 2, 2))
    assert torch.equal(Kernel().units(weight.shape).gather(weight), weight.reshape(6, 4))
    assert torch.equal(Filter().units(weight.shape).gather(weight), weight.reshape(3, 8))
    assert torch.equal(Channel().units(weight.shape).gather(weight), weight.transpose(0, 1).reshape(2, 12))


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 4), more=st.integers(1, 4), groups=st.integers(1, 3), extra=st.integers(0, 7),
    kernel=st.sampled_from([(), (2,), (1, 2)]), rows=st.integers(1, 3),
)  # fmt: skip
def test_n_of_every_m_along_the_inputs(n, more, groups, extra, kernel, rows):
    m = n + more
    size = groups * m + extra % m
    shape = (rows, size, *kernel)
    scores = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(size)).double()
    units = NM(n, m).units(torch.Size(shape))
    keep = units.scatter(units.pick(scores.reshape(-1), 0))
    lines = zip(keep.movedim(1, -1).reshape(-1, size), scores.movedim(1, -1).reshape(-1, size), strict=True)
    for kept, values in lines:
        for start in range(0, size, m):
            group, value = kept[start : start + m].tolist(), values[start : start + m].tolist()
            num = math.ceil(len(group) * n / m)
            best = sorted(range(len(group)), key=lambda i: (value[i], i))[len(group) - num :]
            assert [i for i, flag in enumerate(group) if flag] == sorted(best)
    assert units.fixed == int((~keep).sum())


def test_2_4_on_a_3_column_weight_is_refused_with_its_shape():
    with pytest.raises(InputError, match=r"2:4 on a 3-column weight of shape \(8, 3\)"):
        NM(2, 4).units(torch.Size((8, 3)))


def test_member_units_by_hand():
    units = MemberUnits((2, 6), 1, torch.tensor([[0, 3], [1, 4], [2, 5]]))
    assert units.gather(torch.arange(12).reshape(2, 6)).tolist() == [[0, 6, 3, 9], [1, 7, 4, 10], [2, 8, 5, 11]]
    assert units.counts.tolist() == [4, 4, 4]
    keep = units.scatter(torch.tensor([False, True, False]))
    assert keep.tolist() == [[True, False, True, True, False, True]] * 2


def test_member_units_leave_foreign_positions_alone():
    units = MemberUnits((5,), 0, torch.tensor([[1], [4]]))
    assert units.scatter(torch.tensor([True, True])).tolist() == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("vectr(3)", NameNotFound, "did you mean vector"),
        ("vector(3, dm=1)", NameNotFound, "did you mean dim"),
        ("head", InputError, "say granularity='filter' and targets={'kind': 'head'}"),
        ("head dim", InputError, "is a kind of group"),
        ("vector(0)", InputError, "at least 1"),
        ("vector(2.5)", InputError, "whole number"),
        ("vector(True)", InputError, "whole number"),
        ("vector", InputError, "length"),
        ("vector(4, along=up)", InputError, "along=out or along=in"),
        ("vector(4, dim=0, along=in)", InputError, "either"),
        ("vector(4, dim=x)", InputError, "whole number"),
        ("block(4)", InputError, "cols"),
        ("2;4", InputError, "cannot be read"),
        ("__import__('os').system('x')", InputError, "cannot be read"),
        ("", InputError, "cannot be read"),
        ("4:4", InputError, "prunes nothing"),
        ("0:4", InputError, "at least 1"),
        (7, InputError, "units"),
        (Filter, InputError, "units"),
    ],
)
def test_misspelt_granularities_are_explained(spec, error, words):
    with pytest.raises(error, match=words):
        granularity(spec)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [("kernel", (3, 4)), ("channel", (3,)), ("shape", (3,)), ("2:4", (8,)), ("block(2, 2)", (8,)), ("vector(2)", (8,))],
)
def test_shapes_without_such_units_are_refused(spec, shape):
    with pytest.raises(InputError, match="shape"):
        granularity(spec).units(torch.Size(shape))


def test_foreign_tensors_and_masks_are_refused():
    units = Filter().units(torch.Size((3, 4)))
    with pytest.raises(InputError, match=r"\(4, 3\)"):
        units.gather(torch.zeros(4, 3))
    with pytest.raises(InputError, match=r"\(3,\)"):
        units.scatter(torch.zeros(4, dtype=torch.bool))
