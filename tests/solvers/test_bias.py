"""Bias compensation: the formula of the paper, means that are met exactly, what has no bias is left and named."""

import copy

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError
from prunus.solvers import mend_, solver
from prunus.statistics import Calibration


def data(*shape, number=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) + 1 for _ in range(number)]


def pruned_copy(model, masks):
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            copied.get_parameter(name).mul_(mask)
    return copied


def without(weight, gone, dim=1):
    return torch.ones(weight.shape, dtype=torch.bool).index_fill(dim, torch.tensor(gone), False)


def outputs(module, model, batches):
    seen = []
    hook = module.register_forward_hook(lambda _m, _x, y: seen.append(y.detach()))
    with torch.no_grad():
        for x in batches:
            model(x)
    hook.remove()
    return torch.cat(seen)


def test_the_bias_grows_by_the_pruned_weights_times_their_mean_inputs():
    model, batches = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double(), data(9, 8)
    masks = {"2.weight": without(model[2].weight, [0, 3])}
    pruned = pruned_copy(model, masks)
    done = mend_(pruned, model, masks, solver("bias"), Calibration(batches), propagate="dense")
    mean = model[:2](torch.cat(batches)).detach().mean(0)
    expected = model[2].bias.detach() + model[2].weight.detach()[:, [0, 3]] @ mean[[0, 3]]
    torch.testing.assert_close(pruned[2].bias.detach(), expected)
    assert torch.equal(pruned[2].weight, model[2].weight * masks["2.weight"])
    y, mended, plain = (outputs(m[2], m, batches) for m in (model, pruned, pruned_copy(model, masks)))
    energy = (y - model[2].bias.detach()).square().sum()
    errors = [float((m - y).square().sum() / energy) for m in (plain, mended)]
    assert done.errors["2.weight"] == (pytest.approx(errors[0]), pytest.approx(errors[1]))
    assert errors[1] < errors[0]


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


@pytest.mark.parametrize(
    ("layer", "shape", "dim"),
    [
        (nn.Linear(8, 6), (9, 8), 1),
        (Transposed(), (9, 8), 0),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 7), 1),
        (nn.Conv2d(8, 6, 3, padding=1, groups=2), (3, 8, 5, 5), 1),
    ],
    ids=["linear", "transposed", "padded", "grouped"],
)
def test_every_output_has_its_old_mean(layer, shape, dim):
    model, batches = nn.Sequential(layer).double(), data(*shape)
    masks = {"0.weight": without(layer.weight, [1, 2], dim)}
    pruned = pruned_copy(model, masks)
    mend_(pruned, model, masks, solver("bias"), Calibration(batches))
    means = [outputs(m[0], m, batches).movedim(1, -1).flatten(0, -2).mean(0) for m in (model, pruned)]
    torch.testing.assert_close(*means)


def test_a_later_layer_makes_up_for_the_means_that_earlier_ones_changed():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    masks = {f"{i}.weight": without(model[i].weight, [0, 2]) for i in (0, 2, 4)}
    pruned, batches = pruned_copy(model, masks), data(9, 8)
    mend_(pruned, model, masks, solver("bias"), Calibration(batches))
    for i in (0, 2, 4):
        means = [outputs(m[i], m, batches).mean(0) for m in (model, pruned)]
        torch.testing.assert_close(*means)


def test_a_layer_without_bias_is_left_and_named():
    model, batches = nn.Sequential(nn.Linear(8, 6, bias=False)).double(), data(9, 8)
    masks = {"0.weight": without(model[0].weight, [1])}
    pruned = pruned_copy(model, masks)
    done = mend_(pruned, model, masks, solver("bias"), Calibration(batches))
    assert done.left == {"0.weight": "it has no bias"}
    assert str(done) == "0.weight: not mended, it has no bias"
    assert torch.equal(pruned[0].weight, model[0].weight * masks["0.weight"])


def test_units_that_are_pruned_get_no_bias_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3)).double()
    batches = data(9, 8)
    plan = prunus.plan(prunus.trace(model, batches[0]), ratio=0.5)
    masked = plan.mask(model)
    mend_(masked, model, plan.keep_masks(), solver("bias"), Calibration(batches))
    small = plan.apply(masked)
    for index in (0, 1):
        gone = sorted(set(range(len(model[index].bias))) - set(plan.kept[str(index)].tolist()))
        assert not masked[index].bias[gone].any()
    torch.testing.assert_close(small(batches[0]), masked(batches[0]))
    torch.testing.assert_close(torch.cat([small(x) for x in batches]).mean(0), model(torch.cat(batches)).mean(0))


def test_flap_with_bias_compensation_in_one_call():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    model[0].bias.data += 2  # activations with large means
    batches, held_out = [torch.randn(64, 8) for _ in range(6)], torch.randn(200, 8)
    settings = {"ratio": 0.5, "criterion": "flap", "data": batches, "measure_latency": False}
    plain, _ = prunus.prune(model, batches[0], **settings)
    mended, report = prunus.prune(model, batches[0], solver="bias", **settings)
    errors = [(m(held_out) - model(held_out)).square().mean().item() for m in (plain, mended)]
    assert errors[1] < errors[0] / 2
    assert report.proof.passed
    assert "mended 2 weights" in str(report)


def test_it_chooses_nothing():
    model = nn.Sequential(nn.Linear(8, 6)).double()
    with pytest.raises(InputError, match=r"0\.weight: bias chooses no mask"):
        mend_(copy.deepcopy(model), model, {"0.weight": 0.5}, solver("bias"), Calibration(data(9, 8)))
