"""Whole models mended: against least squares on explicit inputs and outputs, in order; what could not be is named."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import prunus
from prunus.errors import InputError, NameNotFound
from prunus.solvers import mend_, solver
from prunus.statistics import Calibration, recalibrate_


@pytest.fixture
def without_ridge(monkeypatch):
    monkeypatch.setattr("prunus.solvers.observed.RIDGE", 1e-12)


def data(*shape, number=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(number)]


def half(weight, dim=1, seed=0):
    keep = torch.ones(weight.shape, dtype=torch.bool)
    gone = torch.randperm(weight.shape[dim], generator=torch.Generator().manual_seed(seed))[: weight.shape[dim] // 2]
    return keep.index_fill(dim, gone, False)


def masked_copy(model, masks):
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            copied.get_parameter(name).mul_(mask)
    return copied


def best(x, y, keep):
    """Least squares of y (T, R) on the kept columns of x (T, C), row by row."""
    new = torch.zeros(keep.shape, dtype=x.dtype)
    for row, kept in enumerate(keep):
        new[row, kept] = torch.linalg.lstsq(x[:, kept], y[:, row : row + 1]).solution.flatten()
    return new


def test_the_second_layer_makes_up_for_what_the_first_lost(without_ridge):
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 5, bias=False)).double()
    masks = {"0.weight": half(model[0].weight), "2.weight": half(model[2].weight)}
    pruned, batches = masked_copy(model, masks), data(9, 8)
    done = mend_(pruned, model, masks, solver("lstsq(damping=0)"), Calibration(batches))
    x, y = torch.cat(batches), model(torch.cat(batches)).detach()
    first = best(x, x @ model[0].weight.detach().T, masks["0.weight"])
    torch.testing.assert_close(pruned[0].weight.detach(), first)
    second = best(torch.tanh(x @ first.T), y, masks["2.weight"])
    torch.testing.assert_close(pruned[2].weight.detach(), second, rtol=1e-6, atol=1e-8)
    before, after = done.errors["2.weight"]
    reached = (torch.tanh(x @ first.T) @ second.T - y).square().sum() / y.square().sum()
    assert after == pytest.approx(float(reached), rel=1e-6)
    assert after < before
    assert "output error" in str(done)


def test_with_dense_inputs_layers_do_not_know_of_each_other(without_ridge):
    model = nn.Sequential(nn.Linear(8, 6, bias=False), nn.Tanh(), nn.Linear(6, 5, bias=False)).double()
    masks = {"0.weight": half(model[0].weight), "2.weight": half(model[2].weight)}
    pruned, batches = masked_copy(model, masks), data(9, 8)
    mend_(pruned, model, masks, solver("lstsq(damping=0)"), Calibration(batches), propagate="dense")
    h = torch.tanh(model[0](torch.cat(batches))).detach()
    torch.testing.assert_close(pruned[2].weight.detach(), best(h, h @ model[2].weight.detach().T, masks["2.weight"]))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_strided_padded_convolution_against_explicit_columns(without_ridge, groups):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=False).double()
    model, batches = nn.Sequential(conv), data(5, 4, 7, 7)
    masks = {"0.weight": half(conv.weight)}
    pruned = masked_copy(model, masks)
    mend_(pruned, model, masks, solver("lstsq(damping=0)"), Calibration(batches))
    x = torch.cat(batches)
    y = conv(x).detach().movedim(1, -1).flatten(0, -2)
    columns = functional.unfold(x, 3, padding=1, stride=2).movedim(1, -1).flatten(0, 1)
    parts = zip(columns.chunk(groups, 1), y.chunk(groups, 1), masks["0.weight"].flatten(1).chunk(groups), strict=True)
    expected = torch.cat([best(*part) for part in parts])
    torch.testing.assert_close(pruned[0].weight.detach().flatten(1), expected)


def trained(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    batches = [torch.randn(16, 2, 6, 6) for _ in range(6)]
    recalibrate_(model, batches)
    return model.eval(), batches


def test_filters_go_and_the_layers_that_read_them_make_up_for_it():
    model, batches = trained()
    weights = copy.deepcopy(model.state_dict())
    x, held_out = batches[0][:2], torch.randn(64, 2, 6, 6)
    plain, _ = prunus.prune(model, x, ratio=0.5, measure_latency=False)
    mended, report = prunus.prune(model, x, ratio=0.5, measure_latency=False, solver="lstsq", data=batches)
    errors = [(m(held_out) - model(held_out)).square().mean().item() for m in (plain, mended)]
    assert errors[1] < 0.8 * errors[0]
    assert [p.shape for p in mended.parameters()] == [p.shape for p in plain.parameters()]
    assert report.proof.max_rel < 1e-10
    assert "mended 3 weights: mean output error" in str(report)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["sparsegpt", "alps"])
@pytest.mark.parametrize(("granularity", "ratio"), [("element", 0.6), ("2:4", 0.5)])
def test_a_solver_chooses_its_own_zeros(name, granularity, ratio):
    model, batches = trained()
    decision = {"ratio": ratio, "granularity": granularity, "targets": ["3.weight", "6.weight"]}
    small, report = prunus.prune(
        model, batches[0], criterion="solver", solver=name, data=batches, measure_latency=False, **decision
    )
    for layer in (small[3], small[6]):
        assert prunus.sparsity(layer.weight) == pytest.approx(ratio, abs=0.002)
    if granularity == "2:4":
        kept = (small[3].weight != 0).movedim(1, -1).reshape(-1, 4).sum(1)
        assert int(kept.max()) <= 2
    assert report.plan.provenance["criterion"] == name


def test_transposed_convolutions_and_idle_weights_are_left_and_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.idle = nn.ConvTranspose1d(3, 4, 2), nn.Linear(4, 4)

        def forward(self, x):
            return self.up(x)

    model = Net().double()
    masks = {"up.weight": half(model.up.weight, 0), "idle.weight": half(model.idle.weight)}
    pruned = masked_copy(model, masks)
    before = copy.deepcopy(pruned.state_dict())
    done = mend_(pruned, model, masks, solver("lstsq"), Calibration(data(2, 3, 5)))
    assert set(done.left) == set(masks)
    assert not done.errors
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"solver": "lstsq"}, InputError, "give data="),
        ({"solver": "alp", "data": [1]}, NameNotFound, "did you mean alps"),
        ({"solver": "lstsq", "criterion": "solver", "data": [torch.ones(2, 2, 6, 6)]}, InputError, "only mends given"),
        ({"solver": "alps", "criterion": "solver", "data": [torch.ones(2, 2, 6, 6)]}, InputError, "element or n:m"),
        ({"solver": "alps", "propagate": "thin", "data": [torch.ones(2, 2, 6, 6)]}, NameNotFound, "propagate"),
        ({"criterion": "solver"}, NameNotFound, "no criterion named 'solver'"),
    ],
)
def test_what_is_wrong_is_said(arguments, error, words):
    model, batches = trained()
    with pytest.raises(error, match=words):
        prunus.prune(model, batches[0], ratio=0.5, measure_latency=False, **arguments)
