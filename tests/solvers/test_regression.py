"""Channel pruning by regression: every choice and refit against explicit activations, group after group."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import prunus
from prunus.errors import InputError
from prunus.granularity import group_targets
from prunus.solvers import mend, regress_, solver
from prunus.solvers.channels import lasso_channels
from prunus.solvers.mend import observed
from prunus.solvers.regression import unit_regression
from prunus.statistics import Calibration, readings


@pytest.fixture(autouse=True)
def without_ridge(monkeypatch):
    monkeypatch.setattr(mend, "RIDGE", 1e-12)


def data(*shape, number=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(number)]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def regressed(model, batches, count, **options):
    graph = prunus.trace(model, batches[0])
    targets = group_targets(graph, "filter")
    small = copy.deepcopy(model)
    pruned, done = regress_(
        small, model, targets, {t.name: count for t in targets}, solver("lstsq"), Calibration(batches), **options
    )
    return small, pruned, done


def test_the_first_group_is_chosen_and_refitted_as_he_2017_says():
    model, batches = mlp(), data(20, 6)
    small, pruned, _ = regressed(model, batches, 3)
    h = torch.relu(model[0](torch.cat(batches))).detach()
    weight = model[2].weight.detach()
    kept, _ = lasso_channels(weight.unsqueeze(-1), h.T @ h, 5)
    assert torch.equal(pruned["0"], ~kept)
    expected = torch.linalg.lstsq(h[:, kept], h @ weight.T).solution.T
    # rows of the second group, which went later, are zero by now
    rows = ~pruned["2"]
    torch.testing.assert_close(small[2].weight.detach()[rows][:, kept], expected[rows])
    assert not small[2].weight[:, ~kept].any()
    assert not small[0].weight[~kept].any()
    assert not small[0].bias[~kept].any()


def test_the_second_group_is_decided_on_what_the_first_left_and_aims_at_the_dense_output():
    model, batches = mlp(), data(20, 6)
    small, pruned, done = regressed(model, batches, 3)
    x = torch.cat(batches)
    kept = ~pruned["0"]
    h = torch.relu(model[0](x)).detach()
    first = torch.zeros_like(model[2].weight)
    first[:, kept] = torch.linalg.lstsq(h[:, kept], h @ model[2].weight.detach().T).solution.T
    now, before = torch.tanh(h @ first.T + model[2].bias).detach(), torch.tanh(model[2](h)).detach()
    weight = model[4].weight.detach()
    left, _ = lasso_channels(weight.unsqueeze(-1), now.T @ now, 4, cross=now.T @ before)
    assert torch.equal(pruned["2"], ~left)
    y = before @ weight.T
    expected = torch.linalg.lstsq(now[:, left], y).solution.T
    torch.testing.assert_close(small[4].weight.detach()[:, left], expected, rtol=1e-6, atol=1e-9)
    reached = (now[:, left] @ expected.T - y).square().sum() / y.square().sum()
    assert done.errors["4.weight"][1] == pytest.approx(float(reached), rel=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_units_of_several_columns_against_explicit_products(transposed):
    """A flattened map: channel c is columns 4c..4c+3; the last two columns belong to no unit."""

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(14, 5, dtype=torch.float64))

        def forward(self, x):
            return x @ self.weight if transposed else functional.linear(x, self.weight)

    model, batches = Reader(), data(9, 14)
    if not transposed:
        model.weight = nn.Parameter(model.weight.detach().T.contiguous())
    x, w = torch.cat(batches), model.weight.detach() if transposed else model.weight.detach().T
    layer = readings(model, ["weight"], Calibration(batches))["weight"]
    problem = observed(layer, model, model, Calibration(batches), model.weight.detach())
    quadratic, linear, squares = unit_regression(problem, model.weight.detach(), torch.arange(12).reshape(3, 4))
    parts = [x[:, 4 * c : 4 * c + 4] @ w[4 * c : 4 * c + 4] for c in range(3)]
    rest = x @ w - x[:, 12:] @ w[12:]
    for i in range(3):
        assert float(squares[i]) == pytest.approx(float(w[4 * i : 4 * i + 4].square().sum()))
        assert float(linear[i]) == pytest.approx(float((parts[i] * rest).sum()))
        for j in range(3):
            assert float(quadratic[i, j]) == pytest.approx(float((parts[i] * parts[j]).sum()))


def test_units_of_a_convolution_against_explicit_channels():
    """Channel c is nine columns; the third input channel belongs to no unit."""
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False).double()
    (x,) = data(2, 3, 7, 7, number=1)
    layer = readings(conv, ["weight"], Calibration([x]))["weight"]
    problem = observed(layer, conv, conv, Calibration([x]), conv.weight.detach())
    quadratic, linear, squares = unit_regression(problem, conv.weight.detach(), torch.tensor([[1], [0]]))

    def part(channel):
        only = torch.zeros_like(x)
        only[:, channel] = x[:, channel]
        return conv(only).detach()

    for i, first in enumerate((1, 0)):
        assert float(squares[i]) == pytest.approx(float(conv.weight[:, first].square().sum()))
        assert float(linear[i]) == pytest.approx(float((part(first) * (part(0) + part(1))).sum()))
        for j, second in enumerate((1, 0)):
            assert float(quadratic[i, j]) == pytest.approx(float((part(first) * part(second)).sum()))


def net():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(54, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("criterion", ["reconstruction", "thinet"])
def test_a_convolutional_net_is_thinned_and_proved(criterion):
    model, batches = net(), [torch.randn(16, 2, 6, 6) for _ in range(8)]
    held_out = torch.randn(64, 2, 6, 6)

    def error(small):
        return float((small(held_out) - model(held_out)).square().mean())

    settings = {"ratio": 0.5, "measure_latency": False}
    chosen, report = prunus.prune(model, batches[0], criterion=criterion, solver="lstsq", data=batches, **settings)
    plain, _ = prunus.prune(model, batches[0], criterion="random", **settings)
    assert error(chosen) < 0.7 * error(plain)
    assert chosen[0].out_channels == 4
    assert chosen[2].out_channels == 3
    assert report.proof.max_rel < 1e-10
    assert report.plan.provenance["criterion"].startswith(criterion)


def test_readers_of_a_residual_stream_are_heard_together():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.first(x)
            return self.b(x + self.a(torch.relu(x)))

    torch.manual_seed(0)
    model, batches = Residual().double(), data(30, 5)
    small, pruned, done = regressed(model, batches, 4)
    assert {"a.weight", "b.weight"} <= set(done.errors)
    kept = ~pruned["first"]
    assert not small.b.weight[:, ~kept].any()
    assert not small.a.weight[~kept].any()


def test_a_group_that_nothing_linear_reads_is_named():
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.ReLU(), nn.ConvTranspose1d(4, 2, 2)).double()
    with pytest.raises(InputError, match=r"0: no linear map or ungrouped convolution that reads it"):
        regressed(model, data(3, 2, 5), 2)
