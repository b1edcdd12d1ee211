"""What the tape cannot follow takes whole evaluations instead, is said, and gives the naive loop's numbers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.sensitivity import perform_sensitivity_analysis
from prunus.sensitivity.replay import Player
from sensitivity_oracle import LEVELS, Net, batch, check, judge, seeded


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
    with pytest.warns(UserWarning, match="a call sets the model's kept"):
        perform_sensitivity_analysis(model, seeded, levels=(0.9,))


def test_a_list_of_outputs_that_the_model_does_not_own():
    kept = []

    def keeps(m, y):
        kept.append(y)
        return y

    @torch.no_grad()
    def evaluate(model):
        kept.clear()
        model(batch(8, 6))
        return float(kept[0].sum())

    check(Net(keeps).eval(), evaluate, targets="a.weight", reason="keeps a tensor that depends on the weights")


LEFT = {  # what the model has at first, and what a call does with it
    "number": (None, lambda kept, x: float(x.mean())),
    "tensor": (None, lambda kept, x: x.mean()),
    "changed": (torch.zeros(()), lambda kept, x: kept.copy_(x.mean())),
    "list": ([], lambda kept, x: kept.append(float(x.mean())) or kept),
}


@pytest.mark.parametrize("way", LEFT)
def test_what_a_call_leaves_in_the_model(way):
    class Leaves(Net):
        def forward(self, x):
            self.kept = LEFT[way][1](self.kept, x)  # evaluate counts on it, and no weight changes it
            return super().forward(x)

    @torch.no_grad()
    def evaluate(model):
        if way == "list":
            model.kept.clear()
        return sum(float(model(x).sum()) + float(torch.as_tensor(model.kept).sum()) for x in batch(3, 8, 6))

    model = Leaves().eval()
    model.kept = LEFT[way][0]
    check(model, evaluate, reason="every cell takes a whole evaluation per cell: a call sets the model's kept")


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


def test_a_forward_that_counts_its_calls():
    calls = itertools.count()
    model = Net(lambda m, y: y + 1 if next(calls) % 2 else y).eval()
    with pytest.warns(UserWarning, match=r"something else"):
        perform_sensitivity_analysis(model, lambda m: seeded(m), levels=(0.5,))


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
