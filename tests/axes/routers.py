"""Mixtures of experts written in plain torch, and what removing an expert means: a logit of minus infinity."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunus.axes import Graph
from prunus.plans import Plan

EXPERTS, TOP = 6, 2
Mix = Callable[["Mixture", Tensor, Tensor], Tensor]


class Mixture(nn.Module):
    """Tokens (T, 5) to (T, 3) through six experts, between two linear maps; `mix` says how they are gated."""

    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.i, self.router, self.o = nn.Linear(5, 8), nn.Linear(8, EXPERTS), nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(EXPERTS, 8, 16))
        self.down = nn.Parameter(torch.randn(EXPERTS, 16, 8))
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        return self.o(x + self.mix(self, x, self.router(x)))


def dense(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """All experts run; a softmax weighs them."""
    hidden = torch.einsum("td,edh->teh", x, m.up).relu()
    return torch.einsum("te,teh,ehd->td", logits.softmax(-1), hidden, m.down)


def dense_batched(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """The same by batched products, experts first."""
    out = torch.bmm(torch.matmul(x, m.up).relu(), m.down)
    return (out * logits.softmax(-1).t().unsqueeze(-1)).sum(0)


def switch(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """Each token to its best expert, whose matrices are taken by index."""
    weight, chosen = logits.softmax(-1).max(-1)
    hidden = torch.einsum("td,tdh->th", x, m.up[chosen]).relu()
    return torch.einsum("th,thd->td", hidden, m.down[chosen]) * weight.unsqueeze(-1)


def dispatched(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """The two best by one-hot dispatch, weighed anew."""
    scores, chosen = logits.softmax(-1).topk(TOP, dim=-1)
    hot = functional.one_hot(chosen, m.num_experts).to(x.dtype)
    gate = (hot * (scores / scores.sum(-1, keepdim=True)).unsqueeze(-1)).sum(1)
    hidden = torch.einsum("te,td,edh->teh", hot.sum(1), x, m.up).relu()
    return torch.einsum("te,teh,ehd->td", gate, hidden, m.down)


def scattered(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """The two best logits, a softmax over these, written back to a row with zeros."""
    scores, chosen = logits.topk(TOP, dim=-1)
    gate = torch.zeros_like(logits).scatter(1, chosen, scores.softmax(-1))
    hidden = torch.einsum("td,edh->teh", x, m.up).relu()
    return torch.einsum("te,teh,ehd->td", gate, hidden, m.down)


def sorted_by_expert(m: Mixture, x: Tensor, logits: Tensor) -> Tensor:
    """Rows in the order of their experts, a grouped product, and back."""
    chosen = logits.sigmoid().argmax(-1)
    weight = logits.sigmoid().gather(1, chosen.unsqueeze(-1))
    ordered, order = chosen.sort()
    ends = torch.histc(ordered.float(), bins=m.num_experts, min=0, max=m.num_experts - 1).cumsum(0, dtype=torch.int32)
    hidden = functional.grouped_mm(x[order], m.up, offs=ends).relu()
    out = functional.grouped_mm(hidden, m.down, offs=ends)
    return torch.zeros_like(x).index_add(0, order, out) * weight


class Closed(nn.Linear):
    """A router that can never choose some of its experts."""

    gone: Sequence[int] = ()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).index_fill(-1, torch.tensor(self.gone), -torch.inf)


def closed(model: Mixture, gone: Iterable[int]) -> Mixture:
    """Return a copy whose router gives minus infinity to some experts; all else is as it was."""
    out = copy.deepcopy(model)
    out.router.__class__ = Closed
    out.router.gone = list(gone)
    return out


def without(graph: Graph, gone: Iterable[int]) -> Plan:
    """Plan to remove these experts from every mixture of the graph."""
    groups = [group for group in graph.groups if group.kind == "expert"]
    return Plan(graph, {g.name: torch.tensor([e for e in range(g.size) if e not in set(gone)]) for g in groups})
