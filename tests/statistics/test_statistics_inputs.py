"""What weights read: every layer kind against torch's own unfold and plain sums, sharing, padding, restoring."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from prunus.criteria import collect_for, criterion
from prunus.errors import InputError, TrainingError
from prunus.granularity import Piece, granularity, weight_targets
from prunus.plans import named_state
from prunus.statistics import Calibration, Statistics, calibration, collect

STATISTICS = ("input_square", "gram", "input_zeros", "input_mean", "input_moments")


def pieces(model):
    matrices = {name: value for name, value in model.named_parameters() if value.dim() >= 2}
    return [Piece.of(name, value, granularity("element").units(value.shape)) for name, value in matrices.items()]


def observed(model, data, *names):
    return collect(model, dict.fromkeys(names or STATISTICS, pieces(model)), Calibration(data))


def batches(*shape, number=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).relu() for _ in range(number)]


CONVS = {
    "plain": {"kernel_size": 3},
    "strided and padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated": {"kernel_size": (3, 2), "dilation": (2, 1), "padding": (1, 0)},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 2, "groups": 4, "out_channels": 8},
    "same": {"kernel_size": (4, 3), "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}


@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS)
def test_columns_of_a_convolution_times_its_weight_are_its_output(options):
    """The columns are right when a plain product with the weight gives what the convolution gives."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, **{"out_channels": 6, "bias": False, **options}).double()
    (x,) = batches(2, 4, 7, 6, number=1)
    found = observed(nn.Sequential(conv), [x], "gram")
    layer = found.layers["0.weight"]
    wraps = conv.padding_mode == "circular"
    read = functional.pad(x, conv._reversed_padding_repeated_twice, mode="circular") if wraps else x
    columns = torch.cat(list(layer.columns(read)), dim=1)
    weight = conv.weight.detach().reshape(conv.groups, -1, layer.num_columns)
    output = torch.einsum("gtc,goc->tgo", columns, weight).flatten(1)
    expected = conv(x).detach().movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(found.sum("gram", "0.weight"), columns.mT @ columns)
    assert found.count("gram", "0.weight") == len(expected)


@pytest.mark.parametrize(
    ("conv", "shape"), [(nn.Conv1d(3, 5, 3, 2, 1), (2, 3, 9)), (nn.Conv3d(2, 3, 2), (2, 2, 4, 3, 5))]
)
def test_convolutions_of_other_dims(conv, shape):
    conv = conv.double()
    (x,) = batches(*shape, number=1)
    layer = observed(nn.Sequential(conv), [x], "input_square").layers["0.weight"]
    (columns,) = layer.columns(x)
    output = columns[0] @ conv.weight.detach().flatten(1).T + conv.bias.detach()
    torch.testing.assert_close(output, conv(x).detach().movedim(1, -1).flatten(0, -2))


def test_chunks_add_up(monkeypatch):
    data = batches(5, 4, 6, 6)
    model = nn.Sequential(nn.Conv2d(4, 3, 3)).double()
    whole = observed(model, data)
    monkeypatch.setattr("prunus.statistics.layers.CHUNK", 1)
    parts = observed(model, data)
    for name in STATISTICS:
        torch.testing.assert_close(parts.sum(name, "0.weight"), whole.sum(name, "0.weight"))
        assert parts.count(name, "0.weight") == whole.count(name, "0.weight")


def test_sums_of_a_linear_map_by_hand():
    data = batches(4, 5)
    x = torch.cat(data)
    found = observed(nn.Sequential(nn.Linear(5, 2)).double(), data)
    torch.testing.assert_close(found.sum("input_square", "0.weight"), x.square().sum(0, keepdim=True))
    torch.testing.assert_close(found.sum("gram", "0.weight")[0], x.T @ x)
    assert torch.equal(found.sum("input_zeros", "0.weight"), (x == 0).sum(0).double())
    torch.testing.assert_close(found.mean("input_mean", "0.weight"), x.mean(0))
    torch.testing.assert_close(found.sum("input_moments", "0.weight"), torch.stack([x.sum(0), x.square().sum(0)]))
    assert found.count("gram", "0.weight") == 12


class Bare(nn.Module):
    """Weights that no module of torch holds: x W, x Wᵀ through a view, addmm, a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.up = nn.ConvTranspose1d(4, 6, 3, groups=2).double()

    def forward(self, x):
        y = x @ self.a
        y = torch.matmul(y, self.b.t())
        y = torch.addmm(self.bias, y, self.c)
        return self.up(y[:, :, None])


def test_weights_are_found_by_what_reads_them():
    model, data = Bare(), batches(3, 4)
    found = observed(model, data, "gram")
    x = torch.cat(data)
    second = x @ model.a.detach()
    third = second @ model.b.detach().T
    fourth = (third @ model.c.detach()).reshape(-1, 2, 2)
    torch.testing.assert_close(found.sum("gram", "a")[0], x.T @ x)
    torch.testing.assert_close(found.sum("gram", "b")[0], second.T @ second)
    torch.testing.assert_close(found.sum("gram", "c")[0], third.T @ third)
    torch.testing.assert_close(found.sum("gram", "up.weight"), torch.einsum("tgi,tgj->gij", fourth, fourth))
    assert [found.layers[name].is_transposed for name in "abc"] == [True, False, True]
    for name, weight in (("a", model.a), ("b", model.b), ("up.weight", model.up.weight)):
        layer = found.layers[name]
        assert (layer.per_weight(torch.ones(layer.groups, layer.num_columns)) * weight).shape == weight.shape


@pytest.mark.parametrize("training", [False, True])
def test_inside_multi_head_attention_both_projections_are_seen(training):
    model = nn.MultiheadAttention(8, 2, batch_first=True).double().train(training)
    (x,) = batches(2, 5, 8, number=1)
    found = collect(model, {"gram": pieces(model)}, Calibration([((x, x, x), None)]))
    rows = x.reshape(-1, 8)
    torch.testing.assert_close(found.sum("gram", "in_proj_weight")[0], rows.T @ rows)
    query, key, value = functional.linear(x, model.in_proj_weight, model.in_proj_bias).chunk(3, dim=-1)
    heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (query, key, value)]
    mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(-1, 8).detach()
    torch.testing.assert_close(found.sum("gram", "out_proj.weight")[0], mixed.T @ mixed)
    assert model.training is training


class Shared(nn.Module):
    """q, k and v read one tensor; `o` another. `other` makes k read something else in some batches."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4).double() for _ in range(4))
        self.other = False

    def forward(self, x):
        return self.o(self.q(x) + self.k(x * 2 if self.other else x) + self.v(x))


def test_layers_that_read_one_tensor_share_one_gram():
    model, data = Shared(), batches(3, 4)
    found = observed(model, data, "gram")
    assert found.num_bytes == 2 * 4 * 4 * 8
    for name in ("q", "k", "v"):
        torch.testing.assert_close(found.sum("gram", f"{name}.weight")[0], torch.cat(data).T @ torch.cat(data))
    assert not torch.allclose(found.sum("gram", "o.weight"), found.sum("gram", "q.weight"))


def test_layers_that_read_one_tensor_only_at_times_are_refused():
    class Data:
        def __iter__(self):
            for model.other, x in zip((False, True), batches(3, 4), strict=False):
                yield x

    model = Shared()
    with pytest.raises(InputError, match=r"k.weight and q.weight read one tensor at times"):
        observed(model, Data(), "gram")


def test_a_layer_that_runs_twice_adds_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 4).double()

        def forward(self, x):
            return self.f(self.f(x))

    model, (x,) = Twice(), batches(3, 4, number=1)
    y = model.f(x).detach()
    torch.testing.assert_close(observed(model, [x], "gram").sum("gram", "f.weight")[0], x.T @ x + y.T @ y)


def test_padding_does_not_enter():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.f = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids, attention_mask):
            return self.f(self.embed(ids))

    model = Tokens().double()
    ids, mask = torch.randint(9, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = collect(model, {"gram": pieces(model)}, Calibration([{"ids": ids, "attention_mask": mask}]))
    real = model.embed(ids)[mask.bool()].detach()
    torch.testing.assert_close(found.sum("gram", "f.weight")[0], real.T @ real)
    assert found.count("gram", "f.weight") == 8


def test_two_halves_merged_are_the_whole():
    model, data = Shared(), batches(3, 4, number=4)
    whole, first, second = (observed(model, part) for part in (data, data[:1], data[1:]))
    first.merge_(second)
    assert set(first) == set(whole)
    for key in whole:
        torch.testing.assert_close(first.sum(*key), whole.sum(*key))
        assert first.count(*key) == whole.count(*key)


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.LazyLinear(3)
    ).double()
    data = [(x, torch.zeros(5, dtype=torch.int64)) for x in batches(5, 4, 6, 6)]
    model(data[0][0])
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[4].weight.grad = torch.ones_like(model[4].weight)
    before = {name: value.clone() for name, value in named_state(model).items()}
    modes = [module.training for module in model.modules()]
    rank, targets = criterion("taylor"), weight_targets(model, "filter")
    collect_for(model, rank, targets, Calibration(data, functional.cross_entropy))
    assert all(torch.equal(value, before[name]) for name, value in named_state(model).items())
    assert [module.training for module in model.modules()] == modes
    assert not model[0].weight.requires_grad
    assert model[4].weight.requires_grad
    assert torch.equal(model[4].weight.grad, torch.ones_like(model[4].weight))
    assert model[4].bias.grad is None


@pytest.mark.parametrize(
    ("data", "loss", "error", "words"),
    [
        (None, None, InputError, "calibration data is missing: taylor"),
        (iter([]), None, InputError, "read once only"),
        ([], None, TrainingError, "it yielded no batch"),
        ([3], None, TrainingError, "yielded a int; want"),
        ([{"x": 3}], None, TrainingError, "without a tensor"),
        ([(torch.ones(2, 3), None)], None, TrainingError, "without .loss; give loss="),
        ([(torch.ones(2, 3), None)], lambda y, _: y, TrainingError, "no single number"),
        ([(torch.ones(2, 3), None)], lambda y, _: y.detach().sum(), TrainingError, "no single number"),
        ([(torch.ones(2, 3), None)], lambda y, _: 1 / 0, TrainingError, "loss raised ZeroDivisionError"),
        ([(torch.ones(2, 4), None)], lambda y, _: y.sum(), TrainingError, "the model Sequential raised RuntimeError"),
    ],
)
def test_what_is_wrong_with_the_data_is_said(data, loss, error, words):
    model = nn.Sequential(nn.Linear(3, 2))
    targets = weight_targets(model, "element")
    with pytest.raises(error, match=words):
        collect_for(model, criterion("taylor"), targets, calibration(data, loss))


def test_a_layer_that_never_ran_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    found = observed(Idle().double(), batches(3, 4), "gram")
    with pytest.raises(InputError, match=r"idle.weight: no gram was observed; its layer did not run"):
        found.sum("gram", "idle.weight")
    assert ("gram", "used.weight") in found
    assert ("gram", "used.weight") not in Statistics()
