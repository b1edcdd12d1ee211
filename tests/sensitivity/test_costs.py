"""What the curves know of their targets: sizes against the graph's own, places, stages and norms by hand."""

import json
import random

import pytest
import torch
from torch import nn

from prunus import perform_sensitivity_analysis, plan, trace, zoo
from prunus.axes import evaluate, size_terms
from prunus.granularity import find_targets
from prunus.sensitivity import Costs, target_costs


def traced(name):
    entry = zoo.MODELS[name]
    example = torch.zeros(2, *entry.input_shape)
    return trace(entry.factory().eval(), example.long() if name.startswith("gpt") else example)


@pytest.mark.parametrize("name", ["resnet20", "densenet_cifar", "vit_cifar", "gpt_tiny"])
def test_the_polynomials_are_the_graphs_sizes_at_any_counts(name):
    graph, draw = traced(name), random.Random(0)
    terms = size_terms(graph)
    for _ in range(5):
        sizes = {group.name: draw.randint(group.minimum, group.size) for group in graph.groups}
        found = graph.size(sizes)
        assert evaluate(terms.params, sizes) == found.params
        assert evaluate(terms.macs, sizes) == found.macs
        assert evaluate(terms.bytes, sizes) == found.bytes


def test_what_is_left_is_what_the_plan_with_these_ratios_leaves():
    graph = traced("resnet20")
    costs = target_costs(graph.model, find_targets(graph.model, "filter", "*", graph), graph, samples=2)
    for round_to in (1, 4):
        draw = random.Random(round_to)
        ratios = {name: draw.randint(1, 9900) / 10_000 for name in costs.targets}
        made = plan(graph, ratio=0.5, allocation={"per_layer": ratios}, round_to=round_to)
        counts = costs.counts(ratios, round_to=round_to)
        assert {name: graph[name].size - left for name, left in made.sizes.items()} == {
            n: c for n, c in counts.items() if c
        }
        size, left = graph.size(dict(made.sizes)), costs.left(counts)
        assert (left.params, left.bytes, left.macs) == (size.params, size.bytes, size.macs // 2)


class Two(nn.Module):
    """Two stages, and a head that runs before its place among the parameters."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.last = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.first = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x):
        return self.head(self.last(self.first(x)).mean((2, 3)))


def test_targets_stand_in_the_order_of_the_forward_pass_with_their_feature_maps():
    model = Two()
    graph = trace(model, torch.zeros(2, 1, 8, 8))
    costs = target_costs(model, find_targets(model, "element", "*", graph), graph)
    assert {name: (t.order, t.stage) for name, t in costs.targets.items()} == {
        "first.weight": (0, "8x8"),
        "last.weight": (1, "4x4"),
        "head.weight": (2, "1"),
    }
    coupled = target_costs(model, find_targets(model, "filter", "*", graph), graph)
    assert {name: (t.order, t.stage) for name, t in coupled.targets.items()} == {
        "first": (0, "8x8"),
        "last": (1, "4x4"),
    }


class Around(nn.Module):
    """A residual map whose inputs and outputs are one group, by a weight that is computed from two parameters."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.inner = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 6, 3, padding=1, stride=1))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.inner(x)).mean((2, 3)))


def test_a_group_that_a_weight_has_twice_is_squared():
    graph = trace(Around(), torch.zeros(1, 1, 4, 4))
    terms = size_terms(graph)
    name = graph.groups[0].name
    assert (9, (name, name)) in terms.params
    for left in (1, 4, 6):
        assert evaluate(terms.params, {name: left}) == graph.size({name: left}).params
        assert evaluate(terms.macs, {name: left}) == graph.size({name: left}).macs


def test_a_computed_weight_stands_where_it_is_used():
    model = Around()
    graph = trace(model, torch.zeros(1, 1, 4, 4))
    names = ["stem", "head", "inner.parametrizations.weight.original1"]
    costs = target_costs(model, find_targets(model, "element", names, graph), graph)
    found = {name: (target.order, target.stage) for name, target in costs.targets.items()}
    assert found["stem.weight"] == (0, "4x4")
    assert found["inner.parametrizations.weight.original1"][1] == "4x4"
    assert 0 < found["inner.parametrizations.weight.original1"][0] < found["head.weight"][0]


def test_norms_are_sorted_l1_norms_over_the_largest():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1], [4, 4], [0, -6]]))
    costs = target_costs(model, find_targets(model, "filter", "*"))
    assert costs.targets["weight"].norms == (1, 0.75, 0.25)
    singles = target_costs(model, find_targets(model, "element", "*"))
    assert singles.targets["weight"].norms == pytest.approx([1, 4 / 6, 4 / 6, 1 / 6, 1 / 6, 0], abs=1e-6)


def test_zeros_leave_parameters_and_take_non_zeros():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    costs = target_costs(model, find_targets(model, "element", "*"))
    counts = costs.counts({"0.weight": 0.25})
    assert counts == {"0.weight": 25, "1.weight": 0}
    left = costs.left(counts)
    assert (left.params, left.nnz, left.macs) == (220, 195, None)
    assert costs.sparsity(counts) == 25 / 200


def test_curves_carry_their_costs_to_a_file_and_back():
    graph = traced("resnet20")
    curves = perform_sensitivity_analysis(
        graph.model, lambda model: 1.0, granularity="filter", levels=[0.5], graph=graph
    )
    assert set(curves.costs.targets) == set(curves.table)
    again = type(curves).from_dict(json.loads(json.dumps(curves.to_dict())))
    assert again == curves
    old = {key: value for key, value in curves.to_dict().items() if key not in ("costs", "approximate")}
    assert type(curves).from_dict(old).table == curves.table
    assert isinstance(again.costs, Costs)
