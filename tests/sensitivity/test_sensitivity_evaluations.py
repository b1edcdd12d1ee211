"""Evaluations that do more than call the model: said, and judged as the naive loop judges them."""

import itertools
import warnings

import pytest
import torch

from prunus.sensitivity import perform_sensitivity_analysis
from sensitivity_oracle import Net, batch, check, seeded


def test_hooks_that_evaluate_sets_itself():
    @torch.no_grad()
    def evaluate(model):
        sums = []
        handle = model.a.register_forward_hook(lambda module, args, output: sums.append(float(output.sum())))
        called = seeded(model)
        handle.remove()
        return {"hooked": sum(sums), "called": called}

    check(Net().eval(), evaluate, reason="a has forward hooks")


@pytest.mark.parametrize(
    "reading",
    [
        lambda model: float(model.a.weight.abs().sum().detach()),
        lambda model: float(model.a.weight.data.numpy().sum()),
        lambda model: float(model.a(batch(8, 6)).sum().detach()),
        lambda model: len(set(model.a.weight.data.flatten().tolist())),
        lambda model: float(model.state_dict()["a.weight"].norm()),
    ],
)
def test_an_evaluation_that_looks_into_the_model(reading):
    def evaluate(model):
        return {"looked": reading(model), "called": seeded(model)}

    check(Net().eval(), evaluate, reason="evaluate itself reads")


def trains(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x in batch(3, 8, 6):
        optimizer.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return seeded(model)


def rounds(model):
    return seeded(model.half().float())


def widens(model):
    return seeded(lambda x: model.double()(x.double()))


@pytest.mark.parametrize("how", [{}, {"recalibrate": [batch(8, 6)]}], ids=["surveyed", "recalibrated"])
@pytest.mark.parametrize("evaluate", [trains, rounds, widens])
def test_an_evaluation_that_changes_the_weights(evaluate, how):
    model = Net().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curves = perform_sensitivity_analysis(model, evaluate, levels=(0.25, 0.75), **how)
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert curves.dense["metric"] == evaluate(Net().eval())
    for (name, values), (at, level) in itertools.product(curves.values["metric"].items(), enumerate(curves.levels)):
        pruned = Net().eval()
        weight = pruned.get_parameter(name).data.view(-1)
        weight[weight.abs().argsort()[: int(level * weight.numel())]] = 0
        assert values[at] == evaluate(pruned)


def test_an_evaluation_with_gradients():
    def evaluate(model):
        x = batch(8, 6).requires_grad_()
        model(x).square().sum().backward()
        model.zero_grad()
        return float(x.grad.abs().sum())

    check(Net().eval(), evaluate, reason="runs with gradients")


def test_shuffled_data():
    number = itertools.count()

    @torch.no_grad()
    def evaluate(model):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(next(number)))
        return float((model(batch(8, 6)[order]).argmax(1) == 0).sum())  # the same in any order

    check(Net().eval(), evaluate, reason="other inputs the second time")


def test_an_evaluation_that_catches_everything():
    number = itertools.count()

    @torch.no_grad()
    def evaluate(model):
        right = 0
        for x in batch(8, 6)[torch.randperm(8, generator=torch.Generator().manual_seed(next(number)))].split(2):
            try:
                right += int((model(x).argmax(1) == 0).sum())
            except:  # noqa: E722
                continue
        return float(right)

    check(Net().eval(), evaluate, reason="other inputs the second time")


def test_inputs_that_are_made_of_outputs():
    @torch.no_grad()
    def evaluate(model):
        x = batch(8, 6)
        for _ in range(3):
            x = torch.cat([model(x), x[:, :2]], dim=1)
        return float(x.double().sin().sum())

    check(Net().eval(), evaluate, reason="inputs that are made of its outputs")


def test_outputs_of_an_unknown_kind():
    class Answer:
        def __init__(self, logits):
            self.logits = logits

    class Wraps(Net):
        def forward(self, x):
            return Answer(super().forward(x))

    @torch.no_grad()
    def evaluate(model):
        try:
            return float(model(batch(8, 6)).logits.sum())
        except:  # noqa: E722
            return 0.0

    check(Wraps().eval(), evaluate, reason="returns a Answer, which is not followed")


def test_a_model_that_is_never_called():
    check(Net().eval(), lambda model: 1.0, reason="evaluate does not call the model")


def test_a_copy_of_the_model_is_judged_as_it_is():
    import copy

    check(Net().eval(), lambda model: seeded(copy.deepcopy(model)), reason="evaluate itself reads")


def test_an_error_of_evaluate_leaves_the_model_as_it_was():
    from prunus.errors import TrainingError

    model, calls = Net().eval(), itertools.count()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def evaluate(model):
        value = float(model(batch(8, 6)).sum())
        if next(calls) >= 3:
            raise ValueError("no")
        return value

    with pytest.raises(TrainingError, match="ValueError: no"), pytest.warns(UserWarning, match="in place of the model"):
        perform_sensitivity_analysis(model, evaluate)
    assert "forward" not in model.__dict__
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "numpy" not in torch.Tensor.__dict__
