"""The third action is left out only where it would change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from prunus.masks import MaskSet
from prunus.masks.resting import can_rest, rests

RESTING: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, maximize=True, weight_decay=0.1),
    "sgd fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, fused=True),
    "sgd foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, centered=True, weight_decay=0.1),
}


class Unmasked(MaskSet):
    """Never takes the third action, once told so."""

    lazy = False

    def _mask_weights_(self) -> None:
        if not self.lazy:
            super()._mask_weights_()


def _setup(
    make: Callable[..., torch.optim.Optimizer], kind: type[MaskSet] = MaskSet, dtype: torch.dtype = torch.float32
) -> tuple[nn.Linear, torch.optim.Optimizer, MaskSet, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(8, 6, dtype=dtype)
    optimizer = make(layer.parameters())
    _step(layer, optimizer)
    masks = kind(layer)
    masks.attach(optimizer)
    keep = torch.rand(6, 8) > 0.5
    masks.set_("x", {"weight": keep})
    return layer, optimizer, masks, keep


def _step(layer: nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    layer(torch.randn(4, 8, dtype=layer.weight.dtype)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RESTING)
def test_these_optimizers_keep_zeros_by_themselves(name: str, dtype: torch.dtype) -> None:
    layer, optimizer, masks, keep = _setup(RESTING[name], Unmasked, dtype)
    assert isinstance(masks, Unmasked)
    masks.lazy = True
    for _ in range(14):
        _step(layer, optimizer)
    assert masks._steps_at_rest == 14
    assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0
    for value in optimizer.state[layer.weight].values():
        if isinstance(value, Tensor) and value.shape == keep.shape:
            assert torch.count_nonzero(value[~keep]) == 0


def test_where_eps_rounds_to_zero_the_weights_are_zeroed_again() -> None:
    """Adam in float16 divides 0 by 0 at every pruned weight."""
    layer = nn.Linear(8, 6).half()
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    masks = MaskSet(layer)
    masks.attach(optimizer)
    keep = torch.rand(6, 8) > 0.5
    masks.set_("x", {"weight": keep})
    for _ in range(2):
        _step(layer, optimizer)
    assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0


def test_others_do_not_rest() -> None:
    class Mine(torch.optim.SGD):
        pass

    layer = nn.Linear(2, 2)
    assert rests(torch.optim.Adam(layer.parameters()))
    assert not rests(Mine(layer.parameters(), 0.1))
    assert not rests(torch.optim.Adam(layer.parameters(), eps=0.0))
    assert not rests(torch.optim.LBFGS(layer.parameters()))
    assert can_rest(layer.parameters())
    assert not can_rest([torch.zeros(2, dtype=torch.float16)])
    assert not can_rest([torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16)])


def _write_in_place(layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.add_(1.0)


def _load_dense(layer: nn.Linear) -> None:
    layer.load_state_dict({"weight": torch.ones(6, 8), "bias": torch.ones(6)})


@pytest.mark.parametrize("write", [_write_in_place, _load_dense])
def test_weights_written_between_steps_are_zero_after_the_next(write: Callable[[nn.Linear], None]) -> None:
    layer, optimizer, masks, keep = _setup(RESTING["momentum"])
    _step(layer, optimizer)
    assert masks._steps_at_rest == 1
    write(layer)
    _step(layer, optimizer)
    assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0


def test_writes_behind_the_back_of_autograd_do_not_last() -> None:
    layer, optimizer, _, keep = _setup(RESTING["momentum"])
    layer.weight.data.add_(1.0)
    for _ in range(16):
        _step(layer, optimizer)
    assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0


@pytest.mark.parametrize("where", ["before", "after"])
def test_hooks_of_others_between_ours_are_answered(where: str) -> None:
    """Gradient noise in a pre-hook that runs after ours, weight noise in a post-hook that runs before ours."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 6)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    if where == "after":
        optimizer.register_step_post_hook(lambda *_: print(layer.weight.data.add_(1.0)))
    masks = MaskSet(layer)
    masks.attach(optimizer)
    if where == "before":
        optimizer.register_step_pre_hook(lambda *_: print(layer.weight.grad.add_(1.0)))
    keep = torch.rand(6, 8) > 0.5
    masks.set_("x", {"weight": keep})
    for _ in range(3):
        _step(layer, optimizer)
        assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0


def test_a_closure_that_writes_weights_is_answered() -> None:
    layer, optimizer, _, keep = _setup(RESTING["sgd"])

    def closure() -> float:
        optimizer.zero_grad()
        loss = layer(torch.randn(4, 8)).sum()
        loss.backward()
        layer.weight.data.add_(1.0)
        return float(loss.detach())

    optimizer.step(closure)
    assert torch.count_nonzero(layer.weight.detach()[~keep]) == 0
