"""Sparsity by hand, and against the units of the granularities, which count in another way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.errors import InputError, NameNotFound
from prunus.granularity import granularity
from prunus.zeros import density, nnz, sparsity, summary

MATRIX = torch.tensor([[0, 0, 1, 0, 0, 0], [1, 2, 3, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        ("element", 7 / 12),
        ("vector(2)", 2 / 6),
        ("vector(4)", 1 / 4),
        ("vector(2, dim=0)", 2 / 6),
        ("vector(2, along=out)", 2 / 6),
        ("vector(1, along=in)", 7 / 12),
        ("block(1, 2)", 2 / 6),
        ("block(2, 2)", 0.0),
        ("block(2, 1)", 2 / 6),
        ("filter", 0.0),
        ("row", 0.0),
        ("channel", 2 / 6),
        ("column", 2 / 6),
        ("2:4", 3 / 4),
        ("1:2", 5 / 6),
    ],
)
def test_structures_by_hand(structure, expected):
    assert sparsity(MATRIX, structure) == pytest.approx(expected, abs=1e-12)
    assert density(MATRIX, structure) == pytest.approx(1 - expected, abs=1e-12)


def test_short_last_group_of_n_m_counts_in_proportion():
    """In 2:4 a last group of two may keep ceil(2·2/4) = 1, one of one as well."""
    assert sparsity(torch.tensor([[1.0, 1, 0, 0, 1]]), "2:4") == 1.0
    assert sparsity(torch.tensor([[1.0, 1, 0, 0, 1, 0]]), "2:4") == 1.0
    assert sparsity(torch.tensor([[1.0, 1, 0, 0, 1, 1]]), "2:4") == 0.5


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)),
    structure=st.sampled_from(
        ["element", "vector(2)", "vector(3, dim=0)", "vector(2, dim=2)", "block(2, 3)", "kernel", "filter", "channel"]
    ),
    seed=st.integers(0, 99),
)
def test_shares_agree_with_the_units_of_the_granularity(shape, structure, seed):
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).float()
    units = granularity(structure).units(tensor.shape)
    expected = (units.gather(tensor) == 0).all(dim=1).double().mean().item()
    assert sparsity(tensor, structure) == pytest.approx(expected)


def test_a_pruned_2_4_weight_conforms_wholly():
    weight = torch.randn(6, 10, 3, 3)
    units = granularity("2:4").units(weight.shape)
    pruned = weight * units.scatter(units.pick(weight.abs().reshape(-1), 0))
    assert sparsity(weight, "2:4") < 0.5
    assert sparsity(pruned, "2:4") == 1.0


def test_zeros_of_every_kind_of_tensor():
    assert nnz(torch.tensor([0.0, -0.0, float("nan"), 1e-45])) == 2
    assert sparsity(torch.tensor(0.0)) == 1.0
    assert sparsity(torch.tensor([0, 1, 0, 0])) == 0.75
    assert sparsity(torch.tensor([True, False])) == 0.5
    assert sparsity(MATRIX.to_sparse()) == 7 / 12
    assert sparsity(nn.Parameter(MATRIX)) == 7 / 12
    for structure in ("element", "filter", "channel", "vector(2)", "2:4"):
        assert sparsity(torch.zeros(0, 3), structure) == 0.0
        assert density(torch.zeros(3, 0), structure) == 1.0


@pytest.mark.parametrize(
    ("structure", "error", "words"),
    [
        ("fitler", NameNotFound, "did you mean filter"),
        ("filter(3)", InputError, "cannot be read"),
        ("vector", InputError, "cannot be read"),
        ("vector(0)", InputError, "cannot be read"),
        ("vector(2, dim=x)", InputError, "cannot be read"),
        ("block(2)", InputError, "cannot be read"),
        ("block(2, 0)", InputError, "cannot be read"),
        ("kernel", InputError, "at least 3 dims"),
        ("vector(2, dim=2)", InputError, "at least 3 dims"),
        ("5:4", InputError, "0 < n <= m"),
        ("0:0", InputError, "0 < n <= m"),
    ],
)
def test_wrong_structures_are_explained(structure, error, words):
    with pytest.raises(error, match=words):
        sparsity(MATRIX, structure)
    with pytest.raises(InputError):
        sparsity(torch.zeros(3), "channel")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_compressed_tensors_are_read_as_dense():
    assert nnz(MATRIX.to_sparse_csr()) == 5


def test_summary_counts_every_parameter_once():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.Linear(3, 3), nn.Linear(3, 3))
    model[2].weight = model[1].weight
    with torch.no_grad():
        model[0].weight[1] = 0
        model[1].weight.fill_(1)
        model[1].weight[:, 2] = 0
        model[1].bias.fill_(1)
        model[2].bias.fill_(0)
    rows = {row.name: row for row in summary(model).rows}
    assert list(rows) == ["0.weight", "1.weight", "1.bias", "2.bias"]
    assert rows["0.weight"].sparsity == {"element": 0.25, "filter": 0.25, "channel": 0.0, "kernel": 0.25}
    assert rows["1.weight"].sparsity == {"element": 1 / 3, "filter": 0.0, "channel": pytest.approx(1 / 3)}
    assert rows["2.bias"].sparsity == {"element": 1.0}
    total = summary(model).total
    assert (total.numel, total.nnz) == (72 + 9 + 6, 54 + 6 + 3)
    assert total.sparsity["element"] == pytest.approx(24 / 87)


def test_summary_prints_tensors_with_zeros_and_counts_the_others():
    model = nn.Linear(1000, 3)
    with torch.no_grad():
        model.weight[0] = 0
        model.bias.fill_(1)
    text = str(summary(model))
    assert "3×1000" in text
    assert "3,003" in text
    assert "bias" not in text
    assert "1 tensor without zeros" in text
    assert "total" in text
    assert str(summary(nn.Identity()))
