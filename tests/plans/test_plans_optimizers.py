"""Optimizer state is cut along: what remains trains on as if nothing had happened."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, conv, generic_, images, removal
from prunus.axes import trace
from prunus.errors import InputError
from prunus.plans import Plan

Make = Callable[..., torch.optim.Optimizer]
# Those that treat every element by itself: the masked model is their oracle.
ELEMENTWISE: dict[str, Make] = {
    "SGD": lambda p, **k: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, **k),
    "Adam": lambda p, **k: torch.optim.Adam(p, lr=0.01, **k),
    "Adam amsgrad": lambda p, **k: torch.optim.Adam(p, lr=0.01, amsgrad=True, **k),
    "AdamW": lambda p, **k: torch.optim.AdamW(p, lr=0.01, **k),
    "Adamax": lambda p, **k: torch.optim.Adamax(p, lr=0.01, **k),
    "NAdam": lambda p, **k: torch.optim.NAdam(p, lr=0.01, **k),
    "RAdam": lambda p, **k: torch.optim.RAdam(p, lr=0.01, **k),
    "Adagrad": lambda p, **k: torch.optim.Adagrad(p, lr=0.01, **k),
    "RMSprop": lambda p, **k: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True, **k),
    "Adadelta": torch.optim.Adadelta,
    "ASGD": lambda p, **k: torch.optim.ASGD(p, lr=0.01, t0=1, **k),
    "Rprop": lambda p, **k: torch.optim.Rprop(p, lr=0.01, **k),
}
# Those that mix the elements of a tensor: an optimizer over hand-made tensors and state is their oracle.
MIXING: dict[str, Make] = {
    "Adafactor": lambda p, **k: torch.optim.Adafactor(p, lr=0.01, **k),
    "Muon": lambda p, **k: torch.optim.Muon([q for q in p if q.dim() == 2], lr=0.01, **k),
}
WITHOUT = {"Optimizer", "LBFGS", "SparseAdam"}  # abstract, refused below, and for embeddings alone, below


def net() -> nn.Module:
    return generic_(
        Net(
            lambda s, x: s.e(s.d(s.b(s.c(x)).relu().mean((2, 3)))),
            c=conv(3, 8), b=nn.BatchNorm2d(8), d=nn.Linear(8, 6), e=nn.Linear(6, 4),
        )
    ).double().eval()  # fmt: skip


def planned(model: nn.Module, x: Tensor, ratio: float = 0.5) -> Plan:
    graph = trace(model, x)
    return Plan.from_pruned(graph, removal(graph, ratio, 0))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def sliced(tensor: Tensor, edit: Mapping[int, Any], shape: torch.Size) -> Tensor:
    """Index the dimensions that are of the parameter's extent; factored state has size 1 in the others."""
    for dim, positions in edit.items():
        if tensor.shape[dim] == shape[dim]:
            tensor = tensor.index_select(dim, torch.from_numpy(positions))
    return tensor.clone()


def assert_next_step_is_the_masked_models(model: nn.Module, make: Make, grouped: Callable[[nn.Module], Any]) -> None:
    x = images().double()
    plan, optimizer = planned(model, x), make(grouped(model))
    for _ in range(3):
        loss = step(model, optimizer, x)
    masked = plan.mask(model)
    masked_optimizer = make(grouped(masked))
    masked_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(masked, masked_optimizer, x)
    plan.apply(model, optimizer=optimizer, inplace=True)
    assert loss.grad_fn is not None  # kept alive, as in any loop: autograd must not hold the gradients to old shapes
    step(model, optimizer, x)
    edits, dense = plan.surgery().edits, dict(masked.named_parameters())
    for path, parameter in model.named_parameters():
        want = sliced(dense[path].detach(), edits.get(path, {}), dense[path].shape)
        torch.testing.assert_close(parameter.detach(), want, rtol=0, atol=1e-10)  # 1e-16 / eps


def test_every_optimizer_of_torch_is_tested_here() -> None:
    classes = {name for name, value in vars(torch.optim).items() if inspect.isclass(value)}
    assert classes - WITHOUT == {name.split()[0] for name in (*ELEMENTWISE, *MIXING)}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_next_step_equals_the_masked_models_at_the_kept_positions(name: str) -> None:
    assert_next_step_is_the_masked_models(net(), ELEMENTWISE[name], lambda model: model.parameters())


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("foreach", [True, False])
def test_parameter_groups_and_foreach_step_alike(name: str, foreach: bool) -> None:
    def grouped(model: nn.Module) -> list[dict[str, Any]]:
        parts = [list(model.c.parameters()), [*model.b.parameters(), *model.d.parameters(), *model.e.parameters()]]
        return [{"params": parts[0], "lr": 0.003}, {"params": parts[1]}]

    assert_next_step_is_the_masked_models(net(), lambda p: ELEMENTWISE[name](p, foreach=foreach), grouped)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_fused_steps_alike(name: str) -> None:
    assert_next_step_is_the_masked_models(net(), lambda p: ELEMENTWISE[name](p, fused=True), lambda m: m.parameters())


@pytest.mark.parametrize("name", [*ELEMENTWISE, *MIXING])
def test_next_step_equals_that_of_tensors_and_state_sliced_by_hand(name: str) -> None:
    make, model, x = {**ELEMENTWISE, **MIXING}[name], net(), images().double()
    plan, optimizer = planned(model, x), make(model.parameters())
    for _ in range(3):
        step(model, optimizer, x)
    edits, by_hand, state = plan.surgery().edits, plan.apply(model), copy.deepcopy(optimizer.state_dict())
    named = {id(p): (path, p) for path, p in model.named_parameters()}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        path = named[id(parameter)][0]
        for key, value in state["state"][index].items():
            if value.dim():
                state["state"][index][key] = sliced(value, edits.get(path, {}), parameter.shape)
    other = make(by_hand.parameters())
    other.load_state_dict(state)
    plan.apply(model, optimizer=optimizer, inplace=True)
    for a, b in ((model, optimizer), (by_hand, other)):
        step(a, b, x)
    for mine, hand in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, hand, rtol=0, atol=1e-10)


def test_factored_state_of_adafactor_is_cut_along_its_own_dimension() -> None:
    model, x = net(), images().double()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    step(model, optimizer, x)
    planned(model, x).apply(model, optimizer=optimizer, inplace=True)
    rows, columns = (optimizer.state[model.e.weight][key] for key in ("row_var", "col_var"))
    assert (rows.shape, columns.shape) == ((4, 1), (1, 3))


def test_sparse_gradients_and_their_optimizer_are_cut_along() -> None:
    def lookup() -> nn.Module:
        return generic_(Net(lambda s, i: s.e(s.t(i)), t=nn.Embedding(7, 8, sparse=True), e=nn.Linear(8, 4))).double()

    model, i = lookup(), torch.tensor([[1, 4], [4, 6]])
    optimizer = torch.optim.SparseAdam([model.t.weight], lr=0.01)
    step(model, optimizer, i)
    plan, gradient = planned(model, i), model.t.weight.grad.to_dense()
    (kept,) = plan.kept.values()
    masked = plan.mask(model)
    other = torch.optim.SparseAdam([masked.t.weight], lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(masked, other, i)
    plan.apply(model, optimizer=optimizer, inplace=True)
    torch.testing.assert_close(model.t.weight.grad.to_dense(), gradient[:, kept])
    step(model, optimizer, i)
    torch.testing.assert_close(model.t.weight, masked.t.weight[:, kept], rtol=0, atol=1e-10)


def test_optimizer_without_inplace_is_refused() -> None:
    model, x = net(), images().double()
    with pytest.raises(InputError, match="an optimizer was given without inplace=True"):
        planned(model, x).apply(model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))


def test_optimizer_of_another_model_is_refused() -> None:
    model, x = net(), images().double()
    with pytest.raises(InputError, match="SGD given holds none of the parameters that are cut"):
        planned(model, x).apply(model, inplace=True, optimizer=torch.optim.SGD(net().parameters(), lr=1.0))
    assert model.c.out_channels == 8


def test_flat_history_is_refused_before_anything_changes() -> None:
    model, x = net(), images().double()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.01)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(InputError, match=r"LBFGS keeps .* thin first, then build a new optimizer"):
        planned(model, x).apply(model, inplace=True, optimizer=optimizer)
    assert model.c.out_channels == 8
    optimizer.step(closure)
