"""Regularizers against closed forms and autograd of naive formulas; names, thresholds, state."""

import math

import pytest
import torch
from torch import nn

import prunus
from prunus.errors import InputError, NameNotFound
from prunus.regularizers import (
    L1,
    BnL1,
    GroupLasso,
    GrowingL2,
    Regularizers,
    register,
    regularizer,
    regularizer_names,
)


def linear(rows):
    """A model of one linear layer with these weights, float64."""
    weight = torch.tensor(rows, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64))
    model[0].weight.data = weight
    return model


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip


def value(model, spec, **settings):
    return Regularizers(model, [spec], **settings)().item()


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("l1(0.1)", 0.1 * 19),
        ("group_lasso(0.1, size=none)", 0.1 * (5 + 12)),
        ("group_lasso(0.1)", 0.1 * math.sqrt(2) * (5 + 12)),
        ("group_lasso(0.1, granularity=channel, size=none)", 0.1 * (3 + math.sqrt(16 + 144))),
        ("group_lasso(0.1, granularity=layer, size=none)", 0.1 * 13),
        ("group_lasso(0.1, granularity=layer)", 0.1 * 2 * 13),
        ("group_lasso(0.1, granularity=element)", 0.1 * 19),
        # The norms 5 and 12 have the variance 49 / 2.
        ("group_variance(0.1)", 0.1 * math.exp(-24.5)),
        ("group_variance(0.1, form=inverse)", 0.1 / 24.5),
    ],
)
def test_values_by_hand(spec, wanted):
    assert value(linear([[3.0, 4.0], [0.0, -12.0]]), spec) == pytest.approx(wanted, rel=1e-12)


NAIVE = {
    "l1(0.3)": lambda w: sum(abs(x) for x in w.flatten()),
    "group_lasso(0.3, granularity=filter)": lambda w: sum((f.numel() * (f**2).sum()) ** 0.5 for f in w),
    "group_lasso(0.3, granularity=channel)": lambda w: sum(
        (w[:, c].numel() * (w[:, c] ** 2).sum()) ** 0.5 for c in range(w.shape[1])
    ),
    "group_lasso(0.3, granularity=kernel)": lambda w: sum((k.numel() * (k**2).sum()) ** 0.5 for f in w for k in f),
    "group_lasso(0.3, granularity=layer)": lambda w: (w.numel() * (w**2).sum()) ** 0.5,
    "group_variance(0.3, granularity=filter)": lambda w: torch.exp(-torch.stack([f.norm() for f in w]).var()),
    "group_variance(0.3, granularity=channel, form=inverse)": lambda w: (
        1 / torch.stack([w[:, c].norm() for c in range(w.shape[1])]).var()
    ),
}


@pytest.mark.parametrize("spec", NAIVE)
def test_value_and_gradient_are_those_of_the_naive_formula(spec):
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, (2, 3), bias=False, dtype=torch.float64)
    total = Regularizers(model, [spec])()
    total.backward()
    weight = model.weight.detach().clone().requires_grad_()
    naive = 0.3 * NAIVE[spec](weight)
    naive.backward()
    torch.testing.assert_close(total, naive)
    torch.testing.assert_close(model.weight.grad, weight.grad)


def test_a_short_last_unit_counts_its_own_elements():
    model = linear([[3.0, 4.0, 12.0]])
    assert value(model, {"kind": "group_lasso", "strength": 1.0, "granularity": "vector(2)"}) == pytest.approx(
        math.sqrt(2) * 5 + 12
    )


@pytest.mark.parametrize("spec", ["l1(1)", "group_lasso(1)", "bn_l1(1)", "growing_l2(1)", "group_variance(1)"])
def test_the_gradient_of_zeros_is_zero(spec):
    model = conv_net()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    graph = prunus.trace(model.eval(), (torch.zeros(2, 3, 8, 8),))
    for known in (None, graph):
        model.zero_grad()
        Regularizers(model, [spec], graph=known)().backward()
        for parameter in model.parameters():
            assert parameter.grad is None or not parameter.grad.any()


def test_with_a_graph_a_unit_is_the_coupled_channel():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + self.inner(x.relu()))

    torch.manual_seed(0)
    model = Residual()
    graph = prunus.trace(model, (torch.randn(2, 3),))
    stem, inner = model.stem.weight, model.inner.weight
    wanted = sum((8 * (stem[i].square().sum() + inner[i].square().sum())).sqrt() for i in range(5))
    assert value(model, "group_lasso(2)", graph=graph) == pytest.approx(2 * float(wanted.detach()), rel=1e-6)
    alone = Regularizers(model, [{"kind": "group_lasso", "strength": 1, "targets": "stem"}], graph=graph)
    assert len(alone.targets["group_lasso"]) == 1


def test_a_threshold_zeroes_whole_coupled_units_and_nothing_else():
    model = conv_net()
    with torch.no_grad():
        model[0].weight[2] *= 1e-3
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = prunus.trace(model.eval(), (torch.zeros(2, 3, 8, 8),))
    terms = Regularizers(model, ["group_lasso(1e-4, threshold=0.01)", "l1(1)"], graph=graph)
    assert terms.threshold_() == {"group_lasso": 1}
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert not model.state_dict()[name][2].any()
    assert not model[3].weight[:, 2].any()
    rest = torch.tensor([0, 1, 3, 4, 5])
    assert torch.equal(model[0].weight[rest], before["0.weight"][rest])
    assert torch.equal(model[3].weight[:, rest], before["3.weight"][:, rest])
    assert torch.equal(model[8].weight, before["8.weight"])


def test_a_threshold_is_compared_with_the_root_mean_square():
    model = linear([[3.0, 4.0], [0.0, 1.0]])
    at = math.sqrt(12.5)
    assert Regularizers(model, [GroupLasso(1.0, threshold=at * 0.999)]).threshold_() == {"group_lasso": 1}
    assert model[0].weight.tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert Regularizers(model, [GroupLasso(1.0, threshold=at * 1.001)]).threshold_() == {"group_lasso": 2}
    model = linear([[3.0, -0.5], [0.5, 1.0]])
    assert Regularizers(model, [L1(0.0, threshold=0.5)]).threshold_() == {"l1": 2}
    assert model[0].weight.tolist() == [[3.0, 0.0], [0.0, 1.0]]
    assert Regularizers(model, [L1(0.0)]).threshold_() == {}


def test_bn_l1_is_the_sum_of_the_scales():
    model = conv_net()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, 0.5]))
        model[4].weight.fill_(10.0)
    assert value(model, "bn_l1(0.1)") == pytest.approx(0.1 * 47)
    assert value(model, BnL1(0.1, targets="1.weight")) == pytest.approx(0.7)
    assert value(model, BnL1(0.1, targets={"exclude": "1.weight"})) == pytest.approx(4.0)
    Regularizers(model, ["bn_l1(0.1)"])().backward()
    torch.testing.assert_close(model[1].weight.grad, 0.1 * model[1].weight.detach().sign())
    assert model[1].bias.grad is None
    with pytest.raises(InputError, match=r"regularizer bn_l1: .*Linear has no batch norm with a scale"):
        Regularizers(nn.Linear(2, 2), ["bn_l1(0.1)"])
    with pytest.raises(InputError, match=r"name no scale; one is 1\.weight"):
        Regularizers(model, [BnL1(0.1, targets="*.bias")])


def test_growing_l2_grows_by_its_schedule_on_the_units_that_are_smallest_at_first():
    model = linear([[3.0, 4.0], [0.0, 1.0], [2.0, 0.0], [5.0, 5.0]])
    terms = Regularizers(model, ["growing_l2(0.1, ratio=0.5, every=2, ceiling=0.25)"])
    found = []
    for _ in range(8):
        found.append(terms().item())
        model[0].weight.data[0] = 0.1  # now smaller than the chosen ones, but not chosen
    assert found == pytest.approx([strength / 2 * 5 for strength in (0, 0, 0.1, 0.1, 0.2, 0.2, 0.25, 0.25)])
    model.zero_grad()
    terms().backward()
    assert model[0].weight.grad.tolist() == [[0.0, 0.0], [0.0, 0.25], [0.5, 0.0], [0.0, 0.0]]


def test_a_reloaded_state_goes_on_where_it_was():
    model = linear([[3.0, 4.0], [0.0, 1.0]])
    specs = ["growing_l2(0.1, every=1)", "l1(1)"]
    first = Regularizers(model, specs)
    for _ in range(3):
        first()
    state = first.state_dict()
    model[0].weight.data.copy_(torch.tensor([[0.1, 0.1], [3.0, 3.0]], dtype=torch.float64))
    second = Regularizers(model, specs)
    second.load_state_dict(state)
    assert first().item() == second().item() == pytest.approx(0.3 / 2 * 18 + 6.2)
    with pytest.raises(InputError, match="growing_l2 is of another model"):
        Regularizers(model, ["l1(1)"]).load_state_dict(state)


def test_each_term_is_known_by_its_name_and_they_add_up():
    model = linear([[3.0, 4.0], [0.0, -12.0]])
    terms = Regularizers(model, ["l1(0.1)", {"kind": "group_lasso", "strength": 0.01, "name": "rows", "size": "none"}])
    assert terms.last == {}
    total = terms()
    assert terms.last == pytest.approx({"l1": 1.9, "rows": 0.17})
    assert total.item() == pytest.approx(2.07)
    assert Regularizers(model, [])().item() == 0.0
    with pytest.raises(InputError, match="two regularizers are named l1"):
        Regularizers(model, ["l1(1)", "l1(2)"])


@pytest.mark.parametrize("spec", ["l1(1)", "group_lasso(1)", "bn_l1(1)", "growing_l2(1)", "group_variance(1)"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_member_works_in_every_dtype_and_reads_back(spec, dtype):
    from prunus.regularizers import GroupVariance  # noqa: F401  (its repr is evaluated)

    made = regularizer(spec)
    assert eval(repr(made)) == made == regularizer({"kind": made.name, "strength": 1})
    terms = Regularizers(conv_net().to(dtype), [made])
    assert terms().dim() == 0
    assert math.isfinite(terms.last[made.name])
    assert made.name in regularizer_names()


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("group_lass(1)", NameNotFound, "did you mean group_lasso"),
        ("l1", InputError, "missing a required argument: 'strength'"),
        ("l1(-1)", InputError, "strength is -1; a number of at least 0"),
        ("l1(1, threshold=x)", InputError, "threshold is 'x'"),
        ("l1(1, granularty=filter)", NameNotFound, "did you mean granularity"),
        ("l1(1, granularity=filtr)", NameNotFound, "did you mean filter"),
        ("group_lasso(1, size=log)", NameNotFound, "no size of group_lasso named 'log'"),
        ("group_variance(1, form=log)", NameNotFound, "no form of group_variance named 'log'"),
        ("growing_l2(1, ratio=1.0)", InputError, "ratio is 1.0"),
        ("growing_l2(1, every=0)", InputError, "every is 0"),
        ({"strength": 1}, InputError, "has no `kind`"),
        ({"kind": "l1", "strength": 1, "thresh": 1}, NameNotFound, "did you mean threshold"),
        (L1, InputError, "an object with penalty"),
        (3, InputError, "an object with penalty"),
    ],
)
def test_what_cannot_be_read_is_named(spec, error, match):
    with pytest.raises(error, match=match):
        regularizer(spec)


def test_targets_that_match_nothing_name_the_regularizer():
    with pytest.raises(NameNotFound, match=r"regularizer l1: no weight of two dims named 'fc\*'"):
        Regularizers(conv_net(), [L1(1.0, targets="fc*")])
    with pytest.raises(InputError, match=r"regularizer group_variance: .*weight has 1 unit"):
        Regularizers(nn.Linear(3, 1), ["group_variance(1)"])


def test_a_name_is_registered_once():
    register("l1", L1)
    with pytest.raises(InputError, match="already registered"):
        register("l1", GrowingL2)
    with pytest.raises(InputError, match="is no word"):
        register("l-1", L1)
