"""Products, distances and similarities: what they sum over goes where it is zero, the rest passes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from axes.proving import Net, check, generic_, groups
from prunus.axes import trace

HERE = r"test_axes_products\.py:\d+"
A, B = {"a.weight:0", "a.bias:0"}, {"b.weight:0", "b.bias:0"}

FREE: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, set[str]]]]] = {
    "addmv": (lambda s, x: torch.addmv(s.v, s.w, s.a(x)[0]).sum(), {"a": (8, A | {"w:1"}), "w": (6, {"v:0", "w:0"})}),
    "addbmm": (
        lambda s, x: s.o(torch.addbmm(s.t, s.a(x).view(4, 1, -1), s.b(x).view(4, -1, 1) @ s.u)),
        {"a": (8, A | B), "u": (5, {"t:1", "u:1", "o.weight:1"})},
    ),
    "addr": (
        lambda s, x: torch.addr(s.w, s.v, s.a(x)[0]).sum(), {"a": (8, A | {"w:1"}), "w": (6, {"v:0", "w:0"})},
    ),
    "outer": (lambda s, x: torch.outer(s.v, s.a(x)[0]).sum(), {"a": (8, A), "v": (6, {"v:0"})}),
    "kron": (
        lambda s, x: functional.linear(torch.kron(s.a(x), s.q), s.k),
        {"a": (8, A | {"k:1"}), "q": (3, {"k:1", "q:1"})},
    ),
    "tensordot": (lambda s, x: torch.tensordot(s.a(x), s.w, dims=([1], [1])).sum(1), {
        "a": (8, A | {"w:1"}), "w": (6, {"w:0"}),
    }),
    "inner": (lambda s, x: torch.inner(s.a(x), s.w).sum(1), {"a": (8, A | {"w:1"}), "w": (6, {"w:0"})}),
    "vdot": (lambda s, x: torch.vdot(s.a(x)[0], s.b(x)[1]), {"a": (8, A | B)}),
    "bilinear": (
        lambda s, x: s.l(s.n(s.a(x), s.b(x))),
        {"a": (8, A | {"n.weight:1"}), "b": (8, B | {"n.weight:2"}),
         "n": (6, {"n.weight:0", "n.bias:0", "l.weight:1"})},
    ),
    "cosine similarity": (lambda s, x: functional.cosine_similarity(s.a(x), s.b(x)), {"a": (8, A | B)}),
    "cosine similarity elsewhere": (
        lambda s, x: s.h(functional.cosine_similarity(s.a(x)[:, None].expand(-1, 3, -1), s.b(x)[:, None] * s.q.mT)),
        {"a": (8, A | B | {"h.weight:1"})},
    ),
    "Euclidean distance": (lambda s, x: torch.cdist(s.a(x), s.b(x)), {"a": (8, A | B)}),
    "sum of differences": (lambda s, x: torch.cdist(s.a(x), s.b(x), p=1.0), {"a": (8, A | B)}),
}  # fmt: skip


def network(forward: Callable[..., Tensor]) -> Net:
    """Two linear maps side by side, and parameters of every rank."""
    return Net(
        forward, a=nn.Linear(4, 8), b=nn.Linear(4, 8), n=nn.Bilinear(8, 8, 6), l=nn.Linear(6, 2), o=nn.Linear(5, 2),
        h=nn.Linear(8, 2), v=nn.Parameter(torch.randn(6)), w=nn.Parameter(torch.randn(6, 8)),
        t=nn.Parameter(torch.randn(1, 5)), u=nn.Parameter(torch.randn(1, 5)), q=nn.Parameter(torch.randn(1, 3)),
        k=nn.Parameter(torch.randn(2, 24)),
    )  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_product_couples_what_it_sums_and_passes_the_rest(name: str) -> None:
    forward, expected = FREE[name]
    graph = check(network(forward), torch.randn(4, 4))
    assert not graph.unknown
    assert groups(graph) == expected


TRAPS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "pairwise distance": (lambda s, x: functional.pairwise_distance(s.a(x), s.b(x)), "aten.pairwise_distance"),
    "cosine of what is not zero": (lambda s, x: functional.cosine_similarity(s.a(x), s.b(x).exp()), "aten.cosine"),
    "distance of what is not zero": (lambda s, x: torch.cdist(s.a(x), s.b(x).exp()), "aten.cdist"),
    "greatest difference": (lambda s, x: torch.cdist(s.a(x), s.b(x), p=float("inf")), "aten.cdist"),
    "inner of two that are not zero": (lambda s, x: torch.inner(s.a(x).exp(), s.b(x).exp()), "aten.inner"),
    "addr of a bias that is not zero": (
        lambda s, x: torch.addr(s.w.exp(), s.v, s.a(x)[0]).sum(1), "aten.sum",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_sum_over_what_is_not_zero_freezes_and_names_operation_and_line(name: str) -> None:
    forward, operation = TRAPS[name]
    graph = trace(generic_(network(forward)), torch.randn(4, 4))
    assert re.search(rf"is frozen: .*{operation}[._\w]* at {HERE}", graph.why("a.weight", 0))
    assert not graph.unknown
