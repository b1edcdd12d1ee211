"""`nn.MultiheadAttention` with fewer heads, against torch's own with the missing heads at zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from axes.proving import Net, assert_same, check, generic_, outputs, removal
from prunus.axes import trace
from prunus.plans import Plan, load, save
from prunus.plans.attention import ThinnedMultiheadAttention

WIDTH, HEADS = 12, 4


def tokens(length: int = 5, width: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed))


def attending(**kwargs: Any) -> nn.Module:
    """A network around attention, so that nothing of it is an output."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        return self.o(self.a(x, x, x, need_weights=False)[0])

    return generic_(
        Net(forward, a=nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **kwargs), o=nn.Linear(WIDTH, 3))
    )


def without(module: nn.MultiheadAttention, gone: list[int]) -> nn.MultiheadAttention:
    """Zero heads by hand: the rows that make them and the columns that read them."""
    out, size = copy.deepcopy(module), module.head_dim
    rows = torch.tensor([h * size + i for h in gone for i in range(size)])
    with torch.no_grad():
        if out.in_proj_weight is not None:
            for part in range(3):
                out.in_proj_weight[part * out.num_heads * size + rows] = 0
        else:
            for weight in (out.q_proj_weight, out.k_proj_weight, out.v_proj_weight):
                weight[rows] = 0
        if out.in_proj_bias is not None:
            for part in range(3):
                out.in_proj_bias[part * out.num_heads * size + rows] = 0
        for bias in (out.bias_k, out.bias_v):
            if bias is not None:
                bias[..., rows] = 0
        out.out_proj.weight[:, rows] = 0
    return out


@pytest.mark.parametrize("kwargs", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
def test_heads_go_in_torchs_own_names(kwargs: dict[str, Any]) -> None:
    model = attending(**kwargs)
    graph = check(model, tokens())
    assert [group.kind for group in graph.groups] == ["head", "feature"]
    small: Any = Plan(graph, {graph.groups[0].name: torch.tensor([0, 3])}).apply(model)
    assert isinstance(small.a, nn.MultiheadAttention)
    assert small.a.num_heads == 2
    assert set(small.state_dict()) == set(model.state_dict())
    by_hand = copy.deepcopy(model)
    by_hand.a = without(model.a, [1, 2])
    assert_same(outputs(by_hand, (tokens(seed=1),)), outputs(small, (tokens(seed=1),)))


def thinned(**kwargs: Any) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    """Return (heads zeroed by hand, thinned) float64 modules alone."""
    model = attending(**kwargs).double()
    graph = trace(model, tokens().double())
    small: Any = Plan(graph, {graph.groups[0].name: torch.tensor([0, 3])}).apply(model)
    return without(model.a, [1, 2]).eval(), small.a.eval()


CALLS: dict[str, dict[str, Any]] = {
    "plain": {"need_weights": False},
    "padding": {"need_weights": False, "key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])},
    "causal": {"need_weights": False, "attn_mask": torch.ones(5, 5).triu(1).bool()},
    "causal hint": {"need_weights": False, "attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True},
    "float mask and padding": {
        "need_weights": False,
        "attn_mask": torch.randn(5, 5).double(),
        "key_padding_mask": torch.tensor([[False] * 5, [False] * 4 + [True]]),
    },
    "weights": {"need_weights": True, "average_attn_weights": False},
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kwargs", [{}, {"add_bias_kv": True, "add_zero_attn": True}], ids=str)
def test_every_way_to_call_it_gives_what_torch_gives(name: str, kwargs: dict[str, Any]) -> None:
    masked, small = thinned(**kwargs)
    assert type(small) is ThinnedMultiheadAttention
    x = tokens(seed=2).double()
    want, got = masked(x, x, x, **CALLS[name]), small(x, x, x, **CALLS[name])
    torch.testing.assert_close(got[0], want[0], rtol=0, atol=1e-12)
    if CALLS[name]["need_weights"]:
        torch.testing.assert_close(got[1], want[1][:, [0, 3]], rtol=0, atol=1e-12)
    else:
        assert got[1] is None


def test_unbatched_time_first_and_a_mask_per_head() -> None:
    masked, small = thinned()
    x = tokens(seed=2).double()
    torch.testing.assert_close(small(x[0], x[0], x[0])[0], masked(x[0], x[0], x[0])[0], rtol=0, atol=1e-12)
    masked.batch_first = small.batch_first = False
    torch.testing.assert_close(small(x, x, x)[0], masked(x, x, x)[0], rtol=0, atol=1e-12)
    mask = torch.randn(5 * HEADS, 2, 2).double()  # batch of 5 when time comes first
    own = mask.view(5, HEADS, 2, 2)[:, [0, 3]].reshape(10, 2, 2)
    torch.testing.assert_close(small(x, x, x, attn_mask=own)[0], masked(x, x, x, attn_mask=mask)[0], rtol=0, atol=1e-12)


def test_keys_and_values_of_other_widths() -> None:
    def forward(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.o(self.a(x, y, y, need_weights=False)[0])

    attention = nn.MultiheadAttention(WIDTH, HEADS, kdim=7, vdim=7, batch_first=True)
    check(Net(forward, a=attention, o=nn.Linear(WIDTH, 3)), (tokens(), tokens(4, 7)))


def test_dropout_acts_in_training_and_gradients_reach_every_weight() -> None:
    _, small = thinned(dropout=0.5)
    x = tokens(seed=2).double()
    small.train()
    assert not torch.equal(small(x, x, x)[0], small(x, x, x)[0])
    small(x, x, x, need_weights=False)[0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in (small.in_proj_weight, small.out_proj.weight))


def test_torchs_encoder_runs_it_with_padding_and_reloads(tmp_path: Any) -> None:
    """In eval mode torch hands whole layers to a fused kernel; it must not meet fewer heads."""

    def build() -> nn.Module:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
        return Net(
            lambda s, x, mask: s.o(s.e(x, src_key_padding_mask=mask)),
            e=nn.TransformerEncoder(layer, 2),
            o=nn.Linear(WIDTH, 3),
        )

    model = generic_(build()).eval()
    inputs = (tokens(), torch.tensor([[False] * 5, [False] * 4 + [True]]))
    graph = trace(model, inputs)
    plan = Plan.from_pruned(graph, removal(graph, 0.5, 0))
    small = plan.apply(model)
    assert type(small) is type(model)
    with torch.no_grad():  # padded positions differ by torch's own paths, so only the others are compared
        torch.testing.assert_close(small(*inputs)[0], plan.mask(model)(*inputs)[0], rtol=0, atol=1e-5)
    again = load(save(small, tmp_path / "m.prunus"), build)
    assert torch.equal(again(*inputs), small(*inputs))
