"""All or nothing: an error at any stage leaves model, averages and optimizer as they were, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from axes.proving import Net, conv, generic_, images, removal
from prunus.axes import trace
from prunus.errors import InputError, NameNotFound
from prunus.plans import Plan, changes, numbers, proof, record_of, surgery
from prunus.plans import plan as plan_room


def net() -> nn.Module:
    model = Net(lambda s, x: s.e(s.b(s.c(x)).relu().mean((2, 3))), c=conv(3, 8), b=nn.BatchNorm2d(8), e=nn.Linear(8, 4))
    return generic_(model)


def trained() -> tuple[nn.Module, torch.optim.Optimizer, AveragedModel]:
    model = net()
    optimizer, average = torch.optim.Adam(model.parameters(), lr=0.01), AveragedModel(model, use_buffers=True)
    for _ in range(3):
        optimizer.zero_grad()
        model(images()).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
    return model, optimizer, average


def planned(model: nn.Module, masks: dict[str, Tensor] | None = None) -> Plan:
    graph = trace(model, images())
    return Plan.from_pruned(graph, removal(graph, 0.5, 0), masks)


def picture(*modules: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Everything that thinning may touch: identities, bits, strides, gradients, flags, numbers, state."""

    def of(t: Tensor) -> tuple[Any, ...]:
        return id(t), t.data_ptr(), t.stride(), t.requires_grad, t.detach().flatten().tolist()

    seen: list[Any] = []
    for model in modules:
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            gradient = None if tensor.grad is None else tensor.grad.flatten().tolist()
            seen.append((name, of(tensor), gradient))
        for name, module in model.named_modules():
            numbers = {k: v for k, v in vars(module).items() if isinstance(v, (int, tuple))}
            seen.append((name, numbers, record_of(module)))
    for slot in optimizer.state.values():
        seen.append({key: of(value) if isinstance(value, Tensor) else value for key, value in slot.items()})
    return seen


class Injected(Exception):
    pass


STAGES = [
    (plan_room, "check_same_model"), (plan_room, "copied"), (plan_room, "thin_"), (proof, "mask_"),
    (surgery, "cut"), (surgery, "_cut_optimizer"), (surgery, "new_numbers"), (numbers, "_described"), (changes, "set_"),
]  # fmt: skip


@pytest.mark.parametrize("call", [1, 2, 5, 11])
@pytest.mark.parametrize("stage", STAGES, ids=[name for _, name in STAGES])
def test_error_in_any_call_of_any_stage_leaves_everything(
    monkeypatch: pytest.MonkeyPatch, stage: tuple[Any, str], call: int
) -> None:
    model, optimizer, average = trained()
    plan = planned(model, {"e.weight": torch.rand(4, 8) > 0.5})
    room, name = stage
    real, count = getattr(room, name), 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == call:
            raise Injected
        return real(*args, **kwargs)

    before = picture(model, average, optimizer=optimizer)
    monkeypatch.setattr(room, name, failing)
    try:
        plan.apply(model, inplace=True, optimizer=optimizer, also=[average], prove=name in ("copied", "mask_"))
    except Injected:
        assert picture(model, average, optimizer=optimizer) == before
    else:
        assert count < call
        assert model.c.out_channels == average.module.c.out_channels == 4


class Guarded(nn.Conv2d):
    """Its number cannot be set, which shows only once tensors have been."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "out_channels" and name in vars(self):
            raise AttributeError("out_channels is fixed")
        super().__setattr__(name, value)


def test_number_that_a_class_refuses_puts_everything_back() -> None:
    model = generic_(Net(lambda s, x: s.e(s.d(s.c(x))), c=conv(3, 8), d=Guarded(8, 8, 1), e=conv(8, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(images()).sum().backward()
    optimizer.step()
    plan = planned(model)
    before = picture(model, optimizer=optimizer)
    with pytest.raises(AttributeError, match="fixed"):
        plan.apply(model, inplace=True, optimizer=optimizer, prove=False)
    assert picture(model, optimizer=optimizer) == before
    optimizer.zero_grad()
    model(images()).sum().backward()  # autograd too is as it was
    optimizer.step()


def test_averaged_model_is_cut_at_the_same_positions_and_goes_on_averaging() -> None:
    model, optimizer, average = trained()
    plan = planned(model)
    want, num_averaged = plan.mask(average.eval())(images()), int(average.n_averaged)
    assert plan.apply(model, inplace=True, optimizer=optimizer, also=[average]) is model
    torch.testing.assert_close(average(images()), want)
    assert int(average.n_averaged) == num_averaged == 3
    average.update_parameters(model)
    assert average.module.c.weight.shape == model.c.weight.shape == (4, 3, 3, 3)


def test_several_copies_are_cut_each_at_its_own_weights() -> None:
    model, others = net(), [net(), generic_(net(), seed=1)]
    plan = planned(model)
    want = [plan.mask(other)(images()) for other in others]
    plan.apply(model, inplace=True, also=others)
    for other, output in zip(others, want, strict=True):
        torch.testing.assert_close(other(images()), output)


def test_copy_that_does_not_fit_leaves_all_of_them() -> None:
    model, optimizer, average = trained()
    plan = planned(model)
    other = Net(lambda s, x: s.e(s.c(x)), c=conv(3, 9), b=nn.BatchNorm2d(8), e=nn.Linear(8, 4))
    before = picture(model, average, other, optimizer=optimizer)
    with pytest.raises(InputError, match=r"also\[1\]: c\.weight has shape \(9, 3, 3, 3\)"):
        plan.apply(model, inplace=True, optimizer=optimizer, also=[average, other])
    with pytest.raises(InputError, match=r"also\[0\]: the model has no tensor c\.weight"):
        plan.apply(model, inplace=True, optimizer=optimizer, also=[nn.Linear(3, 3)])
    with pytest.raises(InputError, match=r"also= was given without inplace=True"):
        plan.apply(model, also=[average])
    assert picture(model, average, other, optimizer=optimizer) == before


def test_state_dict_is_cut_as_the_model_is() -> None:
    """Averages kept in a dict, and checkpoints."""
    model, mask = net(), torch.rand(4, 8) > 0.5
    plan, state = planned(model, {"e.weight": mask}), generic_(net(), seed=1).state_dict()
    small, other = plan.apply(model), plan.apply(generic_(net(), seed=1))
    cut = plan.cut(state)
    assert cut.keys() == other.state_dict().keys()
    assert all(torch.equal(cut[name], tensor) for name, tensor in other.state_dict().items())
    small.load_state_dict(cut)
    torch.testing.assert_close(small(images()), other(images()))
    assert plan.cut({"c.bias": state["c.bias"]})["c.bias"].shape == (4,)
    assert state["c.bias"].shape == (8,)
    with pytest.raises(NameNotFound, match=r"no tensor named 'module\.c\.bias'; did you mean .*c\.bias"):
        plan.cut({"module.c.bias": state["c.bias"]})
    with pytest.raises(InputError, match=r"c\.bias has shape \(9,\) where the traced model had \(8,\)"):
        plan.cut({"c.bias": torch.zeros(9)})
