"""n:m with channel permutation: the same function, its inputs in an order in which more saliency survives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from prunus.axes import Graph, Member, copied
from prunus.criteria import Criterion, collect_for, criterion, score_target
from prunus.errors import InputError
from prunus.granularity import (
    NM,
    TargetSpec,
    TurnedUnits,
    granularity,
    kept_saliency,
    permutation_for,
    weight_targets,
)
from prunus.plans import Proof, fixed_order, named_state, reorder_
from prunus.statistics import Loss, calibration

_read, _judge = granularity, criterion  # the arguments below carry the same names


class Kept(NamedTuple):
    """The share of the saliency that n:m keeps, in [0, 1]."""

    before: float
    after: float


@dataclass(frozen=True)
class Permutation:
    """What a reordering did.

    kept: weight -> share of its saliency that n:m keeps, before and after. orders: group -> (U,) int64, see `reorder_`.
    fixed: weight -> why its inputs stay as they are. proof: outputs are the same.
    """

    kept: Mapping[str, Kept]
    orders: Mapping[str, Tensor]
    fixed: Mapping[str, str]
    proof: Proof | None

    @property
    def summary(self) -> str:
        """How many weights keep more than before, and by how much of their saliency in the mean."""
        gains = [kept.after - kept.before for name, kept in self.kept.items() if name not in self.fixed]
        if not gains:
            return "no weight's inputs could be reordered"
        mean = sum(gains) / len(gains)
        return f"the inputs of {len(gains)} of {len(self.kept)} weights reordered, {mean:+.1%} of their saliency kept"

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: as it was, {self.fixed[name]}"
            if name in self.fixed
            else f"{name}: keeps {kept.before:.1%} -> {kept.after:.1%} of its saliency"
            for name, kept in self.kept.items()
        )


@torch.no_grad()
def permuted(
    graph: Graph,
    granularity: str | NM = "2:4",
    *,
    criterion: str | Criterion = "l1",
    targets: TargetSpec = "*",
    data: Any = None,
    loss: Loss | None = None,
) -> tuple[nn.Module, Permutation]:
    """Return a copy of the traced model with its channels in an order in which n:m keeps more of what matters.

    The layers before take up the order of a layer's inputs, so the copy computes what the model does, which is proved;
    weights that read the same channels share one order, the best for their sum. Prune the copy then: trace it, plan it.
    graph: from `trace`. targets: the weights that will be pruned; see `prunus.granularity.weight_targets`.
    data, loss: for criteria that observe the model, as in `prunus.plan`.
    Raises InputError for a granularity other than n:m and for a weight of fewer than m inputs.
    Source: Pool & Yu 2021, Channel Permutations for N:M Sparsity, NeurIPS.
    """
    kind, judge = _read(granularity), _judge(criterion)
    if not isinstance(kind, NM):
        raise InputError(f"granularity is {kind.name!r}; only n:m, such as 2:4, depends on the order of inputs")
    kind = kind.plain
    tensors, chosen = named_state(graph.model), weight_targets(graph.model, kind, targets)
    seen = collect_for(graph.model, judge, chosen, calibration(data, loss))
    turned = {t.name: t.parts[0].units for t in chosen if isinstance(t.parts[0].units, TurnedUnits)}
    scores = {
        t.name: score_target(t, tensors, judge, seen).reshape(
            turned[t.name].seen if t.name in turned else tensors[t.name].shape
        )
        for t in chosen
    }
    inputs = {name: 0 if name in turned else 1 for name in scores}
    readers: dict[str, list[Member]] = {}
    orders: dict[str, Tensor] = {}
    stays: dict[str, str] = {}
    for group in graph.groups:
        reading = [m for m in group.members if m.dim == inputs.get(m.param)]
        if not reading:
            continue
        why = fixed_order(graph, group.name) or _misfit(reading, scores, kind.m)
        if why:
            stays.update({m.param: f"{group.name} keeps its order: {why}" for m in reading})
        else:
            readers[group.name] = reading
            stacked = torch.cat([_rows(scores[m.param].narrow(1, int(m.index[0]), group.size)) for m in reading])
            orders[group.name] = permutation_for(stacked, kind.n, kind.m).cpu()
    moved = {m.param for reading in readers.values() for m in reading}
    fixed = {name: stays.get(name) or graph.why(name, inputs[name]) for name in scores if name not in moved}
    model = copied(graph.model)
    proof = reorder_(model, graph, orders) if orders else None
    kept = {name: _kept(kind, scores[name], _columns(name, scores, readers, orders)) for name in scores}
    return model, Permutation(kept, orders, fixed, proof)


def _misfit(readers: Sequence[Member], scores: Mapping[str, Tensor], m: int) -> str | None:
    """Say why the groups of m in some reader's inputs are not this group's alone."""
    for member in readers:
        start, size, total = int(member.index[0]), len(member.index), scores[member.param].shape[1]
        if start % m or ((start + size) % m and start + size != total) or size < m:
            return f"it is {size} of the {total} inputs of {member.param}, from {start} on, across groups of {m}"
    return None


def _rows(scores: Tensor) -> Tensor:
    """See (O, I, kh, kw) as (O * kh * kw, I): n:m runs along the inputs."""
    return scores.movedim(1, -1).flatten(end_dim=-2)


def _columns(
    name: str, scores: Mapping[str, Tensor], readers: Mapping[str, Sequence[Member]], orders: Mapping[str, Tensor]
) -> Tensor:
    """Return which input of a weight comes to each place."""
    columns = torch.arange(scores[name].shape[1])
    for group, reading in readers.items():
        for member in reading:
            if member.param == name:
                places = member.index[:, 0]
                columns[places] = places[orders[group]]
    return columns


def _kept(kind: NM, scores: Tensor, columns: Tensor) -> Kept:
    rows = _rows(scores)
    total = float(rows.double().sum()) or 1.0
    after = rows.index_select(1, columns.to(rows.device))
    return Kept(kept_saliency(rows, kind.n, kind.m) / total, kept_saliency(after, kind.n, kind.m) / total)
