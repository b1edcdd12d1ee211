"""What the tape cannot follow takes whole evaluations instead, is said, and gives the naive loop's numbers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.sensitivity import perform_sensitivity_analysis
from prunus.sensitivity.replay import Player
from sensitivity_oracle import LEVELS, check, judge


def batch(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    """Two linear layers; what is done between them is the test's."""

    def __init__(self, between=torch.relu):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("count", torch.zeros(6))
        self.between, self.kept = between, None

    def forward(self, x):
        return self.b(self.between(self, self.a(x)) if self.between is not torch.relu else torch.relu(self.a(x)))


def draws(m, y):
    return y + torch.rand(6)


def drops(m, y):
    return F.dropout(y, 0.5, training=True)


def counts(m, y):
    m.count += 1
    return y * m.count


def writes_weight(m, y):
    m.b.weight.mul_(1.0)
    return y


def branches(m, y):
    return y if float(y.sum()) > 0.7 else 2 * y


def lists(m, y):
    return y * sum(value > 0 for value in y.flatten().tolist())


def numbers(m, y):
    return torch.from_numpy(np.sign(np.asarray(y))) * y


def selects(m, y):
    return y + y[y > 0].mean()


def sparse(m, y):
    return y.to_sparse().to_dense()


def scripted(m, y):
    return m.script(y)


WHOLE = {
    draws: "draws random numbers",
    drops: "training mode",
    counts: "the call changes count in place",
    writes_weight: "the call changes b.weight in place",
}
OF_A = {
    branches: "_local_scalar_dense.default makes numbers or shapes",
    lists: "Tensor.tolist is called",
    numbers: "Tensor.numpy is called",
    selects: "makes numbers or shapes",
}


@torch.no_grad()
def seeded(model):
    torch.manual_seed(0)
    return sum(float(model(x).double().sin().sum()) for x in batch(3, 8, 6))


@pytest.mark.parametrize("between", WHOLE, ids=lambda f: f.__name__)
def test_random_training_and_state(between):
    check(Net(between).eval(), seeded, reason=f"every cell takes a whole evaluation per cell: {_said(between)}")


def _said(between):
    return "aten" if between in (draws, drops) else WHOLE[between]


@pytest.mark.parametrize("between", OF_A, ids=lambda f: f.__name__)
def test_what_depends_on_a_target_alone_costs_that_target_alone(between, monkeypatch):
    evaluated = []

    def evaluate(model):
        evaluated.append("forward" not in model.__dict__)
        return seeded(model)

    check(Net(between).eval(), evaluate, reason=OF_A[between])
    evaluated.clear()
    with pytest.warns(UserWarning, match=r"sensitivity of a\.weight takes"):
        perform_sensitivity_analysis(Net(between).eval(), evaluate, levels=LEVELS)
    assert sum(evaluated) == len(LEVELS)  # b's cells were replayed


def test_sparse_intermediates():
    check(Net(sparse).eval(), seeded, reason="of a kind that is not followed")


def test_batch_norm_in_training_mode():
    check(Net(lambda m, y: m.norm(y)).train(), seeded, reason="in place")


def test_inputs_changed_in_place():
    x = batch(8, 6)

    class Changes(Net):
        def forward(self, x):
            return self.b(self.a(x.add_(0.1)))

    @torch.no_grad()
    def evaluate(model):
        return float(model(x.clone()).sum())

    check(Changes().eval(), evaluate, reason="the call changes its input in place")


def test_a_cache_filled_by_the_first_call():
    def cached(m, y):
        m.kept = torch.sigmoid(m.a.weight.sum()) if m.kept is None else m.kept
        return y * m.kept

    model = Net(cached).eval()
    seeded(model)
    model.kept = None
    with pytest.warns(UserWarning, match="keeps a tensor that depends on the weights"):
        perform_sensitivity_analysis(model, seeded, levels=(0.9,))


def test_autocast_keeps_cast_weights_between_calls():
    @torch.no_grad()
    def evaluate(model):
        with torch.autocast("cpu"):
            return sum(float(model(x).float().sum()) for x in batch(3, 8, 6))

    check(Net().eval(), evaluate, reason="weights after its call")


@pytest.mark.parametrize("place", ["", "a"])
def test_hooks(place):
    model, seen = Net().eval(), []
    model.get_submodule(place).register_forward_hook(lambda module, args, output: seen.append(output))

    @torch.no_grad()
    def evaluate(model):
        seen.clear()
        model(batch(8, 6))
        return float(seen[0].sum())

    check(model, evaluate, reason="has forward hooks")


def test_a_wrapped_and_a_compiled_model():
    check_wrapped = nn.DataParallel(Net().eval())
    with pytest.warns(UserWarning, match="wrapped in a DataParallel"):
        curves = perform_sensitivity_analysis(check_wrapped, seeded, levels=(0.5,))
    assert set(curves.table) == {"a.weight", "b.weight"}
    model = Net().eval()
    model.a.compile(backend="eager")
    check(model, seeded, reason="a is compiled")
    model = Net(scripted)
    model.script = torch.jit.script(nn.ReLU())
    check(model.eval(), seeded, reason="script is a script module")


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


def test_inputs_that_are_made_of_outputs():
    @torch.no_grad()
    def evaluate(model):
        x = batch(8, 6)
        for _ in range(3):
            x = torch.cat([model(x), x[:, :2]], dim=1)
        return float(x.double().sin().sum())

    check(Net().eval(), evaluate, reason="inputs that are made of its outputs")


def test_a_forward_that_counts_its_calls():
    calls = itertools.count()
    model = Net(lambda m, y: y + 1 if next(calls) % 2 else y).eval()
    with pytest.warns(UserWarning, match=r"something else"):
        perform_sensitivity_analysis(model, lambda m: seeded(m), levels=(0.5,))


def test_outputs_of_an_unknown_kind():
    class Answer:
        def __init__(self, logits):
            self.logits = logits

    class Wraps(Net):
        def forward(self, x):
            return Answer(super().forward(x))

    @torch.no_grad()
    def evaluate(model):
        return float(model(batch(8, 6)).logits.sum())

    check(Wraps().eval(), evaluate, reason="returns a Answer, which is not followed")


def test_a_model_that_is_never_called():
    check(Net().eval(), lambda model: 1.0, reason="evaluate does not call the model")


def test_a_copy_of_the_model_is_judged_as_it_is():
    import copy

    check(Net().eval(), lambda model: seeded(copy.deepcopy(model)), reason="evaluate itself reads")


@pytest.mark.parametrize("wrong", ["a.weight", "b.weight"])
def test_a_replay_that_goes_wrong_is_found_before_its_numbers_are_used(wrong, monkeypatch):
    plain = Player.play

    def play(self, bit, weights):
        storages = plain(self, bit, weights)
        for storage in storages:
            storage.fill_(0)
        return storages

    monkeypatch.setattr(Player, "play", play)
    check(Net().eval(), seeded, targets=wrong, reason="gives another output than the model")


def test_a_weight_that_is_read_past_all_operations_is_found():
    class Hidden(Net):
        def forward(self, x):
            pointer = self.a.weight.untyped_storage().data_ptr()
            values = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 36).from_address(pointer))
            return self.b(x + float(values.sum()))

    check(Hidden().eval(), judge(batch(8, 6)), reason="a.weight gives another output than the model")


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
