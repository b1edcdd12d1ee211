"""Reconstruction and ThiNet on coupled units, against what each unit gives to outputs that hooks collect."""

import pytest
import torch
from sklearn.linear_model import lars_path
from torch import nn

import prunus
from criteria_tables import scores_of
from prunus.errors import InputError


class Transposed(nn.Module):
    """y = x W, as transformers' Conv1D has it."""

    def __init__(self, num_in, num_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_in, num_out))

    def forward(self, x):
        return x @ self.weight


def correlated(*shape):
    """Positive inputs that say partly the same."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x + 0.5 * x.roll(1, dims=1)).relu()


READERS = {
    "linear": (nn.Conv2d(3, 6, 1), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    "transposed": (nn.Conv2d(3, 6, 1), nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Transposed(6, 4)),
    "flattened map": (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Linear(54, 4)),
    "kernel positions": (
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Identity(),
        nn.Identity(),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
    ),
    "groups": (
        nn.Conv2d(3, 12, 3),
        nn.ReLU(),
        nn.Identity(),
        nn.Identity(),
        nn.Conv2d(12, 4, 2, groups=2),
    ),
}


def built(word):
    torch.manual_seed(0)
    layers = [layer.double() for layer in READERS[word]]
    for layer in (layers[0], layers[4]):
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    return nn.Sequential(*layers).eval(), [correlated(16, 3, 5, 5) for _ in range(2)]


def contributions(model, data, positions):
    """What each unit gives to the reader's outputs, (U, …): the reader on inputs where all others are zero."""
    reader, found = model[4], []
    with torch.no_grad():
        x = torch.cat([model[:4](each) for each in data])
        nothing = reader(torch.zeros_like(x))
        for places in positions:
            alone = torch.zeros_like(x)
            alone[:, places] = x[:, places]
            found.append((reader(alone) - nothing).flatten())
    return torch.stack(found)


def units_of(word):
    if word == "flattened map":
        return [list(range(9 * u, 9 * u + 9)) for u in range(6)]
    return [[u, u + 6] for u in range(6)] if word == "groups" else [[u] for u in range(6)]


def target_of(word, model, data):
    graph = prunus.trace(model, data[0])
    name = next(group.name for group in graph.groups if group.size == 6)
    return graph, name


@pytest.mark.parametrize("word", READERS)
def test_thinet_removes_what_the_outputs_lose_least_by(word):
    model, data = built(word)
    graph, name = target_of(word, model, data)
    given = contributions(model, data, units_of(word))
    order, gone = torch.zeros(6, dtype=torch.float64), []
    for step in range(6):
        left = [u for u in range(6) if u not in gone]
        losses = [given[[*gone, u]].sum(0).square().sum() for u in left]
        gone.append(left[int(torch.stack(losses).argmin())])
        order[gone[-1]] = step / 6
    found = scores_of(model, "thinet", data, granularity="filter", graph=graph)[name]
    torch.testing.assert_close(found, order)


@pytest.mark.parametrize("word", READERS)
def test_reconstruction_is_where_the_lasso_path_leaves_the_unit(word):
    model, data = built(word)
    graph, name = target_of(word, model, data)
    given = contributions(model, data, units_of(word))
    weight = model[4].weight.detach()
    sides = weight.T if word == "transposed" else weight
    if word == "groups":  # in each half of the outputs, its own half of the inputs
        norms = sides.square().sum((0, 2, 3)).sqrt()
    else:
        norms = sides.reshape(len(sides), 6, -1).square().sum((0, 2)).sqrt()
    columns, total = (given / norms[:, None]).T.numpy(), given.sum(0).numpy()
    alphas, _, path = lars_path(columns, total, method="lasso", alpha_min=0)
    last = [alphas[(path[u] == 0).nonzero()[0].max()] * len(total) for u in range(6)]
    found = scores_of(model, "reconstruction", data, granularity="filter", graph=graph)[name]
    torch.testing.assert_close(found, torch.tensor(last), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("word", ["thinet", "reconstruction"])
def test_a_unit_that_others_replace_goes_though_it_is_large(word):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = 0, -1  # a dead one whose reader's weights are the largest
        model[2].weight[:, 4] = 100
    data = [torch.randn(32, 4, dtype=torch.float64)]
    plan = prunus.plan(prunus.trace(model, data[0]), ratio=0.2, criterion=word, data=data)
    assert plan.kept["0"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("word", ["thinet", "reconstruction"])
def test_what_has_no_columns_is_named(word):
    model = nn.Sequential(nn.Conv1d(2, 4, 1), nn.ReLU(), nn.ConvTranspose1d(4, 2, 2)).double().eval()
    data = [torch.randn(2, 2, 5, dtype=torch.float64)]
    with pytest.raises(InputError, match=r"2\.weight: the inputs of a transposed convolution overlap"):
        prunus.plan(prunus.trace(model, data[0]), ratio=0.5, criterion=word, data=data)
