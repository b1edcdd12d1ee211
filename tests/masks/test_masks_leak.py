"""The leak table: pruned weights stay exactly zero over many steps, and with fewer actions they do not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from prunus.masks import MaskSet

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, weight_decay=1e-2),
    "sgd momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-2),
    "sgd nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "sgd dampening": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, dampening=0.5, maximize=False),
    "sgd foreach": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, 0.02, weight_decay=1e-2, amsgrad=True),
    "adam foreach": lambda p: torch.optim.Adam(p, 0.02, foreach=True),
    "adam fused": lambda p: torch.optim.Adam(p, 0.02, fused=True),
    "adam eps 0": lambda p: torch.optim.Adam(p, 0.02, eps=0.0),
    "adamw": lambda p: torch.optim.AdamW(p, 0.02, weight_decay=1e-1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05),
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "asgd": torch.optim.ASGD,
    "rprop": torch.optim.Rprop,
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.02),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.2, max_iter=3),
    "lbfgs wolfe": lambda p: torch.optim.LBFGS(p, 1.0, max_iter=3, line_search_fn="strong_wolfe"),
}
# What is left at pruned positions of the state: nothing, or the value at which the optimizer itself starts.
REMEMBERED = {"rprop": 1e-6, "adamax": 1e-8}


def _problem() -> tuple[nn.Linear, Callable[[], Tensor]]:
    torch.manual_seed(0)
    x, w = torch.randn(64, 16), torch.randn(6, 16)
    layer = nn.Linear(16, 6)
    return layer, lambda: ((layer(x) - x @ w.T) ** 2).mean()


def _step(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


def _state(optimizer: torch.optim.Optimizer, weight: Tensor) -> list[Tensor]:
    values = optimizer.state[weight].values()
    return [v for v in values if torch.is_tensor(v) and v.shape == weight.shape]


def _median_mask(weight: Tensor) -> Tensor:
    return weight.detach().abs() > weight.detach().abs().median()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_and_their_optimizer_state_are_exactly_zero_after_every_step(name: str) -> None:
    layer, loss = _problem()
    optimizer = OPTIMIZERS[name](layer.parameters())
    masks = MaskSet(layer)
    masks.attach(optimizer)
    for _ in range(20):
        _step(optimizer, loss)
    keep = _median_mask(layer.weight)
    masks.set_("half", {"weight": keep})
    before = layer.weight.detach()[keep].clone()
    for _ in range(40):
        _step(optimizer, loss)
        assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0
    for value in _state(optimizer, layer.weight):
        assert value[~keep].abs().max() <= REMEMBERED.get(name, 0.0)
    assert not torch.equal(layer.weight.detach()[keep], before)


@pytest.mark.parametrize("name", ["sgd momentum", "adamw"])
@pytest.mark.parametrize("actions", ["once", "gradients", "gradients after the state was zeroed"])
def test_fewer_actions_leak(name: str, actions: str) -> None:
    """The same run with some of the actions left out drifts: so the test above can fail."""
    layer, loss = _problem()
    optimizer = OPTIMIZERS[name](layer.parameters())
    for _ in range(20):
        _step(optimizer, loss)
    keep = _median_mask(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(keep)
    if "state" in actions:
        for value in _state(optimizer, layer.weight):
            value.mul_(keep)
    if "gradients" in actions:
        layer.weight.register_hook(lambda grad: grad * keep)
    _step(optimizer, loss)
    drift = layer.weight.detach()[~keep].abs().max()
    assert (drift == 0) == ("state" in actions)


def test_only_zeroing_after_the_step_keeps_stale_state_that_would_explode_on_regrowth() -> None:
    layer, loss = _problem()
    optimizer = OPTIMIZERS["sgd momentum"](layer.parameters())
    keep = _median_mask(layer.weight)
    for _ in range(20):
        with torch.no_grad():
            layer.weight.mul_(keep)
        _step(optimizer, loss)
    assert _state(optimizer, layer.weight)[0][~keep].abs().max() > 0.1


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_momentum_of_an_optimizer_that_moves_by_itself_is_caught_after_the_step(rate: float) -> None:
    """An optimizer that pulls every weight to a constant, gradient or not: only the third action holds."""

    class Pull(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.lerp_(torch.ones_like(parameter), rate)

    layer, loss = _problem()
    optimizer = Pull(layer.parameters(), 0.1)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    keep = _median_mask(layer.weight)
    masks.set_("half", {"weight": keep})
    loss().backward()
    optimizer.step()
    assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0
    assert layer.weight.detach()[keep].abs().min() > 0


def test_lbfgs_directions_stay_in_the_kept_subspace_within_a_step() -> None:
    layer, loss = _problem()
    optimizer = torch.optim.LBFGS(layer.parameters(), 0.2, max_iter=4)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    _step(optimizer, loss)
    keep = _median_mask(layer.weight)
    masks.set_("half", {"weight": keep})
    seen = []

    def watched() -> Tensor:
        seen.append(float(layer.weight.detach()[~keep].abs().max()))
        return loss()

    _step(optimizer, watched)
    assert len(seen) > 2
    assert max(seen) == 0


def test_masked_regression_equals_regression_without_the_column() -> None:
    """SGD on y = Xw with column 2 masked is SGD on X without column 2, weight for weight."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 5, dtype=torch.float64), torch.randn(32, 3, dtype=torch.float64)
    others = torch.tensor([0, 1, 3, 4])
    full, small = nn.Linear(5, 3).double(), nn.Linear(4, 3).double()
    small.load_state_dict({"weight": full.weight[:, others], "bias": full.bias})
    optimizers = [
        torch.optim.SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1) for m in (full, small)
    ]
    masks = MaskSet(full)
    masks.attach(optimizers[0])
    masks.set_("column", {"weight": torch.tensor([True, True, False, True, True]).expand(3, 5)})
    for _ in range(50):
        for model, inputs, optimizer in zip((full, small), (x, x[:, others]), optimizers, strict=True):
            optimizer.zero_grad()
            ((model(inputs) - y) ** 2).mean().backward()
            optimizer.step()
    torch.testing.assert_close(full.weight[:, others], small.weight, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(full.bias, small.bias, rtol=1e-13, atol=1e-13)
    assert full.weight[:, 2].abs().max() == 0


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adagrad"])
def test_masked_hidden_units_train_like_a_network_without_them(name: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 4, dtype=torch.float64), torch.randn(32, 2, dtype=torch.float64)
    kept = torch.tensor([True, False, True, True, False, True])
    full = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    small = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    state = full.state_dict()
    small.load_state_dict({"0.weight": state["0.weight"][kept], "0.bias": state["0.bias"][kept],
                           "2.weight": state["2.weight"][:, kept], "2.bias": state["2.bias"]})  # fmt: skip
    rows = kept[:, None].expand(6, 4)
    optimizers = [OPTIMIZERS[name](model.parameters()) for model in (full, small)]
    masks = MaskSet(full)
    masks.attach(optimizers[0])
    masks.set_("units", {"0.weight": rows, "0.bias": kept, "2.weight": kept.expand(2, 6)})
    for _ in range(30):
        for model, optimizer in zip((full, small), optimizers, strict=True):
            optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()
    torch.testing.assert_close(full[0].weight[kept], small[0].weight, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(full(x), small(x), rtol=1e-11, atol=1e-11)


def test_regrown_weights_start_from_rest() -> None:
    """After the mask is lifted, the first momentum step moves by lr * gradient: no stale momentum."""
    layer, loss = _problem()
    optimizer = torch.optim.SGD(layer.parameters(), 0.05, momentum=0.9)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    keep = _median_mask(layer.weight)
    for _ in range(10):
        _step(optimizer, loss)
    masks.set_("half", {"weight": keep})
    for _ in range(3):
        _step(optimizer, loss)
    masks.set_("half", {})
    optimizer.zero_grad()
    loss().backward()
    grad = layer.weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach()[~keep], -0.05 * grad[~keep], rtol=1e-6, atol=0)
    assert masks.masks == {}


def test_the_problem_has_a_gradient_everywhere() -> None:
    """Guard of this file's own premise: without masks every weight moves."""
    layer, loss = _problem()
    optimizer = torch.optim.SGD(layer.parameters(), 0.05)
    history = [layer.weight.detach().clone()]
    for _ in range(3):
        _step(optimizer, loss)
        history.append(layer.weight.detach().clone())
    assert all((a != b).all() for a, b in pairwise(history))
