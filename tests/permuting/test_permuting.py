"""n:m with permuted channels: the same function, more saliency kept, and a word on what stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from axes.proving import Net, conv, generic_, images, outputs
from prunus import oneshot, zoo
from prunus.axes import trace
from prunus.errors import InputError
from prunus.permuting import permuted
from prunus.plans import named_state

NETS = {
    "resnet20": ({"width": 8}, {"name": "*", "exclude": "conv1"}),
    "lenet_300_100": ({}, "*"),
    "densenet_cifar": ({"depth": 16, "growth": 4}, {"name": "*", "exclude": "features.conv0"}),
}


def survives(model: nn.Module, name: str) -> float:
    """The magnitude that 2:4 leaves of a weight, counted from the plan's mask."""
    weight = named_state(model)[name].detach()
    lines = weight.movedim(1, -1).abs().double()
    whole = lines.shape[-1] // 4 * 4
    groups = lines[..., :whole].reshape(-1, 4).topk(2).values.sum()
    rest = lines[..., whole:]
    return float(groups + rest.topk((rest.shape[-1] + 1) // 2).values.sum())


@pytest.mark.parametrize("name", NETS)
def test_a_permuted_model_computes_the_same_and_keeps_more(name: str) -> None:
    settings, targets = NETS[name]
    model = generic_(zoo.build(name, **settings)).double().eval()
    x = zoo.example_input(name, batch=2).double()
    graph = trace(model, x)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    better, report = permuted(graph, "2:4", targets=targets)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for want, got in zip(outputs(model, (x,)), outputs(better, (x,)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert report.proof is not None
    assert report.proof.passed
    total = {key: float(value.detach().abs().sum()) for key, value in named_state(model).items()}
    for key, kept in report.kept.items():
        assert kept.before * total[key] == pytest.approx(survives(model, key), rel=1e-9)
        assert kept.after * total[key] == pytest.approx(survives(better, key), rel=1e-9)
        if key in report.fixed:
            assert kept.before == kept.after
    readers = {n: [m.param for m in graph[n].members if m.dim == 1 and m.param in report.kept] for n in report.orders}
    for group, reading in readers.items():
        if any(set(reading) & set(others) for other, others in readers.items() if other != group):
            continue  # a concatenation: what one part gains in a weight, another may lose there
        assert sum(survives(better, key) for key in reading) >= sum(survives(model, key) for key in reading)
    assert sum(survives(better, key) for key in report.kept) > sum(survives(model, key) for key in report.kept)


def test_the_plan_of_a_permuted_model_is_2_4_and_says_the_same() -> None:
    model = generic_(zoo.build("lenet_300_100"))
    x = zoo.example_input("lenet_300_100", batch=2)
    better, report = permuted(trace(model, x))
    made = oneshot.plan(trace(better, x), granularity="2:4", criterion="l1")
    for name, mask in made.masks.items():
        weight = named_state(better)[name].detach().abs().double()
        assert (mask.reshape(len(mask), -1, 4).sum(-1) == 2).all()
        assert float((weight * mask).sum() / weight.sum()) == pytest.approx(report.kept[name].after, rel=1e-6)


def test_readers_of_one_group_share_the_order_that_is_best_for_their_sum() -> None:
    model = generic_(Net(lambda s, x: s.b(s.a(x)) + s.c(s.a(x)), a=conv(3, 8), b=conv(8, 4), c=nn.Conv2d(8, 4, 1)))
    _, report = permuted(trace(model, images(3, 8)), targets=["b", "c"])
    assert list(report.orders) == ["a"]
    rows = torch.cat([w.weight.detach().abs().movedim(1, -1).reshape(-1, 8) for w in (model.b, model.c)])
    kept = dict(zip(("b", "c"), report.kept.values(), strict=True))
    sums = {key: float(getattr(model, key).weight.detach().abs().sum()) for key in kept}
    after = rows[:, report.orders["a"]].reshape(-1, 4).topk(2).values.sum()
    assert sum(kept[key].after * sums[key] for key in kept) == pytest.approx(float(after), rel=1e-5)


def test_what_keeps_its_order_is_named_with_the_reason() -> None:
    def forward(s: Net, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([s.a(x), s.b(x)], 1)
        return s.head(s.c(both).flatten(1))

    parts = {"a": conv(4, 6), "b": conv(4, 6), "c": conv(12, 4), "head": nn.Linear(4 * 64, 4)}
    _, report = permuted(trace(generic_(Net(forward, **parts)), images(4, 8)))
    assert "input of the model" in report.fixed["a.weight"]
    assert "of the 12 inputs of c.weight" in report.fixed["c.weight"]
    assert "a unit is 64 positions of head.weight" in report.fixed["head.weight"]
    assert report.orders == {}
    assert report.proof is None
    assert "c.weight: as it was, " in str(report)


def test_of_a_concatenation_each_part_is_ordered_on_its_own() -> None:
    def forward(s: Net, x: torch.Tensor) -> torch.Tensor:
        return s.c(torch.cat([s.a(x), s.b(x)], 1)).mean((2, 3))

    model = generic_(Net(forward, a=conv(4, 8), b=conv(4, 6), c=nn.Conv2d(14, 4, 1)))
    better, report = permuted(trace(model, images(4, 8)), targets="c")
    assert list(report.orders) == ["a", "b"]
    assert report.kept["c.weight"].after >= report.kept["c.weight"].before
    want = torch.cat([report.orders["a"], 8 + report.orders["b"]])
    assert torch.equal(better.c.weight, model.c.weight[:, want])
    assert survives(better, "c.weight") >= survives(model, "c.weight")


def test_only_n_of_m_depends_on_an_order() -> None:
    with pytest.raises(InputError, match="only n:m"):
        permuted(trace(nn.Linear(8, 8), torch.randn(2, 8)), "element")
