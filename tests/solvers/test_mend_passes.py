"""How often mending runs the models: layers that read one tensor together, and no further than to where they read."""

import copy

import pytest
import torch
from torch import nn

from prunus.errors import InputError
from prunus.solvers import mend_, solver
from prunus.solvers.observed import LayerProblem
from prunus.statistics import Calibration, Readers, Reading, readings


class Attention(nn.Module):
    """Counts in a buffer how often it ran, and adds nothing while that is zero."""

    def __init__(self, width=6):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.head = nn.Linear(width, 3)
        self.register_buffer("runs", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        x = x + self.out((q @ k.mT).softmax(-1) @ v) + self.runs
        self.runs += 1
        return self.head(x)


def problem(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    names = [name for name, value in model.named_parameters() if value.dim() > 1]
    masks = {name: torch.rand(model.get_parameter(name).shape, generator=generator) > 0.5 for name in names}
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            pruned.get_parameter(name).mul_(mask)
    return pruned, masks


def one_layer_and_whole_passes(pruned, model, masks, solve, batches, names):
    """Mend as it is written down: one layer, one whole forward of both models per batch, buffers put back."""

    def read(net, name, x):
        seen, buffers = [], copy.deepcopy(dict(net.named_buffers()))
        hook = net.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
        net(x)
        hook.remove()
        for key, value in net.named_buffers():
            value.copy_(buffers[key])
        return seen[0].reshape(1, -1, seen[0].shape[-1])

    for name in names:
        (readers,) = readings(model, [f"{name}.weight"], Calibration(batches))
        weight = model.get_submodule(name).weight.detach()
        one = LayerProblem.empty(readers.layers[0], weight, weight.new_zeros(1, *2 * weight.shape[1:]))
        for x in batches:
            mine, dense = read(pruned, name, x), read(model, name, x)
            y = dense @ weight.mT
            one.gram.baddbmm_(mine.mT, mine)
            one.goal.baddbmm_(y.mT, mine)
        solved = solve.solve(one.target(), one.gram[0], keep=masks[f"{name}.weight"])
        pruned.get_submodule(name).weight.copy_(solved.weight)


@torch.no_grad()
def test_weights_are_bit_for_bit_those_of_whole_passes_layer_by_layer():
    torch.manual_seed(0)
    model = Attention().double().eval()
    batches = [torch.randn(4, 5, 6, dtype=torch.float64) for _ in range(3)]
    mended, masks = problem(model)
    expected = copy.deepcopy(mended)
    mend_(mended, model, masks, solver("lstsq"), Calibration(batches))
    names = ["q", "k", "v", "out", "head"]
    one_layer_and_whole_passes(expected, model, masks, solver("lstsq"), batches, names)
    assert all(torch.equal(mended.state_dict()[key], value) for key, value in expected.state_dict().items())


def test_three_readers_of_one_tensor_cost_one_pass_and_nothing_behind_them_runs():
    torch.manual_seed(0)
    model = Attention().eval()
    pruned, masks = problem(model)
    ran = []
    for name in ("q", "out", "head"):
        pruned.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    mend_(pruned, model, masks, solver("lstsq"), Calibration([torch.randn(2, 4, 6)]))
    assert ran == ["q", "q", "q", "out"]  # for q, k and v together; for out; for head


def test_layers_are_grouped_by_the_tensor_that_they_read():
    model = Attention()
    names = [name for name, value in model.named_parameters() if value.dim() > 1]
    found = readings(model, names, Calibration([torch.randn(2, 4, 6)]))
    assert [each.names for each in found] == [["q.weight", "k.weight", "v.weight"], ["out.weight"], ["head.weight"]]


def test_a_tensor_that_was_written_to_in_between_is_another():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = x + 1
            y = self.a(x)
            return y + self.b(x.mul_(2))

    found = readings(Net(), ["a.weight", "b.weight"], Calibration([torch.randn(2, 4)]))
    assert [each.names for each in found] == [["a.weight"], ["b.weight"]]


class Twice(nn.Module):
    """A layer that runs twice, and writes into what it read first."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        x = x.clone()
        y = self.a(x)
        x.zero_()
        return self.a(y)


def test_every_read_of_a_layer_that_runs_twice_counts_as_it_was_then():
    model, x = Twice(), torch.randn(3, 4)
    (readers,) = readings(model, ["a.weight"], Calibration([x]))
    assert not readers.once
    (batch,) = Calibration([x]).read(torch.device("cpu"))
    first, second = Reading.of(model, readers, batch).inputs
    assert torch.equal(first, x)
    torch.testing.assert_close(second, model.a(x).detach())


def test_readers_that_part_on_a_later_batch_are_named():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) + self.b(x if len(x) < 3 else x + 1)

    model = Parts()
    (readers,) = readings(model, ["a.weight", "b.weight"], Calibration([torch.randn(2, 4)]))
    assert isinstance(readers, Readers)
    (batch,) = Calibration([torch.randn(3, 4)]).read(torch.device("cpu"))
    with pytest.raises(InputError, match=r"a\.weight and b\.weight read one tensor on the first batch"):
        Reading.of(model, readers, batch)
