"""Batch norm scales: closed form, several norms over one unit, units without one, the whole of slimming on digits."""

import pytest
import torch
from torch import nn

import prunus
from criteria_tables import scores_of
from prunus import zoo
from prunus.criteria import score_target
from prunus.errors import InputError
from prunus.regularizers import Regularizers
from prunus.statistics import recalibrate_
from prunus.training import evaluate, train_epoch


class Residual(nn.Module):
    """A stream that two batch norms scale, a branch that one scales, and a head without any."""

    def __init__(self):
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.norm_b = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c, self.norm_c = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        x = self.norm_a(self.a(x)).relu()
        x = x + self.norm_c(self.c(self.norm_b(self.b(x)).relu()))
        return self.head(self.hidden(x.mean((2, 3))).relu())


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = Residual().eval()
    for norm in (made.norm_a, made.norm_b, made.norm_c):
        nn.init.normal_(norm.weight)
    return made


def test_one_norm_gives_its_scale(model):
    graph = prunus.trace(model, torch.randn(2, 3, 5, 5))
    (target,) = [t for t in prunus.granularity.group_targets(graph, "filter") if t.name == "b"]
    scores = score_target(target, dict(model.state_dict()), prunus.criteria.criterion("bn_scale"))
    assert torch.equal(scores, model.norm_b.weight.detach().abs())


@pytest.mark.parametrize(("normalise", "by"), [("mean", torch.mean), ("max", torch.max), ("none", lambda _: 1.0)])
def test_several_norms_of_a_stream_are_joined(model, normalise, by):
    graph = prunus.trace(model, torch.randn(2, 3, 5, 5))
    (target,) = [t for t in prunus.granularity.group_targets(graph, "filter") if t.name == "a"]
    rank = prunus.criteria.criterion("bn_scale")
    scores = score_target(target, dict(model.state_dict()), rank, normalise=normalise)
    sizes = [norm.weight.detach().abs() for norm in (model.norm_a, model.norm_c)]
    torch.testing.assert_close(scores, sum(size / by(size) for size in sizes) / 2)


def test_several_positions_of_a_unit_are_averaged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 2)).eval()
    nn.init.normal_(model[2].weight)
    graph = prunus.trace(model, torch.randn(2, 2, 2, 2))
    (scores,) = scores_of(model, "bn_scale", None, granularity="filter", graph=graph).values()
    torch.testing.assert_close(scores, model[2].weight.detach().abs().reshape(3, 4).mean(1))


def test_the_smallest_scales_of_the_whole_net_go_under_a_global_cut(model):
    graph = prunus.trace(model, torch.randn(2, 3, 5, 5))
    allocation = {"global": {"normalise": "none"}}
    plan = prunus.plan(graph, ratio=0.4, criterion="bn_scale", allocation=allocation, targets=["a.*", "b.*"])
    stream = score_target(
        prunus.granularity.group_targets(graph, "filter", "a.*")[0],
        dict(model.state_dict()),
        prunus.criteria.criterion("bn_scale"),
    )
    line = torch.cat([stream, model.norm_b.weight.detach().abs()]).sort().values[3]
    kept = {"a": (stream > line).nonzero().flatten(), "b": (model.norm_b.weight.abs() > line).nonzero().flatten()}
    assert all(torch.equal(plan.kept[name], kept[name]) for name in plan.kept)
    assert sum(plan.sizes.get(name, size) for name, size in {"a": 6, "b": 4}.items()) == 6


@pytest.mark.parametrize("granularity", ["filter", "channel"])
def test_units_without_a_norm_are_named(model, granularity):
    graph = prunus.trace(model, torch.randn(2, 3, 5, 5))
    with pytest.raises(InputError, match="hidden: no batch norm scales its units, so bn_scale has nothing to read"):
        prunus.plan(graph, ratio=0.5, criterion="bn_scale", granularity=granularity)
    with pytest.raises(InputError, match=r"a\.weight: no batch norm"):
        scores_of(model, "bn_scale", None)
    model.norm_b = nn.BatchNorm2d(4, affine=False)
    with pytest.raises(InputError, match="b: no batch norm"):
        prunus.plan(prunus.trace(model, torch.randn(2, 3, 5, 5)), ratio=0.5, criterion="bn_scale", targets="b.*")


def slimmed(strength):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    loader = zoo.TensorLoader(zoo.digits().train, batch_size=64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    terms = Regularizers(model, [f"bn_l1({strength})"])
    for _ in range(8):
        train_epoch(model, loader, optimizer, nn.functional.cross_entropy, regularizers=terms)
    return model, loader


def test_slimming_beats_a_random_cut_of_the_same_size():
    model, loader = slimmed(0.02)
    held_out = zoo.TensorLoader(zoo.digits().validation, batch_size=256)
    graph = prunus.trace(model, torch.randn(2, 1, 8, 8))
    made = prunus.plan(graph, ratio=0.4, criterion="bn_scale", allocation="global")
    same = {"per_layer": {name: 1 - left / 16 for name, left in made.sizes.items()}}
    accuracy = {}
    for word in ("bn_scale", "random(seed=0)", "random(seed=1)", "random(seed=2)"):
        small = prunus.plan(graph, ratio=0.4, criterion=word, allocation=same).apply(model)
        assert [small[i].out_channels for i in (0, 3)] == [made.sizes.get(name, 16) for name in ("0", "3")]
        recalibrate_(small, loader)
        accuracy[word] = evaluate(small, held_out, nn.functional.cross_entropy)["top1"]
    assert accuracy.pop("bn_scale") > max(accuracy.values()) + 0.1, accuracy
