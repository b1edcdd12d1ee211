"""Sensitivity and splicing: what is frozen at first use, what returns, and that both resume exactly."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.axes import trace
from prunus.errors import InputError, NameNotFound
from prunus.masks import MaskSet
from prunus.oneshot import plan
from prunus.schedules import OneShot, Policy, PruningScheduler, Repeated
from schedules.running import make_data, make_mlp, make_sgd, train_one_epoch

SIX = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0, 6.0]])
# mean |w| = 3.5; so t = 3.5 with q = 0, low = .8 · 3.5 = 2.8, high = 1.2 · 3.5 = 4.2
SURGERY = {"splicing": {"sensitivities": {"*": 0.0}, "low": 0.8, "high": 1.2}}


def make_six() -> tuple[nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(SIX)
    return layer, torch.optim.SGD(layer.parameters(), 1.0)


def surgery(**options: Any) -> Policy:
    when = Repeated(begin="0 steps", end="9 steps")
    return Policy(granularity="element", allocation=SURGERY, schedule=when, **options)


def push(layer: nn.Linear, optimizer: torch.optim.Optimizer, by: list[float]) -> list[float]:
    """One step that adds `by` to the weights as they live on, hidden or not; returns the weights in force."""
    layer.weight.grad = -torch.tensor([by], dtype=torch.float32)
    optimizer.step()
    return layer.weight[0].tolist()


def test_splicing_prunes_below_the_low_threshold_and_brings_back_at_the_high_one() -> None:
    layer, optimizer = make_six()
    with PruningScheduler(layer, optimizer, [surgery()]) as scheduler:
        assert layer.weight[0].tolist() == [0, 0, 3, -4, 5, 6]  # |1|, |-2| < 2.8
        # 1 + 2.5 = 3.5 lies between: pruned stays pruned. 3 - .1 = 2.9 lies between: kept stays kept.
        assert push(layer, optimizer, [2.5, 0, -0.1, 0, 0, 0]) == pytest.approx([0, 0, 2.9, -4, 5, 6])
        # 3.5 + .7 = 4.2 is back at the high threshold; -2 - 2 = -4 stays out; 2.9 - .2 = 2.7 goes.
        assert push(layer, optimizer, [0.75, -2, -0.2, 0, 0, 0]) == pytest.approx([4.25, 0, 0, -4, 5, 6])
        assert push(layer, optimizer, [0, -1, 0, 1.5, 0, 0]) == pytest.approx([4.25, -5, 0, 0, 5, 6])
        assert scheduler.sparsity == pytest.approx(2 / 6)


def test_the_forward_and_the_gradient_are_those_of_the_masked_weights() -> None:
    """Guo et al.: W <- W - lr · dL/d(W∘T), for all entries of W."""
    layer, optimizer = make_six()
    dense, mask = SIX.clone(), torch.tensor([[False, False, True, True, True, True]])
    with PruningScheduler(layer, optimizer, [surgery()]):
        for step in range(3):
            x = torch.randn(4, 6, generator=torch.Generator().manual_seed(step)) / 10
            masked = (dense * mask).requires_grad_()
            (masked @ x.T).square().sum().backward()
            dense = dense - masked.grad
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            torch.testing.assert_close(layer.weight.grad, masked.grad)
            optimizer.step()
            size = dense.abs()
            mask = (size >= 4.2) | (mask & (size >= 2.8))
            torch.testing.assert_close(layer.weight.detach(), dense * mask)


def test_momentum_of_hidden_weights_lives_on() -> None:
    layer, _ = make_six()
    optimizer = torch.optim.SGD(layer.parameters(), 1.0, momentum=0.5)
    with PruningScheduler(layer, optimizer, [surgery()]):
        push(layer, optimizer, [1, 0, 0, 0, 0, 0])  # velocity 1, hidden 2
        push(layer, optimizer, [1, 0, 0, 0, 0, 0])  # velocity 1.5, hidden 3.5
        assert push(layer, optimizer, [0] * 6)[0] == pytest.approx(4.25)  # velocity .75


def test_a_closure_sees_the_masked_weights() -> None:
    layer, optimizer = make_six()
    seen: list[Tensor] = []

    def closure() -> Tensor:
        seen.append(layer.weight.detach().clone())
        layer.weight.grad = -torch.tensor([[4.0, 0, 0, 0, 0, 0]])
        return torch.zeros(())

    with PruningScheduler(layer, optimizer, [surgery()]):
        optimizer.step(closure)
        optimizer.step(closure)
    assert seen[0][0].tolist() == [0, 0, 3, -4, 5, 6]
    assert seen[1][0].tolist() == [5, 0, 3, -4, 5, 6]


def test_what_another_policy_prunes_for_good_is_not_brought_back() -> None:
    layer, optimizer = make_six()
    shot = Policy(name="shot", granularity="element", criterion="l1", schedule=OneShot(1 / 6))
    with PruningScheduler(layer, optimizer, [shot, surgery()]):
        assert push(layer, optimizer, [9, 9, 0, 0, 0, 0]) == pytest.approx([0, 7, 3, -4, 5, 6])


@pytest.mark.parametrize(
    "allocation",
    [{"sensitivity": {"*": 0.9}}, {"splicing": {"sensitivities": {"*": 0.2}}}],
    ids=["sensitivity", "splicing"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(allocation: dict[str, Any]) -> None:
    policy = Policy(
        granularity="element",
        allocation=allocation,
        schedule=Repeated(begin="1 steps", end="20 steps", every="2 steps"),
    )

    def start() -> tuple[nn.Module, torch.optim.Optimizer, PruningScheduler]:
        model = make_mlp()
        optimizer = make_sgd(model)
        return model, optimizer, PruningScheduler(model, optimizer, [policy])

    model, optimizer, scheduler = start()
    saved = b""
    for epoch in range(5):
        train_one_epoch(model, optimizer, epoch)
        scheduler.epoch_end()
        if epoch == 2:
            file = io.BytesIO()
            torch.save((model.state_dict(), optimizer.state_dict(), scheduler.state_dict()), file)
            saved = file.getvalue()
    resumed, resumed_optimizer, resumed_scheduler = start()
    states = torch.load(io.BytesIO(saved), weights_only=True)
    for part, state in zip((resumed, resumed_optimizer, resumed_scheduler), states, strict=True):
        part.load_state_dict(state)
    for epoch in range(3, 5):
        train_one_epoch(resumed, resumed_optimizer, epoch)
        resumed_scheduler.epoch_end()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for name, tensor in scheduler.masks.with_hidden(model.state_dict()).items():
        assert torch.equal(tensor, resumed_scheduler.masks.with_hidden(resumed.state_dict())[name]), name
    left, right = scheduler.state_dict(), resumed_scheduler.state_dict()
    assert left["policies"]["element"]["measured"] == right["policies"]["element"]["measured"] != {}
    assert left["log"] == right["log"]


def test_sensitivity_is_q_times_the_std_at_first_use() -> None:
    layer, optimizer = make_six()
    # std of 1, -2, 3, -4, 5, 6: mean 1.5, squares sum to 91, (91 - 6 · 2.25) / 5 = 15.5
    policy = Policy(
        granularity="element", allocation={"sensitivity": {"weight": 0.6}}, schedule=Repeated(end="9 steps")
    )
    with PruningScheduler(layer, optimizer, [policy]) as scheduler:
        assert layer.weight[0].tolist() == [0, 0, 3, -4, 5, 6]  # .6 · 3.937 = 2.362
        assert scheduler.state_dict()["policies"]["element"]["measured"]["weight"]["std"] == pytest.approx(15.5**0.5)
        # the weights move closer to each other, the threshold stays, and a pruned weight does not return
        assert push(layer, optimizer, [9, 9, -0.7, 1.5, -2, -3]) == pytest.approx([0, 0, 0, -2.5, 3, 3])


def test_one_call_prunes_by_sensitivity_too() -> None:
    layer, _ = make_six()
    graph = trace(layer, torch.ones(1, 6))
    made = plan(graph, granularity="element", criterion="l1", ratio=0.5, allocation={"sensitivity": {"*": 0.6}})
    assert made.masks["weight"][0].tolist() == [False, False, True, True, True, True]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    layer, optimizer = make_six()
    for allocation in ({"sensitivity": {"wieght": 1.0}}, {"splicing": {"sensitivities": {"wieght": 1.0}}}):
        policy = Policy(granularity="element", allocation=allocation, schedule=OneShot())
        with pytest.raises(NameNotFound, match="did you mean weight"):
            PruningScheduler(layer, optimizer, [policy])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"granularity": "filter"}, "brings pruned weights back, and filter"),
        ({"granularity": "2:4"}, "brings pruned weights back, and 2:4"),
        ({"solver": "lstsq"}, "lstsq mends what splicing may bring back"),
        ({"allocation": {"splicing": {"sensitivities": {"*": 1}, "low": 1.2, "high": 1.1}}}, "0 <= low <= high"),
        ({"allocation": {"splicing": {"sensitivities": {"*": -1}}}}, "sensitivity of \\* is -1"),
        ({"allocation": {"splicing": {"lo": 1}}}, "did you mean low"),
        ({"allocation": {"sensitivity": {}}}, "name at least one pattern"),
    ],
)
def test_wrong_surgeries_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Policy(**{"granularity": "element", "allocation": SURGERY, "schedule": OneShot(), **fields})


def test_an_epoch_of_surgery_is_one_line_of_the_log() -> None:
    model = make_mlp()
    optimizer = make_sgd(model)
    allocation = {"splicing": {"sensitivities": {"*": 0.5}}}
    policy = Policy(granularity="element", allocation=allocation, schedule=Repeated(begin="0 steps", end="90 steps"))
    with PruningScheduler(model, optimizer, [policy]) as scheduler:
        for epoch in range(3):
            train_one_epoch(model, optimizer, epoch)
            scheduler.epoch_end()
        epochs = [event["epoch"] for event in scheduler.log]
    assert epochs == sorted(set(epochs))


def test_hidden_values_return_when_their_source_lets_go_and_buffers_do_not_hide() -> None:
    layer, optimizer = make_six()
    masks = MaskSet(layer)
    masks.attach(optimizer)
    masks.set_("a", {"weight": SIX.abs() > 2.5}, hide=True)
    push(layer, optimizer, [1, 1, 1, 1, 1, 1])
    saved = copy.deepcopy(masks.state_dict())
    masks.set_("a", {})
    assert layer.weight[0].tolist() == [2, -1, 4, -3, 6, 7]
    layer.weight.data[0, :2] = 9
    masks.load_state_dict(saved)
    assert layer.weight[0].tolist() == [0, 0, 4, -3, 6, 7]
    masks.set_("a", {})
    assert layer.weight[0].tolist() == [2, -1, 4, -3, 6, 7]
    norm = nn.BatchNorm1d(2)
    with pytest.raises(InputError, match="running_mean is a buffer"):
        MaskSet(norm).set_("a", {"running_mean": torch.tensor([True, False])}, hide=True)


def test_lbfgs_trains_through_splicing() -> None:
    model = make_mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    allocation = {"splicing": {"sensitivities": {"*": 0.5}}}
    policy = Policy(granularity="element", allocation=allocation, schedule=Repeated(begin="0 steps", end="2 steps"))
    with PruningScheduler(model, optimizer, [policy]) as scheduler:
        x, y = next(make_data((10,), 0))

        def closure() -> Tensor:
            optimizer.zero_grad()
            for name, mask in scheduler.masks.masks.items():
                assert not model.get_parameter(name)[~mask].any(), name
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        first = float(optimizer.step(closure).detach())
        optimizer.step(closure)
        assert float(closure().detach()) < first
