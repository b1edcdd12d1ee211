"""Statistics of gradients and curvature on models that are half, frozen, tied, or partly unused."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from criteria_tables import scores_of
from prunus.granularity import Piece, granularity
from prunus.statistics import Calibration, collect

SPECS = (
    "taylor", "snip", "grasp", "synflow(rounds=3)", "obd", "obd(estimator=ggn)", "obd(estimator=fisher)", "obs",
    "wanda", "woodfisher(damp=0.001)",
)  # fmt: skip


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def labelled(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator).to(dtype), torch.arange(8) % 3) for _ in range(2)]


def pieces(model, *names):
    named = dict(model.named_parameters(remove_duplicate=False))
    return [Piece.of(name, named[name], granularity("element").units(named[name].shape)) for name in names]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
def test_scores_of_half_models_are_float32_and_near_those_in_full(spec, dtype):
    model = net().to(dtype)
    scores = scores_of(model, spec, labelled(dtype), functional.cross_entropy, "filter")
    full = scores_of(net().to(dtype).float(), spec, [(x.to(dtype).float(), y) for x, y in labelled()],
                     functional.cross_entropy, "filter")  # fmt: skip
    for name, found in scores.items():
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, full[name], rtol=0.05, atol=0.03 * float(full[name].abs().max()))


def test_sums_of_half_gradients_are_made_in_float32():
    """1 + 2000 · 0.0004: in float16 each addition would be rounded away."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False)).half()
    data = [(torch.tensor([[value]], dtype=torch.float16), None) for value in (1.0, *[0.0004] * 2000)]
    found = collect(model, {"gradient": pieces(model, "0.weight")}, Calibration(data, lambda y, _: y.sum()))
    expected = sum(float(x) for x, _ in data)
    assert found.sum("gradient", "0.weight").item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_frozen_parameters_are_scored_like_others_and_stay_frozen(spec):
    free = scores_of(net(), spec, labelled(), functional.cross_entropy)
    model = net().requires_grad_(False)
    scores = scores_of(model, spec, labelled(), functional.cross_entropy)
    for name in free:
        assert torch.equal(scores[name], free[name])
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


class Idle(nn.Module):
    """`idle` runs, but nothing of it reaches the output."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        self.idle(x)
        return self.used(x)


@pytest.mark.parametrize("spec", SPECS[:3] + SPECS[4:7])
def test_a_weight_without_a_gradient_scores_zero(spec):
    torch.manual_seed(0)
    scores = scores_of(Idle(), spec, labelled(), functional.cross_entropy)
    assert scores["idle.weight"].tolist() == [[0.0] * 4] * 3
    assert scores["used.weight"].abs().sum() > 0


def test_a_weight_without_flow_goes_before_all_others():
    scores = scores_of(Idle(), "synflow(rounds=3)", labelled())
    assert scores["idle.weight"].max() < scores["used.weight"].min()


class Tied(nn.Module):
    """One matrix under two names, called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).tanh())


class Once(nn.Module):
    """The same function with the matrix under one name."""

    def __init__(self, weight):
        super().__init__()
        self.w = nn.Parameter(weight)

    def forward(self, x):
        return functional.linear(functional.linear(x, self.w).tanh(), self.w)


@pytest.mark.parametrize(
    "name",
    ["taylor", "gradient", "fisher", "hessian(probes=3)", "gauss_newton", "hessian_gradient", "synflow(rounds=3)",
     "gram", "input_square"],
)  # fmt: skip
def test_of_a_tied_weight_every_name_has_what_was_observed_of_it(name):
    torch.manual_seed(0)
    model, data = Tied(), labelled()
    tied = collect(model, {name: pieces(model, "a.weight", "b.weight")}, Calibration(data, functional.cross_entropy))
    once = Once(model.a.weight.detach().clone())
    plain = collect(once, {name: pieces(once, "w")}, Calibration(data, functional.cross_entropy))
    keys = [key[1] for key in tied]
    assert sorted(keys) == ["a.weight", "b.weight"]
    (expected,) = (plain.sum(*key) for key in plain)
    for key in tied:
        if name != "synflow(rounds=3)":  # there every name is a target, and takes a place of its own
            torch.testing.assert_close(tied.sum(*key), expected)
    for alias in ("a.weight", "b.weight") if name in ("gram", "input_square") else ():
        assert tied.layers[alias].name == alias


class Words(nn.Module):
    """Tokens; the loss leaves padding out, as users' losses do."""

    def __init__(self):
        super().__init__()
        self.embed, self.wide, self.narrow = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, ids, attention_mask):
        output = self.narrow(self.wide(self.embed(ids)).relu())
        kept = output[attention_mask.bool()]
        return type("Output", (), {"logits": output, "loss": kept.square().mean()})()


@pytest.mark.parametrize("spec", ["taylor", "snip", "grasp", "obd", "obd(estimator=ggn)", "obs", "taylor_activation"])
def test_what_is_written_into_padding_changes_no_score(spec):
    torch.manual_seed(0)
    model = Words()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = []
    for filler in (0, 7):
        ids = torch.arange(10).view(2, 5) % 9
        ids[0, 3:] = filler
        shape = "channel" if spec == "taylor_activation" else "element"
        found.append(scores_of(model, spec, [{"ids": ids, "attention_mask": mask}], granularity=shape))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])
