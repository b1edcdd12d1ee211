"""Criteria of what readers see, against activations that hooks collect: zeros, means, fluctuation."""

import pytest
import torch
from torch import nn

import prunus
from criteria_tables import scores_of
from prunus.errors import InputError

SHAPE = (6, 3, 8, 8)


def net():
    """Convolutions, a batch norm, pooling, a flattened map and a hidden layer; every map has 4 places when flat."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 7),
        nn.ReLU(),
        nn.Linear(7, 4),
    )
    with torch.no_grad():
        for layer in (model[0], model[4], model[7]):
            layer.bias.copy_(torch.linspace(-1.0, 0.5, len(layer.bias))[torch.randperm(len(layer.bias))])
    return model.double().eval()


def batches(number=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(number)]


def read_by(model, index, data):
    """What module `index` reads over all data, channels or features last: (T, C)."""
    seen = []
    hook = model[index].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        for x in data:
            model(x)
    hook.remove()
    x = torch.cat(seen)
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def units_seen(model, data):
    """Per group: the activations of its units, (T, U); of the flattened map all of a channel's places."""
    flat = read_by(model, 7, data)
    return {
        "0": read_by(model, 4, data),
        "4": flat.reshape(len(flat), 5, 4).movedim(1, -1).reshape(-1, 5),
        "7": read_by(model, 9, data),
    }


@pytest.mark.parametrize("granularity", ["filter", "channel"])
def test_apoz_is_the_share_of_zeros_that_readers_see(granularity):
    model, data = net(), batches()
    found = scores_of(model, "apoz", data, granularity=granularity, graph=prunus.trace(model, data[0]))
    for name, x in units_seen(model, data).items():
        torch.testing.assert_close(found[name], 1 - (x == 0).double().mean(0))


def test_mean_activation_is_the_mean_of_what_readers_see():
    model, data = net(), batches()
    found = scores_of(model, "mean_activation", data, granularity="filter", graph=prunus.trace(model, data[0]))
    for name, x in units_seen(model, data).items():
        torch.testing.assert_close(found[name], x.mean(0))


@pytest.mark.parametrize("word", ["apoz", "mean_activation"])
def test_the_dead_unit_goes_and_the_most_active_stays(word):
    model, data = net(), batches()
    with torch.no_grad():
        model[7].bias[2], model[7].bias[5] = -100, 100
    kept = prunus.plan(prunus.trace(model, data[0]), ratio=0.4, criterion=word, data=data).kept["7"].tolist()
    assert 2 not in kept
    assert 5 in kept


def test_channels_of_a_weight_alone_are_scored_by_its_own_inputs():
    model, data = net(), batches()
    found = scores_of(model, "mean_activation", data, granularity="channel")
    torch.testing.assert_close(found["9.weight"], read_by(model, 9, data).mean(0))
    torch.testing.assert_close(found["0.weight"], torch.cat(data).mean((0, 2, 3)))


class Grouped(nn.Module):
    """A grouped convolution, whose group of units lies in both its halves, and a transposed map of Hugging Face."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 6, 3, groups=2)
        self.w = nn.Parameter(torch.randn(6, 5))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        y = self.b(self.a(x).relu()).relu().mean((2, 3))
        return self.head((y @ self.w).relu())


def test_grouped_and_transposed_readers():
    torch.manual_seed(0)
    model, data = Grouped().double().eval(), batches()
    found = scores_of(model, "mean_activation", data, granularity="filter", graph=prunus.trace(model, data[0]))
    with torch.no_grad():
        first = model.a(torch.cat(data)).relu()
        second = model.b(first).relu().mean((2, 3))
    places = first.mean((0, 2, 3)).reshape(2, 4).mean(0)  # the same place of both halves is one unit
    torch.testing.assert_close(next(s for s in found.values() if s.numel() == 4), places)
    torch.testing.assert_close(next(s for s in found.values() if s.numel() == 3), second.mean(0).reshape(2, 3).mean(0))


@pytest.mark.parametrize("word", ["apoz", "mean_activation"])
@pytest.mark.parametrize("granularity", ["element", "filter", "kernel"])
def test_without_a_known_reader_the_target_is_named(word, granularity):
    model, data = nn.Sequential(nn.Conv2d(3, 4, 3)).double(), batches()
    with pytest.raises(InputError, match=rf"0.weight: no weight that reads its units is known, so {word} has nothing"):
        scores_of(model, word, data, granularity=granularity)


def fluctuation(model, data):
    """FLAP as its paper writes it, per group: variance of each input times its column's energy, then z-scores."""
    read = {"0": (4, 1), "4": (7, 4), "7": (9, 1)}
    found = {}
    for name, (reader, places) in read.items():
        x, weight = read_by(model, reader, data), model[reader].weight.detach()
        energy = weight.square().sum(0).reshape(x.shape[1], -1).sum(1)
        metric = (x.var(0, correction=0) * energy).reshape(-1, places).sum(1)
        found[name] = (metric - metric.mean()) / metric.std(correction=0)
    return found


def test_flap_is_the_standardised_fluctuation_of_the_output():
    model, data = net(), batches()
    found = scores_of(model, "flap", data, granularity="filter", graph=prunus.trace(model, data[0]))
    for name, standardised in fluctuation(model, data).items():
        torch.testing.assert_close(found[name], 1 + standardised)


@pytest.mark.parametrize("allocation", ["global", {"global": {"normalise": "none"}}])
@pytest.mark.parametrize("ratio", [0.2, 0.5])
def test_flap_ranks_all_layers_together(allocation, ratio):
    model, data = net(), batches()
    graph = prunus.trace(model, data[0])
    plan = prunus.plan(graph, ratio=ratio, criterion="flap", allocation=allocation, data=data)
    scores = fluctuation(model, data)
    gone = torch.zeros(18, dtype=torch.bool)
    gone[torch.cat(list(scores.values())).argsort(stable=True)[: int(ratio * 18 + 0.5)]] = True
    for (name, each), lost in zip(scores.items(), gone.split([6, 5, 7]), strict=True):
        kept = plan.kept[name].tolist() if name in plan.kept else list(range(len(each)))
        assert kept == (~lost).nonzero().flatten().tolist()


def test_a_constant_unit_goes_however_large_it_is():
    model, data = net(), batches()
    with torch.no_grad():
        model[7].bias[:] = 3  # none is dead
        model[7].weight[3], model[7].bias[3] = 0, 50
    kept = prunus.plan(prunus.trace(model, data[0]), ratio=0.14, criterion="flap", targets="7.*", data=data).kept["7"]
    assert sorted(set(range(7)) - set(kept.tolist())) == [3]
