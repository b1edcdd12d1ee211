"""How the members of a coupled group are joined is said in the criterion's spelling, wherever one is asked for."""

import pytest
import torch
from torch import nn

import prunus
from prunus.recipes.schema import Policy as PolicyWords
from prunus.schedules import Policy, PruningScheduler


class Residual(nn.Module):
    """Four channels that two layers make: `a` says channel 0 is least, `b`, whose weights are larger, channel 3."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = (nn.Linear(4, 4, bias=False) for _ in range(3))
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([1.0, 6, 3, 4]).unsqueeze(1).expand(4, 4))
            self.b.weight.copy_(torch.tensor([90.0, 20, 80, 10]).unsqueeze(1).expand(4, 4))

    def forward(self, x):
        y = self.a(x)
        return self.o(y + self.b(x))


# a: 1 6 3 4, over their mean 3.5: .29 1.71 .86 1.14; over 6: .17 1 .5 .67.
# b: 90 20 80 10, over their mean 50: 1.8 .4 1.6 .2; over 90: 1 .22 .89 .11.
GOES = {
    "l1": 3,  # sums 2.09 2.11 2.46 1.34
    "l1(join=first)": 0,
    "l1(join=max)": 3,  # 1.8 1.71 1.6 1.14
    "l1(normalise=max, join=max)": 3,  # 1 1 .89 .67
    "l1(normalise=none, join=sum)": 3,
    "l1(normalise=gaussian, join=first)": 0,
}
UNITS = {spec: [unit == gone for unit in range(4)] for spec, gone in GOES.items()}


@pytest.mark.parametrize("spec", GOES)
def test_plans_and_policies_join_as_the_criterion_says(spec):
    model = Residual().eval()
    graph = prunus.trace(model, torch.randn(2, 4))
    made = prunus.plan(graph, ratio=0.25, criterion=spec, targets="a*")
    assert made.provenance["criterion"] == spec
    (name,) = made.sizes
    words = PolicyWords(
        granularity="filter", criterion=spec, targets="a*", schedule={"kind": "one_shot", "final": 0.25}
    )
    with PruningScheduler(
        model, torch.optim.SGD(model.parameters(), lr=0.1), [Policy(**words.plain())], graph=graph
    ) as scheduler:
        assert scheduler.pruned_units()[name].tolist() == UNITS[spec]
    kept = [unit for unit in range(4) if unit != GOES[spec]]
    assert torch.equal(made.apply(Residual().eval()).a.weight, Residual().a.weight[kept])


def test_a_threshold_joins_by_the_largest_part_unless_the_criterion_says_otherwise():
    def gone(spec):
        model = Residual().eval()
        graph = prunus.trace(model, torch.randn(2, 4))
        allocation = {"threshold": {"*": 5.0}}
        words = {"targets": "a*", "allocation": allocation, "schedule": {"kind": "one_shot"}}
        chosen = Policy(granularity="filter", criterion=spec, **words)
        with PruningScheduler(model, torch.optim.SGD(model.parameters(), lr=0.1), [chosen], graph=graph) as scheduler:
            return next(iter(scheduler.pruned_units().values())).tolist()

    assert gone("l1(join=first)") == [True, False, True, True]
    with pytest.raises(prunus.errors.NothingToPrune):
        gone("l1")
