"""Policies with a solver: the weights that are left are mended at each pruning, what is pruned stays at zero."""

import pytest
import torch

from prunus.axes import trace
from prunus.errors import InputError, NameNotFound
from prunus.schedules import OneShot, Policy, PruningScheduler
from schedules.running import make_mlp, make_sgd

BATCHES = [torch.randn(32, 10, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


def pruned_by(solver, **options):
    model = make_mlp()
    policy = Policy(granularity="filter", schedule=OneShot(final=0.5), solver=solver)
    graph = trace(model, BATCHES[0])
    return model, PruningScheduler(model, make_sgd(model), [policy], graph=graph, data=BATCHES, **options)


@pytest.mark.parametrize("solver", ["lstsq", "bias", "admm"])
def test_the_outputs_come_nearer_and_what_is_pruned_is_zero(solver):
    dense = make_mlp()
    model, scheduler = pruned_by(solver)
    plain, _ = pruned_by(None)
    x = torch.cat(BATCHES)
    errors = [float((net(x) - dense(x)).square().mean()) for net in (model, plain)]
    assert errors[0] < errors[1]
    assert "mean output error" in scheduler.log[0]["mended"]
    for group, units in scheduler.pruned_units().items():
        layer = model.get_submodule(group)
        assert not layer.weight[units].any()
        assert not layer.bias[units].any()


@pytest.mark.parametrize(
    ("solver", "data", "error", "words"),
    [
        ("lstsq", None, InputError, "lstsq observes the model on calibration data"),
        ("lsq", BATCHES, NameNotFound, "lstsq"),
    ],
)
def test_what_is_missing_is_said_at_once(solver, data, error, words):
    model = make_mlp()
    with pytest.raises(error, match=words):
        PruningScheduler(
            model,
            make_sgd(model),
            [Policy(granularity="filter", schedule=OneShot(final=0.5), solver=solver)],
            graph=trace(model, BATCHES[0]),
            data=data,
        )
