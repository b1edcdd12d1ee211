"""Models whose forward is more than layer after layer: the tape follows them and nothing falls back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from prunus.sensitivity import engine
from sensitivity_oracle import check, judge


def inputs(*shape, count=2):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


class Layers(nn.Module):
    """Three linear layers; what happens between them is the test's."""

    def __init__(self, forward, width=6):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(width, width) for _ in range(3))
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


def residual_in_place(m, x):
    y = m.a(x)
    z = m.b(y)
    z += y  # y depends on a alone: kept as it was, for b
    y.mul_(2)  # and changes afterwards
    return m.c(z.relu_()) + y


def read_earlier_then_changed(m, x):
    y = torch.tanh(x)
    z = m.a(y)
    y.add_(1)  # nothing of this depends on a weight, but a replay of `a` needs y as it was
    return m.b(z) + m.c(y)


def write_into_part(m, x):
    out = torch.zeros(x.shape[0], 12)
    out[:, :6] = m.a(x)  # out begins to depend on a
    out[:, 6:] = m.b(x)
    half = out[:, 3:9]
    half.mul_(m.c(x))  # through a view, read elsewhere
    return out.sin()


def read_both_ways(m, x):
    buffer = x.clone()
    view = buffer.view(-1)
    y = m.a(buffer)
    view[::2] = 0.5  # the storage of what `a` read
    return m.b(y) * m.c(view.view_as(x))


def functional(m, x):
    y = F.linear(x, m.a.weight * 2, m.a.bias)
    q, k = F.linear(y, torch.cat([m.b.weight, m.c.weight])).chunk(2, dim=-1)
    return torch.einsum("ni,mi->nm", q, k).softmax(-1) @ y


def tied(m, x):
    m_c = m.a.weight.t()
    return m.b(m.a(x).relu()) @ m_c + F.linear(x, m.c.weight)


def out_argument(m, x):
    result = torch.empty(x.shape[0], 6)
    torch.mm(x, m.a.weight, out=result)
    return m.c(m.b(result))


def branch_on_what_no_weight_changes(m, x):
    return m.b(m.a(x)) if float(x.sum()) > -1000 else m.c(x)


def indices(m, x):
    order = m.a(x).argsort(1)  # numbers that depend on a, in a shape that does not
    y = m.b(x)
    y = y[torch.arange(len(y))[:, None], order] + y[:, torch.tensor([5, 4, 3, 2, 1, 0])]
    return m.c(y)[x[:, 0] > 0]


def two_outputs(m, x):
    return m.b(m.a(x)), m.c(x)


BODIES = (
    residual_in_place, read_earlier_then_changed, write_into_part, read_both_ways, functional, tied, out_argument,
    branch_on_what_no_weight_changes, indices, two_outputs,
)  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("limit", [2**30, 0], ids=["memory", "files"])
def test_forwards_of_every_kind(body, limit, monkeypatch):
    monkeypatch.setattr(engine, "default_limit", lambda: limit)
    check(Layers(body).eval(), judge(*inputs(5, 6)))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_attention_recurrence_and_norms(context):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Linear(6, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.lstm = nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True)
            self.norm, self.drop, self.out = nn.LayerNorm(10), nn.Dropout(), nn.Linear(10, 3)

        def forward(self, x):
            y = self.embed(x)
            y = y + self.attention(y, y, y, need_weights=False)[0]
            return self.out(self.drop(self.norm(self.lstm(self.layer(y))[0]).mean(1)))

    batches = inputs(2, 4, 6)

    def evaluate(model):
        with context():
            return {"sum": float(torch.stack([model(x).double().cos().sum() for x in batches]).sum())}

    check(Mixed().eval(), evaluate)


def test_autocast_without_its_cache():
    batches = inputs(4, 6)

    def evaluate(model):
        with torch.no_grad(), torch.autocast("cpu", cache_enabled=False):
            return sum(float(model(x).float().sum()) for x in batches)

    check(Layers(lambda m, x: m.c(F.layer_norm(m.b(m.a(x).relu()), (6,)))).eval(), evaluate)


def test_weights_that_share_memory():
    model = Layers(lambda m, x: m.c(m.b(m.a(x).relu()).relu())).eval()
    model.c.weight = model.a.weight
    model.b.weight = nn.Parameter(model.a.weight.detach().t())  # another parameter, another layout, one storage
    check(model, judge(*inputs(5, 6)))


def test_an_evaluation_may_change_the_outputs_it_is_given():
    @torch.no_grad()
    def evaluate(model):
        total = 0.0
        for x in inputs(5, 6):
            first, second = model(x)
            total += float(first.softmax(-1).mul_(second.exp_()).sum())
        return total

    check(Layers(two_outputs).eval(), evaluate)


def test_arguments_by_name_and_outputs_in_a_mapping():
    model = Layers(lambda m, x: {"a": m.a(x["x"]), "rest": [m.b(x["y"]), 7]}).eval()

    @torch.no_grad()
    def evaluate(model):
        found = model(x={"x": inputs(2, 6)[0], "y": inputs(2, 6)[1]})
        return float(found["a"].sum()) + float(found["rest"][0].sum()) + found["rest"][1]

    check(model, evaluate)


def test_a_pass_that_must_be_cut_into_many_gives_the_same(monkeypatch):
    plain = engine.Engine._groups

    def one_by_one(self, cells, survey):
        self.seconds = survey.seconds = 0.0
        groups = list(plain(self, cells, survey))
        assert [len(group) for group in groups] == [1] * len(cells)
        return groups

    monkeypatch.setattr(engine.Engine, "_groups", one_by_one)
    check(Layers(residual_in_place).eval(), judge(*inputs(5, 6)))


STEPS = ("linear", "relu", "relu_", "add_", "skip", "cat", "half", "scale_", "norm", "transpose")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(STEPS), min_size=3, max_size=9), st.integers(0, 3))
def test_generated_nets(steps, seed):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(seed)
            self.first = nn.Linear(6, 6)
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in steps)
            self.wide = nn.ModuleList(nn.Linear(12, 6) for _ in steps)

        def forward(self, x):
            old = self.first(x)
            y = old
            for step, layer, wide in zip(steps, self.layers, self.wide, strict=True):
                kept = y
                if step == "linear":
                    y = layer(y)
                elif step == "relu":
                    y = y.relu()
                elif step == "relu_":
                    y = y.relu_()
                elif step == "add_":
                    y = layer(y).add_(y)
                elif step == "skip":
                    y = y + old
                elif step == "cat":
                    y = wide(torch.cat([y, old], 1))
                elif step == "half":
                    y = y.clone()
                    y[:, :3] = layer(kept)[:, 3:]
                elif step == "scale_":
                    old.mul_(1.5)
                elif step == "norm":
                    y = F.layer_norm(y, (6,))
                else:
                    y = (y.t() @ layer(y)).repeat(1, 1)[: x.shape[0]]
                    y = F.pad(y, (0, 0, 0, x.shape[0] - y.shape[0]))
            return y + old

    check(Net().eval(), judge(*inputs(7, 6)), levels=(0.6,))
