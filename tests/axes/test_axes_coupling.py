"""One small model per coupling: its groups as written by hand, and the plan proved on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, check, conv, generic_, groups, images, thin
from prunus.axes import trace


def members(*names: str) -> set[str]:
    return set(names)


def affine(name: str) -> set[str]:
    """The rows of a layer with bias."""
    return {f"{name}.weight:0", f"{name}.bias:0"}


def norm(name: str) -> set[str]:
    """Everything that a batch norm holds per channel."""
    return {f"{name}.{what}:0" for what in ("weight", "bias", "running_mean", "running_var")}


def _transposed(name: str) -> set[str]:
    return {f"{name}.weight:1", f"{name}.bias:0"}


def squeeze_excite(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    return self.e(y * self.b(functional.relu(self.a(y.mean((2, 3), keepdim=True)))).sigmoid())


def dense_style(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    z = self.a(y)
    return self.e(torch.cat([y, z, self.b(torch.cat([y, z], 1))], 1))


def concat_split(self: nn.Module, x: Tensor) -> Tensor:
    both = functional.relu(torch.cat([self.a(x), self.b(x)], 1))
    first, second = both.split([self.a.out_channels, self.b.out_channels], 1)
    return self.e(first) + self.f(second)


def halves(self: nn.Module, x: Tensor) -> Tensor:
    first, second = self.c(x).chunk(2, 1)
    return self.e(first) + self.f(second)


def shortcut_by_padding(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    deep = self.d(y)
    missing = deep.shape[1] - y.shape[1]
    return self.e(deep + functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2)))


def residual(self: nn.Module, x: Tensor) -> Tensor:
    y = self.c(x)
    return self.e(functional.relu(self.d(y)) + y)


CASES = {
    "residual add": (
        lambda: Net(residual, c=conv(3, 8), d=conv(8, 8), e=conv(8, 4)),
        {"c": (8, affine("c") | affine("d") | members("d.weight:1", "e.weight:1"))},
    ),
    "concat and split": (
        lambda: Net(concat_split, a=conv(3, 8), b=conv(3, 6), e=conv(8, 4), f=conv(6, 4)),
        {"a": (8, affine("a") | members("e.weight:1")), "b": (6, affine("b") | members("f.weight:1"))},
    ),
    "DenseNet": (
        lambda: Net(dense_style, c=conv(3, 8), a=conv(8, 6), b=conv(14, 6), e=conv(20, 4)),
        {
            "c": (8, affine("c") | members("a.weight:1", "b.weight:1", "e.weight:1")),
            "a": (6, affine("a") | members("b.weight:1", "e.weight:1")),
            "b": (6, affine("b") | members("e.weight:1")),
        },
    ),
    "depthwise with multiplier": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=conv(8, 24, groups=8), e=conv(24, 4)),
        {"c": (8, affine("c") | affine("g") | members("e.weight:1")), "g": (3, affine("g") | members("e.weight:1"))},
    ),
    "grouped convolution": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 16), g=conv(16, 24, groups=4), e=conv(24, 4)),
        {
            "c": (4, affine("c") | affine("g") | members("e.weight:1")),
            "c#2": (4, affine("c") | members("g.weight:1")),
            "g": (6, affine("g") | members("e.weight:1")),
        },
    ),
    "transposed convolution": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.ConvTranspose2d(8, 6, 2, 2), e=conv(6, 4)),
        {"c": (8, affine("c") | members("g.weight:0")), "g": (6, _transposed("g") | members("e.weight:1"))},
    ),
    "transposed grouped convolution": (
        lambda: Net(
            lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.ConvTranspose2d(8, 12, 2, 2, groups=4), e=conv(12, 4)
        ),
        {
            "c": (4, affine("c") | affine("g") | members("e.weight:1")),
            "c#2": (2, affine("c") | members("g.weight:0")),
            "g": (3, _transposed("g") | members("e.weight:1")),
        },
    ),
    "flatten of 7x7": (
        lambda: Net(
            lambda s, x: s.e(functional.adaptive_avg_pool2d(s.c(x), 7).flatten(1)), c=conv(3, 8), e=nn.Linear(392, 4)
        ),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "GroupNorm": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 16), g=nn.GroupNorm(4, 16), e=conv(16, 4)),
        {"c": (4, affine("c") | affine("g") | members("e.weight:1"))},
    ),
    "GroupNorm before a grouped convolution": (
        lambda: Net(
            lambda s, x: s.e(s.h(s.g(s.c(x)))),
            c=conv(3, 16), g=nn.GroupNorm(4, 16), h=conv(16, 16, groups=2), e=conv(16, 4),
        ),
        {
            "c": (2, affine("c") | affine("g") | affine("h") | members("e.weight:1")),
            "c#2": (2, affine("c") | affine("g") | members("h.weight:1")),
            "h": (8, affine("h") | members("e.weight:1")),
        },
    ),
    "batch norm": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.BatchNorm2d(8), e=conv(8, 4)),
        {"c": (8, affine("c") | norm("g") | members("e.weight:1"))},
    ),
    "batch norm without scale": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.BatchNorm2d(8, affine=False), e=conv(8, 4)),
        {"c": (8, affine("c") | members("g.running_mean:0", "g.running_var:0", "e.weight:1"))},
    ),
    "batch norm without statistics": (
        lambda: Net(
            lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.BatchNorm2d(8, track_running_stats=False), e=conv(8, 4)
        ),
        {"c": (8, affine("c") | affine("g") | members("e.weight:1"))},
    ),
    "instance norm": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.InstanceNorm2d(8), e=conv(8, 4)),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "instance norm with statistics": (
        lambda: Net(
            lambda s, x: s.e(s.g(s.c(x))),
            c=conv(3, 8), g=nn.InstanceNorm2d(8, affine=True, track_running_stats=True), e=conv(8, 4),
        ),
        {"c": (8, affine("c") | norm("g") | members("e.weight:1"))},
    ),
    "PReLU per channel": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.PReLU(8), e=conv(8, 4)),
        {"c": (8, affine("c") | members("g.weight:0", "e.weight:1"))},
    ),
    "PReLU for all": (
        lambda: Net(lambda s, x: s.e(s.g(s.c(x))), c=conv(3, 8), g=nn.PReLU(), e=conv(8, 4)),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "LayerScale": (
        lambda: Net(
            lambda s, x: s.e(s.g * s.c(x)), c=conv(3, 8), g=nn.Parameter(torch.randn(8, 1, 1)), e=conv(8, 4)
        ),
        {"g": (8, affine("c") | members("g:0", "e.weight:1"))},
    ),
    "squeeze and excite": (
        lambda: Net(
            squeeze_excite, c=conv(3, 16), a=nn.Conv2d(16, 4, 1), b=nn.Conv2d(4, 16, 1), e=conv(16, 4)
        ),
        {
            "c": (16, affine("c") | affine("b") | members("a.weight:1", "e.weight:1")),
            "a": (4, affine("a") | members("b.weight:1")),
        },
    ),
    "GLU": (
        lambda: Net(lambda s, x: s.e(functional.glu(s.c(x), 1)), c=conv(3, 16), e=conv(8, 4)),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "chunk of two, added apart": (
        lambda: Net(halves, c=conv(3, 16), e=conv(8, 4), f=conv(8, 4)),
        {"c": (8, affine("c") | members("e.weight:1")), "c#2": (8, affine("c") | members("f.weight:1"))},
    ),
    "product of two branches": (
        lambda: Net(lambda s, x: s.e(s.a(x) * s.b(x)), a=conv(3, 8), b=conv(3, 8), e=conv(8, 4)),
        {"a": (8, affine("a") | affine("b") | members("e.weight:1"))},
    ),
    "einsum with an ellipsis": (
        lambda: Net(
            lambda s, x: s.e(torch.einsum("...chw,kc->...khw", s.c(x), s.w)),
            c=conv(3, 8), w=nn.Parameter(torch.randn(6, 8)), e=conv(6, 4),
        ),
        {"w": (6, members("w:0", "e.weight:1")), "c": (8, affine("c") | members("w:1"))},
    ),
    "module called twice": (
        lambda: Net(lambda s, x: s.e(s.d(s.d(s.c(x)))), c=conv(3, 8), d=conv(8, 8), e=conv(8, 4)),
        {"c": (8, affine("c") | affine("d") | members("d.weight:1", "e.weight:1"))},
    ),
    "buffer per channel": (
        lambda: Net(lambda s, x: s.e(s.c(x) - s.m), c=conv(3, 8), m=torch.randn(1, 8, 1, 1), e=conv(8, 4)),
        {"c": (8, affine("c") | members("m:1", "e.weight:1"))},
    ),
    "pixel shuffle": (
        lambda: Net(lambda s, x: s.e(functional.pixel_shuffle(s.c(x), 2)), c=conv(3, 16), e=conv(4, 4)),
        {"c": (4, affine("c") | members("e.weight:1"))},
    ),
    "pixel unshuffle": (
        lambda: Net(lambda s, x: s.e(functional.pixel_unshuffle(s.c(x), 2)), c=conv(3, 4), e=conv(16, 4)),
        {"c": (4, affine("c") | members("e.weight:1"))},
    ),
    "channel shuffle": (
        lambda: Net(lambda s, x: s.e(s.h(s.c(x))), c=conv(3, 16), h=nn.ChannelShuffle(2), e=conv(16, 4)),
        {"c": (2, affine("c") | members("e.weight:1")), "c#2": (8, affine("c") | members("e.weight:1"))},
    ),
    "ResNet option A": (
        lambda: Net(shortcut_by_padding, c=conv(3, 8), d=nn.Conv2d(8, 16, 3, 2, 1), e=conv(16, 4)),
        {"c": (8, affine("c") | affine("d") | members("d.weight:1", "e.weight:1"))},
    ),
    "empty Sequential": (
        lambda: Net(lambda s, x: s.e(s.i(s.c(x))), c=conv(3, 8), i=nn.Sequential(), e=conv(8, 4)),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "parameters that nothing reads": (
        lambda: Net(
            lambda s, x: s.e(s.c(x)), c=conv(3, 8), u=conv(8, 8), v=nn.Parameter(torch.randn(8)), e=conv(8, 4)
        ),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "Conv1d and BatchNorm1d": (
        lambda: Net(
            lambda s, x: s.e(s.b(s.c(x.flatten(2)))), c=nn.Conv1d(3, 8, 3), b=nn.BatchNorm1d(8), e=nn.Conv1d(8, 4, 1)
        ),
        {"c": (8, affine("c") | norm("b") | members("e.weight:1"))},
    ),
    "Conv3d": (
        lambda: Net(lambda s, x: s.e(s.c(x.unsqueeze(2))), c=nn.Conv3d(3, 8, 1), e=nn.Conv3d(8, 4, 1)),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
    "in-place relu": (
        lambda: Net(lambda s, x: s.e(functional.relu_(s.c(x))), c=conv(3, 8), e=conv(8, 4)),
        {"c": (8, affine("c") | members("e.weight:1"))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_coupling(name: str) -> None:
    """Producer rows, everything per channel, consumer columns; the output keeps all its channels."""
    build, expected = CASES[name]
    graph = check(build(), images())
    assert groups(graph) == expected
    assert not graph.unknown
    assert {(f.param, f.dim) for f in graph.frozen} >= {("e.weight", 0)}


class Attention(nn.Module):
    """Four heads read from the module, of a width that is inferred."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = 4, fused
        self.i, self.qkv, self.o, self.e = nn.Linear(6, 16), nn.Linear(16, 96), nn.Linear(32, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) * 0.35).softmax(-1) @ v
        return self.e(self.o(y.transpose(1, 2).reshape(batch, tokens, -1)))


def test_fused_attention_loses_whole_heads_because_its_scale_reads_the_width() -> None:
    graph = check(Attention(fused=True), torch.randn(2, 5, 6), own_class=False)
    assert groups(graph)["qkv"] == (4, affine("qkv") | members("o.weight:1"))
    assert set(groups(graph)) == {"qkv", "i", "o"}


def test_attention_by_hand_loses_heads_and_width() -> None:
    graph = check(Attention(fused=False), torch.randn(2, 5, 6), own_class=False)
    assert groups(graph)["qkv"] == (4, affine("qkv") | members("o.weight:1"))
    assert groups(graph)["qkv#2"] == (8, affine("qkv") | members("o.weight:1"))


class Tied(nn.Module):
    """A language model in small: embedding, positions, one block, head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.t, self.p = nn.Embedding(11, 8), nn.Parameter(torch.randn(5, 8))
        self.f, self.g, self.h = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 11, bias=False)
        self.h.weight = self.t.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.t(ids) + self.p[: ids.shape[1]]
        return self.h(x + self.g(functional.gelu(self.f(x))))


def test_tied_embedding_is_one_tensor_with_one_width() -> None:
    graph = check(Tied(), torch.randint(0, 11, (2, 5)))
    assert groups(graph) == {
        "t": (8, affine("g") | members("t.weight:1", "p:1", "f.weight:1")),
        "f": (12, affine("f") | members("g.weight:1")),
    }
    assert {m.role for m in graph["t"].members if m.param == "t.weight"} == {"out"}
    assert "looked up" in graph.why("t.weight", 0)


def test_weight_shared_by_two_layers_is_cut_once() -> None:
    model = Net(lambda s, x: s.e(s.b(functional.relu(s.a(s.k(x))))), k=nn.Linear(6, 8), a=nn.Linear(8, 8),
                b=nn.Linear(8, 8), e=nn.Linear(8, 4))  # fmt: skip
    model.b.weight = model.a.weight
    graph = check(model, torch.randn(2, 6))
    assert groups(graph) == {"k": (8, affine("k") | affine("a") | members("a.weight:1", "b.bias:0", "e.weight:1"))}


def test_outputs_may_be_nested_and_hold_none_and_numbers() -> None:
    model = Net(lambda s, x: {"a": s.e(s.c(x)), "b": (None, 3, s.f(s.c(x)))}, c=conv(3, 8), e=conv(8, 4), f=conv(8, 2))
    assert groups(check(model, images()))["c"] == (8, affine("c") | members("e.weight:1", "f.weight:1"))


def test_inputs_may_be_keywords_flags_and_numbers() -> None:
    def forward(self: nn.Module, x: Tensor, times: int, *, scale: Tensor, on: bool = True) -> Tensor:
        return self.e(self.c(x) * scale * times) if on else x

    model = Net(forward, c=conv(3, 8), e=conv(8, 4))
    check(model, (images(), 2), {"scale": torch.randn(2, 1, 1, 1), "on": True})


def test_convolution_takes_an_image_without_batch() -> None:
    check(Net(lambda s, x: s.e(s.c(x).relu()), c=conv(3, 8), e=conv(8, 4)), images()[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_plan_keeps_the_dtype(dtype: torch.dtype) -> None:
    model = Net(lambda s, x: s.e(s.b(s.c(x)).relu()), c=conv(3, 8), b=nn.BatchNorm2d(8), e=conv(8, 4)).to(dtype)
    check(model, images().to(dtype))


def test_channels_last_stays_channels_last() -> None:
    model = Net(lambda s, x: s.e(s.c(x)), c=conv(3, 8), e=conv(8, 4)).to(memory_format=torch.channels_last)
    _, small = thin(trace(generic_(model), images()), model, 0.5)
    assert small.e.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.e.weight.is_contiguous()
