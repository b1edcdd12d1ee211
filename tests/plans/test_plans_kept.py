"""What a cut leaves alone: everything about a model but its sizes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import conv, generic_, images, removal
from prunus.axes import trace
from prunus.plans import Plan

LAST = torch.channels_last


class Rich(nn.Module):
    """Two branches with a tie, buffers of both kinds, extra state, attributes of its own."""

    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.d = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8)
        self.f = conv(8, 8)
        self.f.weight = self.d.weight
        self.e = nn.Linear(8, 4)
        self.register_buffer("scale", torch.linspace(1, 2, 8))
        self.register_buffer("shift", torch.linspace(-1, 1, 8), persistent=False)
        self.classes, self.note = ["cat", "dog"], {"seen": 7}
        self.e.weight.no_decay = True  # type: ignore[assignment]
        self.calls: list[str] = []

    def get_extra_state(self) -> dict[str, int]:
        return self.note

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.note = state

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.c(x)).relu()
        y = self.d(y) + self.f(y)
        return self.e(y.mean((2, 3)) * self.scale + self.shift * 0)


def thinned(model: nn.Module, inplace: bool) -> nn.Module:
    graph = trace(model, images().to(model.c.weight.dtype))
    small = Plan.from_pruned(graph, removal(graph, 0.5, 0)).apply(model, inplace=inplace)
    assert small.c.weight.shape[0] == 4
    return small


BOTH = pytest.mark.parametrize("inplace", [False, True], ids=["copy", "in place"])


@BOTH
def test_names_order_versions_and_extra_state_of_the_state_dict(inplace: bool) -> None:
    model = generic_(Rich())
    keys, metadata = list(model.state_dict()), dict(model.state_dict()._metadata)  # type: ignore[attr-defined]
    small = thinned(model, inplace)
    state = small.state_dict()
    assert list(state) == keys
    assert isinstance(state, OrderedDict)
    assert state._metadata == metadata  # type: ignore[attr-defined]
    assert metadata[""] == {"version": 3}
    assert state["_extra_state"] == {"seen": 7}
    assert "scale" in state
    assert "shift" not in state
    assert small.scale.shape == small.shift.shape == small.e.weight.shape[1:] == (4,)


@BOTH
def test_attributes_of_modules_and_of_parameters(inplace: bool) -> None:
    small = thinned(generic_(Rich()), inplace)
    assert (small.classes, small.note) == (["cat", "dog"], {"seen": 7})
    assert small.e.weight.no_decay
    assert not hasattr(small.c.weight, "no_decay")
    assert [type(m) for m in small.modules()] == [type(m) for m in Rich().modules()]


@BOTH
def test_ties_flags_modes_and_what_needs_a_gradient(inplace: bool) -> None:
    model = generic_(Rich()).train()
    model.b.eval()
    model.c.requires_grad_(False)
    small = thinned(model, inplace)
    assert small.f.weight is small.d.weight
    assert [m.training for m in small.modules()] == [m is not small.b for m in small.modules()]
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {"c.weight", "c.bias"}
    assert all(p.is_leaf for p in small.parameters())


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_and_memory_order(inplace: bool, dtype: torch.dtype) -> None:
    model = generic_(Rich()).to(dtype).to(memory_format=LAST)
    small = thinned(model, inplace)
    assert {t.dtype for t in small.state_dict().values() if isinstance(t, Tensor)} == {dtype, torch.int64}
    for layer in (small.c, small.d):
        assert layer.weight.is_contiguous(memory_format=LAST)
        assert not layer.weight.is_contiguous()


@BOTH
def test_hooks_of_every_kind_run_on(inplace: bool) -> None:
    model = generic_(Rich())
    model.c.register_forward_pre_hook(lambda m, _i: calls_of(m).append("before"))
    model.c.register_forward_hook(lambda m, _i, _o: calls_of(m).append("after"))
    model.d.register_full_backward_hook(lambda m, _i, _o: calls_of(m).append("backward"))
    model.register_state_dict_post_hook(lambda m, *_: m.calls.append("state"))
    calls: dict[int, list[str]] = {}

    def calls_of(module: nn.Module) -> list[str]:
        return calls.setdefault(id(module), [])

    small = thinned(model, inplace)
    calls.clear()
    small(images()).sum().backward()
    assert calls == {id(small.c): ["before", "after"], id(small.d): ["backward"]}
    small.calls.clear()
    small.state_dict()
    assert small.calls == ["state"]


def test_in_place_tensors_stay_the_same_objects_with_their_hooks() -> None:
    model = generic_(Rich())
    before = dict((*model.named_parameters(), *model.named_buffers()))
    shapes: list[tuple[str, tuple[int, ...]]] = []
    model.c.weight.register_hook(lambda g: shapes.append(("gradient", tuple(g.shape))))
    model.c.weight.register_post_accumulate_grad_hook(lambda p: shapes.append(("sum", tuple(p.grad.shape))))
    loss = model(images()).sum()
    loss.backward()
    thinned(model, True)
    assert all(before[n] is t for n, t in (*model.named_parameters(), *model.named_buffers()))
    shapes.clear()
    model(images()).sum().backward()
    assert shapes == [("gradient", (4, 3, 3, 3)), ("sum", (4, 3, 3, 3))]
    assert loss.grad_fn is not None


def test_copy_shares_nothing_with_the_original() -> None:
    model = generic_(Rich())
    state: dict[str, Any] = {n: t.clone() for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    small = thinned(model, False)
    places = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    assert not places & {t.data_ptr() for t in (*small.parameters(), *small.buffers())}
    with torch.no_grad():
        for tensor in (*small.parameters(), *small.buffers()):
            tensor.zero_()
    small.classes.append("bird")
    assert all(torch.equal(tensor, model.state_dict()[n]) for n, tensor in state.items())
    assert model.classes == ["cat", "dog"]
