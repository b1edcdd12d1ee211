"""What pruning each target saves, where it stands in the network, and how its units are spread: plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.allocation import RoundTo, ScoredTarget, auto_step, levelled
from prunus.allocation.counts import num_pruned, with_floors
from prunus.axes import Graph, Polynomial, evaluate, size_terms
from prunus.granularity import Target
from prunus.granularity.targets import GraphLike
from prunus.plans import named_state
from prunus.runtimes import Estimate
from prunus.sensitivity.places import NOWHERE, Place, places

POINTS = 101
"""How many of a target's sorted norms are kept: every percent of them, both ends included."""

_COUNTS = 1000
"""At how many counts the elements of units of several sizes are kept."""

_SAMPLED = 1 << 18


@dataclass(frozen=True)
class TargetCost:
    """One target of the analysis.

    units: how many there are to choose from; elements: weights in each of them, of the target's first tensor; on
    average, where units differ in size. gone: then the elements of as many units as go first, for evenly spaced numbers
    of units from none to all; else empty.
    minimum: units that have to stay; fixed: the number pruned whatever was asked, with n:m, else None.
    rounds: whether kept counts are rounded, since units are whole slices; step: to what, where the kernels decide.
    order: rank in the forward pass, or in the order of the parameters where no graph is known; from 0.
    stage: the size of its feature map, `28x28`, `1` for vectors; empty where no graph is known.
    norms: L1 norms of the units, largest first, divided by the largest; at most `POINTS` of them, evenly spaced.
    """

    units: int
    elements: float
    minimum: int = 0
    fixed: int | None = None
    rounds: bool = False
    step: int = 1
    order: int = 0
    stage: str = ""
    norms: tuple[float, ...] = ()
    gone: tuple[float, ...] = ()

    def bounded(self, count: int, round_to: RoundTo = 1) -> int:
        """Return how many units are really pruned where `count` are asked for."""
        if self.fixed is not None:
            return self.fixed
        step = 1 if not self.rounds else self.step if round_to == "auto" else round_to
        return with_floors(count, self.units, minimum=self.minimum, round_to=step)

    def zeros(self, count: int) -> float:
        """Return the elements that are zeroed with so many units; linear between the numbers that are kept."""
        if not self.gone:
            return count * self.elements
        place = count * (len(self.gone) - 1) / self.units
        low = min(int(place), len(self.gone) - 2)
        return self.gone[low] + (place - low) * (self.gone[low + 1] - self.gone[low])


@dataclass(frozen=True)
class Left:
    """What is left of a model: parameters, MACs of one sample, bytes, non-zeros, estimated milliseconds.

    macs, latency: None where unknown.
    """

    params: int
    macs: int | None
    bytes: int
    nnz: float
    latency: float | None = None


@dataclass(frozen=True)
class Costs:
    """The targets, and what the model costs when so many units of each are pruned.

    coupled: whether pruned units are removed, so that the model shrinks; else they become zeros.
    sizes: units of every group that the polynomials name. equal: sets of groups that lose equally many units.
    params, macs, bytes: polynomials in the units left, as `prunus.axes.size_terms` gives them; `macs` is empty without
    a graph. samples: the examples of the batch that `macs` counts. latency: what structures take on some device, where
    `Curves.timed` has asked for it.
    """

    targets: Mapping[str, TargetCost]
    coupled: bool
    params: Polynomial
    bytes: Polynomial
    macs: Polynomial = ()
    sizes: Mapping[str, int] | None = None
    equal: tuple[tuple[str, ...], ...] = ()
    samples: int = 1
    latency: Estimate | None = None

    def counts(self, ratios: Mapping[str, float], *, round_to: RoundTo = 1) -> dict[str, int]:
        """Return the units pruned per target, as the allocation `per_layer` prunes them; absent targets lose none."""
        found = {
            name: t.bounded(num_pruned(ratios[name], t.units), round_to) if name in ratios else 0
            for name, t in self.targets.items()
        }
        return levelled(found, self.equal)

    def measured(self, name: str, levels: Sequence[float]) -> list[int]:
        """Return how many units of a target the analysis pruned at each level."""
        target = self.targets[name]
        return [target.bounded(num_pruned(level, target.units)) for level in levels]

    def left(self, counts: Mapping[str, int]) -> Left:
        """Return what the model costs once so many units of each target are pruned."""
        sizes = self.left_of(counts)
        params = evaluate(self.params, sizes)
        zeros = 0.0 if self.coupled else sum(self.targets[name].zeros(n) for name, n in counts.items())
        macs = evaluate(self.macs, sizes) // self.samples if self.macs else None
        latency = None if self.latency is None else self.latency.at(sizes)
        return Left(params, macs, evaluate(self.bytes, sizes), params - zeros, latency)

    def left_of(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the units left of every group."""
        gone = counts if self.coupled else {}
        return {name: size - gone.get(name, 0) for name, size in (self.sizes or {}).items()}

    def sparsity(self, counts: Mapping[str, int]) -> float:
        """Return the share that is gone: of the model's parameters for groups, of the targets' weights for zeros."""
        if self.coupled:
            return 1 - self.left(counts).params / self.left({}).params
        total = sum(t.units * t.elements for t in self.targets.values())
        return sum(self.targets[name].zeros(n) for name, n in counts.items()) / total

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Costs:
        """Read what `to_dict` returned, or JSON made of it."""
        targets = {
            name: TargetCost(**{**t, "norms": tuple(t["norms"]), "gone": tuple(t.get("gone", ()))})
            for name, t in data["targets"].items()
        }
        terms = {
            key: tuple((int(factor), tuple(groups)) for factor, groups in data[key])
            for key in ("params", "bytes", "macs")
        }
        latency = data.get("latency") and Estimate.from_dict(data["latency"])
        equal = tuple(tuple(names) for names in data["equal"])
        return cls(**{**data, **terms, "targets": targets, "equal": equal, "latency": latency})


def target_costs(
    model: nn.Module,
    targets: Sequence[Target],
    graph: GraphLike | None = None,
    *,
    samples: int = 1,
    scored: Callable[[Target], ScoredTarget] | None = None,
) -> Costs:
    """Return what pruning the targets saves, for `Curves.costs`.

    model: without wrappers. graph: from `trace`; without one, MACs and feature maps stay unknown.
    samples: the batch of the graph's example inputs, where MACs of one sample are wanted. scored: says which units of a
    target go first; without it, units of several sizes count by their average.
    """
    known = graph if isinstance(graph, Graph) else None
    tensors = named_state(model)
    found = {} if known is None else places(known)
    ranks = {place: rank for rank, place in enumerate(sorted({_first(t, found).order for t in targets}))}
    costs = {}
    for number, target in enumerate(targets):
        units, place = target.parts[0].units, _first(target, found)
        slices = target.group is not None or units.is_slice
        costs[target.name] = TargetCost(
            units=units.num_units,
            elements=units.shape.numel() / max(1, units.num_units),
            minimum=target.minimum if slices else 0,
            fixed=units.fixed,
            rounds=slices,
            step=auto_step(target),
            order=number if known is None else ranks[place.order],
            stage=place.stage,
            norms=_norms(target, tensors),
            gone=() if scored is None or slices or not units.is_ragged else _gone(scored(target)),
        )
    coupled = any(target.group is not None for target in targets)
    if known is not None:
        terms = size_terms(known)
        sizes = {group.name: group.size for group in known.groups}
        return Costs(costs, coupled, terms.params, terms.bytes, terms.macs, sizes, known.equal, samples)
    parameters = list(model.parameters())
    params, num_bytes = sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters)
    return Costs(costs, coupled, ((params, ()),), ((num_bytes, ()),))


def _first(target: Target, found: Mapping[str, Place]) -> Place:
    """Return the place of the first of the tensors that make a target's units."""
    return min((found[part.param] for part in target.scored if part.param in found), default=NOWHERE)


def _gone(target: ScoredTarget) -> tuple[float, ...]:
    counts = torch.linspace(0, target.num_units, min(_COUNTS, target.num_units) + 1, dtype=torch.float64)
    return tuple(target.spent(count) for count in counts.round().long().tolist())


def _norms(target: Target, tensors: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Return the sorted L1 norms; of very many units, such as single weights, those of evenly spaced ones."""
    total: Tensor | float = 0.0
    for part in target.scored:
        total = total + part.units.gather(part.read(tensors)).detach().abs().double().sum(1).cpu()
    assert isinstance(total, Tensor)
    ranked = total.nan_to_num()[:: max(1, total.numel() // _SAMPLED)].sort(descending=True).values
    picked = torch.linspace(0, ranked.numel() - 1, min(POINTS, ranked.numel()), dtype=torch.float64)
    largest = float(ranked[0]) or 1.0
    return tuple(round(float(norm) / largest, 6) for norm in ranked[picked.round().long()])
