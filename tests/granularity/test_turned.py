"""Weights that lie inputs first lose what the same layer's weight, outputs first, would lose."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import prunus
from prunus.granularity import weight_targets
from prunus.permuting import permuted
from prunus.schedules import Policy, PruningScheduler

Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
EVERY = ["2:4", "1:3", "vector(3, along=out)", "vector(3, along=in)", "block(2, 3)", "filter", "channel", "shape"]


def pair(inputs=8, outputs=6):
    """The same map twice: y = x W + b, and y = x Wᵀ + b."""
    turned, plain = Conv1D(outputs, inputs), nn.Linear(inputs, outputs)
    with torch.no_grad():
        turned.weight.copy_(torch.randn(inputs, outputs))
        plain.weight.copy_(turned.weight.T)
        plain.bias.copy_(turned.bias)
    return nn.Sequential(turned), nn.Sequential(plain)


@pytest.mark.parametrize("granularity", [*EVERY, "element"])
def test_a_linear_map_loses_the_same_weights_either_way(granularity):
    turned, plain = pair()
    targets = [weight_targets(model, granularity)[0].parts[0].units for model in (turned, plain)]
    if granularity != "element":  # single weights are counted as they lie
        torch.testing.assert_close(*(u.gather(m[0].weight) for u, m in zip(targets, (turned, plain), strict=True)))
    scores = torch.rand(targets[0].num_units)
    if granularity != "element":
        ours, theirs = (units.scatter(units.pick(scores, units.num_units // 2)) for units in targets)
        assert torch.equal(ours, theirs.T)
    ratio = {} if ":" in granularity else {"final": 0.5}
    words = {"granularity": granularity, "schedule": {"kind": "one_shot", **ratio}}
    for model in (turned, plain):
        with PruningScheduler(model, torch.optim.SGD(model.parameters(), lr=0.1), [Policy(**words)]):
            pass
    assert torch.equal(turned[0].weight == 0, (plain[0].weight == 0).T)
    assert (plain[0].weight == 0).any()


@pytest.mark.parametrize("granularity", ["2:4", "element"])
@pytest.mark.parametrize("criterion", ["wanda", "ria", "obs", "solver"])
@pytest.mark.parametrize("solver", ["sparsegpt", "alps"])
def test_statistics_and_solvers_take_the_same_weights_either_way(granularity, criterion, solver):
    turned, plain = pair()
    data = [torch.randn(40, 8)]
    settings = {"granularity": granularity, "criterion": criterion, "solver": solver, "data": data}
    ratio = {} if ":" in granularity else {"ratio": 0.5}
    ours, _ = prunus.prune(turned, data[0], **settings, **ratio, measure_latency=False)
    theirs, _ = prunus.prune(plain, data[0], **settings, **ratio, measure_latency=False)
    torch.testing.assert_close(ours[0].weight, theirs[0].weight.T)
    if granularity == "2:4":
        assert bool(((theirs[0].weight.reshape(6, 2, 4) != 0).sum(2) == 2).all())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("granularity", ["2:4", "filter", "channel", "kernel", "vector(2, along=in)", "pattern(4, 4)"])
def test_a_transposed_convolution_loses_what_the_convolution_with_its_kernels_does(granularity, groups):
    turned = nn.ConvTranspose2d(8, 6, 3, groups=groups, bias=False)
    plain = nn.Conv2d(8, 6, 3, groups=groups, bias=False, padding=2)
    with torch.no_grad():  # with kernels reversed, a convolution over a wider border is the transposed one
        each = turned.weight.reshape(groups, 8 // groups, 6 // groups, 3, 3).transpose(1, 2)
        plain.weight.copy_(each.reshape(plain.weight.shape))
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(turned(x), functional.conv2d(x, plain.weight.flip(2, 3), padding=2, groups=groups))
    found = []
    for model in (nn.Sequential(turned), nn.Sequential(plain)):
        (target,) = weight_targets(model, granularity)
        units = target.parts[0].units
        found.append(
            (units.gather(model[0].weight), units.scatter(units.pick(torch.arange(float(units.num_units)), 3)))
        )
    torch.testing.assert_close(found[0][0], found[1][0])
    with torch.no_grad():
        turned.weight.mul_(found[0][1])
        plain.weight.mul_(found[1][1])
    torch.testing.assert_close(turned(x), functional.conv2d(x, plain.weight.flip(2, 3), padding=2, groups=groups))
    assert (turned.weight == 0).any()


def test_channels_are_permuted_along_the_inputs_of_either():
    torch.manual_seed(0)

    def chain(first, second):
        return nn.Sequential(first, nn.ReLU(), second)

    a, b = pair(8, 16)
    c, d = pair(16, 8)
    turned, plain = chain(a[0], c[0]), chain(b[0], d[0])
    x = torch.randn(4, 8)
    ours, report = permuted(prunus.trace(turned, x), "2:4")
    theirs, wanted = permuted(prunus.trace(plain, x), "2:4")
    assert report.kept == wanted.kept
    assert report.kept["2.weight"].after > report.kept["2.weight"].before
    torch.testing.assert_close(ours[2].weight, theirs[2].weight.T)
    torch.testing.assert_close(ours(x), turned(x))


def test_groups_of_a_transposed_convolution_keep_their_order():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 2, groups=2))
    x = torch.randn(1, 3, 4, 4)
    better, report = permuted(prunus.trace(model, x), "2:4", targets="2.weight")
    assert "a unit is 2 positions" in report.fixed["2.weight"]
    assert report.kept["2.weight"].before == report.kept["2.weight"].after
    torch.testing.assert_close(better(x), model(x))
