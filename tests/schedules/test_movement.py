"""Movement pruning: sums gathered in optimizer steps, against loops written by hand; AMP, masks, resuming."""

import io

import pytest
import torch
from torch import nn

from prunus import plan, trace
from prunus.errors import InputError
from prunus.schedules import AGP, Iterative, OneShot, Policy, PruningScheduler
from schedules.running import make_data, make_mlp, make_sgd, train_one_epoch

LATE = Policy(granularity="element", criterion="movement", schedule=OneShot(0.5, begin="2ep"))


def train(model, optimizer, scheduler, epochs, start=0):
    for epoch in range(start, epochs):
        train_one_epoch(model, optimizer, epoch)
        scheduler.epoch_end()


def by_hand(model, epochs, **options):
    """Train alone and sum −lr·g·w of every weight before each step."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, **options)
    weights = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for epoch in range(epochs):
        for x, y in make_data((10,), epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            for name, weight in weights.items():
                sums[name] += -0.05 * weight.grad * weight.detach()
            optimizer.step()
    return sums


def test_scores_are_the_sum_over_steps_and_the_lowest_half_goes():
    model = make_mlp()
    optimizer = make_sgd(model)
    scheduler = PruningScheduler(model, optimizer, [LATE])
    train(model, optimizer, scheduler, 2)
    sums = by_hand(make_mlp(), 2, momentum=0.9, weight_decay=1e-3)
    for name, total in sums.items():
        gone = ~scheduler.masks.masks[name]
        assert gone.sum() == total.numel() // 2
        assert total[gone].max() <= total[~gone].min()
    observed = scheduler.state_dict()["observed"]
    assert observed["steps"] == 6
    for name, total in sums.items():
        torch.testing.assert_close(observed["sums"]["movement"][name], total)


def test_weights_that_move_towards_zero_go_first():
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -1.0, 0.1, -0.1]])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    policy = Policy(granularity="element", criterion="movement", schedule=OneShot(0.5, begin="1 step"))
    with PruningScheduler(model, optimizer, [policy]):
        (model.weight * torch.tensor([1.0, -1.0, -1.0, 1.0])).sum().backward()  # large ones shrink, small ones grow
        optimizer.step()
    assert (model.weight != 0).tolist() == [[False, False, True, True]]


def test_the_score_of_a_pruned_weight_stays_where_it_was_even_under_infinite_gradients():
    model = make_mlp()
    optimizer = make_sgd(model)
    policy = Policy(granularity="element", criterion="movement",
                    schedule=Iterative(final=0.6, rounds=2, begin="1ep", every="1ep"))  # fmt: skip
    scheduler = PruningScheduler(model, optimizer, [policy])
    train(model, optimizer, scheduler, 1)
    before = scheduler.state_dict()["observed"]["sums"]["movement"]["0.weight"]
    gone = ~scheduler.masks.masks["0.weight"]
    assert gone.any()
    for x, y in make_data((10,), 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        model[0].weight.grad[gone] = torch.inf
        optimizer.step()
    after = scheduler.state_dict()["observed"]["sums"]["movement"]["0.weight"]
    assert torch.equal(after[gone], before[gone])
    assert (after[~gone] != before[~gone]).all()


@pytest.mark.parametrize("fused", [False, True])
def test_under_a_gradient_scaler_scores_are_those_of_the_plain_gradients(fused):
    """A fused optimizer is handed scaled gradients; a step that overflows is none."""
    found = []
    for scale in (None, 1024.0):
        model = make_mlp()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        scheduler = PruningScheduler(model, optimizer, [LATE])
        for number, (x, y) in enumerate(make_data((10,), 0)):
            optimizer.zero_grad()
            scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
            if number == 1:
                if scale is None:
                    continue
                model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update(scale)
        found.append(scheduler.state_dict()["observed"])
    assert found[0]["steps"] == found[1]["steps"] == 2
    for name, total in found[0]["sums"]["movement"].items():
        torch.testing.assert_close(found[1]["sums"]["movement"][name], total)


def test_a_step_with_a_closure_is_seen_too():
    def scores(with_closure):
        model = make_mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        scheduler = PruningScheduler(model, optimizer, [LATE])
        for x, y in make_data((10,), 0):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            if with_closure:
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()
        return scheduler.state_dict()["observed"]

    plain, closed = scores(False), scores(True)
    assert plain["steps"] == closed["steps"] == 3
    assert torch.equal(plain["sums"]["movement"]["0.weight"], closed["sums"]["movement"]["0.weight"])


def test_each_parameter_counts_with_the_rate_and_the_direction_of_its_group():
    model = make_mlp()
    (x, y), *_ = make_data((10,), 0)
    optimizer = torch.optim.SGD([
        {"params": model[0].parameters(), "lr": 0.5},
        {"params": model[2].parameters(), "lr": 0.25, "maximize": True},
        {"params": model[4].parameters()},
    ], lr=0.1)  # fmt: skip
    scheduler = PruningScheduler(model, optimizer, [LATE])
    nn.functional.cross_entropy(model(x), y).backward()
    products = {name: p.grad * p.detach() for name, p in model.named_parameters()}
    optimizer.step()
    sums = scheduler.state_dict()["observed"]["sums"]["movement"]
    for name, rate in (("0.weight", -0.5), ("2.weight", 0.25), ("4.weight", -0.1)):
        torch.testing.assert_close(sums[name], rate * products[name])


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_resumed_run_ends_like_one_that_was_not_killed(killed_after):
    def make():
        model = make_mlp()
        optimizer = make_sgd(model)
        policy = Policy(granularity="element", criterion="movement", schedule=AGP(final=0.8, begin="1ep", end="4ep"))
        return model, optimizer, PruningScheduler(model, optimizer, [policy])

    whole, first = make(), make()
    train(*whole, 5)
    train(*first, killed_after)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    resumed = make()
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*resumed, 5, start=killed_after)
    assert all(torch.equal(v, resumed[0].state_dict()[n]) for n, v in whole[0].state_dict().items())
    mine, theirs = (run[2].state_dict() for run in (whole, resumed))
    assert mine["observed"]["steps"] == theirs["observed"]["steps"]
    assert str(mine["observed"]) == str(theirs["observed"])
    assert all(torch.equal(m, resumed[2].masks.masks[n]) for n, m in whole[2].masks.masks.items())
    assert mine["log"] == theirs["log"]


def test_a_state_without_what_was_observed_is_refused_and_changes_nothing():
    model = make_mlp()
    optimizer = make_sgd(model)
    scheduler = PruningScheduler(model, optimizer, [LATE])
    train(model, optimizer, scheduler, 1)
    state = scheduler.state_dict()
    del state["observed"]["sums"]["movement"]["0.weight"]
    before = str(scheduler.state_dict())
    with pytest.raises(InputError, match="does not fit what the policies observe"):
        scheduler.load_state_dict(state)
    assert str(scheduler.state_dict()) == before


def test_in_one_shot_pruning_movement_says_where_it_belongs():
    graph = trace(make_mlp(), torch.randn(1, 10))
    with pytest.raises(InputError, match=r"movement is gathered while a model is trained; give the criterion to a"):
        plan(graph, ratio=0.5, granularity="element", criterion="movement")


def test_pruning_by_movement_before_any_step_is_refused():
    model = make_mlp()
    with pytest.raises(InputError, match=r"policy 'element': movement has seen no optimizer step yet"):
        PruningScheduler(model, make_sgd(model), [Policy(granularity="element", criterion="movement",
                                                         schedule=OneShot(0.5))])  # fmt: skip


def test_a_weight_that_the_optimizer_does_not_hold_is_named():
    model = make_mlp()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    with pytest.raises(InputError, match=r"2.weight: movement is gathered in optimizer steps"):
        PruningScheduler(model, optimizer, [LATE])


def test_when_closed_no_step_is_seen_any_more():
    model = make_mlp()
    optimizer = make_sgd(model)
    with PruningScheduler(model, optimizer, [LATE]) as scheduler:
        train(model, optimizer, scheduler, 2)
    train_one_epoch(model, optimizer, 2)
    assert scheduler.state_dict()["observed"]["steps"] == 6


def test_filters_move_as_one():
    model = make_mlp()
    optimizer = make_sgd(model)
    policy = Policy(granularity="filter", targets="0.weight", criterion="movement",
                    schedule=OneShot(0.5, begin="2ep"))  # fmt: skip
    scheduler = PruningScheduler(model, optimizer, [policy])
    train(model, optimizer, scheduler, 2)
    total = by_hand(make_mlp(), 2, momentum=0.9, weight_decay=1e-3)["0.weight"].sum(dim=1)
    gone = ~scheduler.masks.masks["0.weight"].any(dim=1)
    assert gone.sum() == 10
    assert total[gone].max() <= total[~gone].min()
