"""The short way: trace, decide, prove, thin, measure, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.allocation import Allocator, Budget, ScoredTarget, allocator, check_ratio, levelled, parse_budget
from prunus.axes import Graph, Inexact, copied, trace, unwrapped
from prunus.costs import Costs, Latency, compare, latency, measure
from prunus.criteria import Criterion, collect_for, criterion, score_target
from prunus.errors import InputError
from prunus.granularity import (
    COUPLED,
    FIXED,
    NM,
    Element,
    Granularity,
    Target,
    TargetSpec,
    as_list,
    find_targets,
    granularity,
    group_targets,
)
from prunus.plans import Plan, Proof, named_state, record_of
from prunus.solvers import Mending, Propagate, Selector, Solver, mend_, regress_
from prunus.solvers import solver as read_solver
from prunus.statistics import Calibration, Loss, calibration, recalibrate_

Counts = Mapping[str, int]
LANES = 16  # float32 numbers in an AVX-512 register; ONNX Runtime's and OpenVINO's convolutions step by as much


def plan(
    graph: Graph,
    *,
    ratio: float | None = None,
    target: str | Mapping[str, float] | Budget | None = None,
    granularity: str | Granularity = "filter",
    criterion: str | Criterion = "l2",
    allocation: str | Mapping[str, Any] | Allocator = "uniform",
    targets: TargetSpec = "*",
    protect: TargetSpec = (),
    round_to: int = 1,
    data: Any = None,
    loss: Loss | None = None,
) -> Plan:
    """Decide what goes; nothing is touched.

    graph: from `trace`; the criterion reads the weights of its model as they are now.
    ratio: the share of units (or elements) to remove, 0 <= ratio < 1; n:m and patterns need none. target: a budget
        instead, such as `macs=0.5`, `params<=2e6` or `sparsity=0.9`: the mildest ratio that meets it is found.
    granularity: `filter` or `channel` remove coupled units and shrink the model; every other one zeroes elements.
    targets: patterns, or a mapping such as `{"kind": "ffn"}`; see `prunus.granularity.group_targets`.
    data, loss: batches, and a function (output, target) -> loss, for criteria that observe the model; see
        `prunus.statistics.Calibration`.
    protect: name patterns, or `{"kind": "head"}`, that stay whole. round_to: kept counts become multiples of it.
    Raises InputError for a wrong ratio or a budget out of reach, NothingToPrune where the request changes nothing.
    """
    kind, rank, share = _granularity(granularity), _criterion(criterion), allocator(allocation)
    wanted = _with_protection(targets, protect)
    structured = kind.name in COUPLED
    found = find_targets(graph.model, kind, wanted, graph)
    tensors = named_state(graph.model)
    seen = collect_for(graph.model, rank, found, calibration(data, loss))
    scored = {t.name: ScoredTarget.of(t, score_target(t, tensors, rank, seen).cpu(), round_to=round_to) for t in found}

    def counts(fraction: float) -> dict[str, int]:
        return levelled(share.counts(scored, fraction), graph.equal)

    if (ratio is None) == (target is None) and not (ratio is None and isinstance(kind, FIXED)):
        raise InputError("give either ratio= (such as 0.5) or target= (such as 'macs=0.5')")
    if target is None:
        chosen = counts(1.0 if share.uses_progress or ratio is None else check_ratio("ratio", ratio))
    else:
        budget = parse_budget(target)
        steps = {name: each.round_to for name, each in scored.items() if each.fixed is None}
        chosen = _meet(budget, counts, _ruler(graph, budget, structured, found), graph.equal, steps)
    pruned = {t.name: t.parts[0].units.pick(scored[t.name].scores, chosen[t.name]) for t in found}
    provenance = {
        "granularity": kind.name,
        "criterion": rank.name,
        "allocation": share.name,
        **({} if ratio is None else {"ratio": ratio}),
        **({} if target is None else {"target": str(parse_budget(target))}),
    }
    if structured:
        return Plan.from_pruned(graph, pruned, provenance=provenance)
    masks = {t.name: t.parts[0].units.scatter(pruned[t.name]) for t in found}
    return Plan.from_pruned(graph, {}, masks, provenance)


_granularity, _criterion = granularity, criterion  # the arguments above carry the same names


def _with_protection(targets: TargetSpec, protect: TargetSpec) -> TargetSpec:
    if not protect:
        return targets
    fields = dict(targets) if isinstance(targets, Mapping) else {"name": targets}
    return {**fields, "exclude": [*as_list(fields.get("exclude", [])), *as_list(protect)]}


def _ruler(
    graph: Graph, budget: Budget, structured: bool, targets: Sequence[Target]
) -> Callable[[Counts], tuple[float, float]]:
    """Return a function from counts to the budget's quantity, pruned and dense."""
    full = graph.size()
    elements = {t.name: t.parts[0].units.shape.numel() / max(1, t.num_units) for t in targets}
    total = sum(t.parts[0].units.shape.numel() for t in targets)

    def structured_size(counts: Counts) -> tuple[float, float]:
        left = graph.size({name: graph[name].size - count for name, count in counts.items()})
        if budget.quantity == "sparsity":
            return 1 - left.params / full.params, 0.0
        quantity = "params" if budget.quantity == "nnz" else budget.quantity
        return getattr(left, quantity), getattr(full, quantity)

    def zeros(counts: Counts) -> tuple[float, float]:
        gone = sum(count * elements[name] for name, count in counts.items())
        if budget.quantity == "sparsity":
            return gone / total, 0.0
        return full.params - gone, full.params

    if not structured and budget.quantity not in ("sparsity", "nnz"):
        raise InputError(
            f"zeroed elements do not lower {budget.quantity}; ask for sparsity= or nnz=, or use granularity='filter'"
        )
    return structured_size if structured else zeros


def _meet(
    budget: Budget,
    counts: Callable[[float], dict[str, int]],
    ruler: Callable[[Counts], tuple[float, float]],
    equal: Sequence[tuple[str, ...]],
    steps: Mapping[str, int],
) -> dict[str, int]:
    """Find the mildest fraction that meets the budget, then give back what is not needed, target by target.

    equal: names of targets whose counts must stay equal, which are given back together. steps: how many units of a
    target are given back at once; those that are absent have a fixed number.
    """
    low, high = 0.0, 1 - 1e-9
    if not budget.is_met(*ruler(counts(high))):
        value, dense = ruler(counts(high))
        shown = f"{value / dense:.3f} of the dense model" if dense else f"{value:.3f}"
        raise InputError(
            f"budget {budget} is out of reach: {budget.quantity} gets to {shown} at most; see graph.frozen"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if budget.is_met(*ruler(counts(middle))) else (middle, high)
    mild, chosen = counts(low), counts(high)
    bound = {name for names in equal for name in names}
    sets = [*equal, *((name,) for name in chosen if name not in bound)]
    for names in sets:
        returned = {**chosen, **{name: min(chosen[name], mild[name]) for name in names if name in chosen}}
        if budget.is_met(*ruler(returned)):
            chosen = returned
    return _filled(budget, chosen, ruler, sets, steps)


CLOSE = 0.01
"""The share of a budget that may stay unused where a finer choice of units could use it."""


def _filled(
    budget: Budget,
    chosen: dict[str, int],
    ruler: Callable[[Counts], tuple[float, float]],
    sets: Sequence[tuple[str, ...]],
    steps: Mapping[str, int],
) -> dict[str, int]:
    """Give single steps back while too much of the budget is unused: dearest first, in turn, so that none gets many.

    One fraction for all targets is coarse where a unit is dear, a head of few or a member of a large equal set.
    """

    def returned(names: Sequence[str]) -> dict[str, int]:
        return {**chosen, **{n: max(0, chosen[n] - steps[n]) for n in names if n in chosen and n in steps}}

    def is_close() -> bool:
        return budget.unused(*ruler(chosen)) <= CLOSE

    if is_close():
        return chosen
    dearest = sorted(sets, key=lambda names: budget.unused(*ruler(returned(names))))
    before = None
    while chosen != before and not is_close():
        before = chosen
        for names in dearest:
            if not is_close() and budget.is_met(*ruler(returned(names))):
                chosen = returned(names)
    return chosen


@dataclass(frozen=True)
class PruneReport:
    """What `prune` did: costs before and after on the example inputs, measured latency, the proof, the plan.

    mending: what a solver did to each layer, where there was one.
    latency: (dense, pruned), interleaved in one run, or None where it was not asked for.
    """

    plan: Plan
    dense: Costs
    pruned: Costs
    latency: tuple[Latency, Latency] | None
    proof: Proof | None
    mending: Mending | None = None

    @property
    def ratios(self) -> dict[str, float]:
        """Dense divided by pruned, per quantity; latency as the median of paired rounds."""
        ratios = compare(self.dense, self.pruned)
        return {**ratios, "latency": self.latency[1].ratio_to_first} if self.latency else ratios

    def __str__(self) -> str:
        rows = [("", "dense", "pruned", "ratio")]
        for name in ("parameters", "nonzeros", "macs", "file_bytes", "peak_activation_bytes"):
            before, after = getattr(self.dense, name), getattr(self.pruned, name)
            rows.append((name.replace("_", " "), f"{before:,}", f"{after:,}", f"{self.ratios[name]:.2f}x"))
        if self.latency:
            before, after = (f"{latency.median_ms:.3g} ms" for latency in self.latency)
            rows.append(("latency (torch, 1 thread)", before, after, f"{self.ratios['latency']:.2f}x"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        if uneven := self._uneven():
            lines.append(uneven)
        if self.mending:
            lines.append(f"mended {len(self.mending.errors)} weights: {self.mending.summary}")
        if self.proof:
            lines.append(f"proved: thinned == masked to {self.proof.max_rel:.1e} (relative, {self.proof.dtype})")
        return "\n".join(lines)

    def _uneven(self) -> str:
        """Say where time was probably left: kernels work on so many channels at once, and one more costs a step."""
        graph = self.plan.graph
        uneven = {
            name: left
            for name, left in self.plan.sizes.items()
            if left % LANES and graph[name].size % LANES == 0 and graph[name].kind == "channel"
        }
        if not uneven:
            return ""
        name, left = next(iter(uneven.items()))
        return (
            f"channel counts that are no multiple of {LANES} now: {len(uneven)}, such as {name} ({left}); "
            f"runtimes are often slower there: try round_to={LANES}"
        )


def prune(
    model: nn.Module,
    args: Tensor | tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    measure_latency: bool = True,
    fold_constants: bool = False,
    inexact: Inexact = "forbid",
    solver: str | Solver | None = None,
    propagate: Propagate = "sparse",
    data: Any = None,
    loss: Loss | None = None,
    **decision: Any,
) -> tuple[nn.Module, PruneReport]:
    """Trace, plan, mend, prove, thin and measure a model in one call; the model itself is never changed.

    args, kwargs: example inputs. fold_constants: as in `Plan.apply`. inexact: as in `trace`.
    solver: mends what is left of every pruned weight, such as `lstsq` or `alps`, so that each layer computes again
        what it did; propagate: as in `prunus.solvers.mend_`. With `criterion="solver"` it chooses the zeros, too.
    data, loss: batches for the solver, for criteria that observe the model, and to measure batch norms anew once the
        model is small; see `prunus.statistics.Calibration`.
    decision: the other arguments of `plan`: ratio or target, granularity, criterion, …
    Returns the smaller model, with the same state-dict keys (see `Plan.apply`), and a report that prints itself; from
    one in `torch.compile` or a data-parallel wrapper comes the plain module.
    """
    model = unwrapped(model)
    with torch.no_grad():
        graph, seen = trace(model, args, kwargs, inexact=inexact), calibration(data, loss)
        made, source, mending = _decided(graph, model, solver, propagate, seen, decision)
        small = made.apply(source, fold_constants=fold_constants)
        if seen is not None:
            recalibrate_(small, seen.data)
        inputs = made.graph.trace.args, dict(made.graph.trace.kwargs)
        timed = latency({"dense": model, "pruned": small}, *inputs, seconds=3.0) if measure_latency else None
        record = record_of(small)
        return small, PruneReport(
            plan=made,
            dense=measure(model, *inputs),
            pruned=measure(small, *inputs),
            latency=(timed["dense"], timed["pruned"]) if timed else None,
            proof=record.proof if record else None,
            mending=mending,
        )


_SELECTORS: dict[Any, Selector] = {"reconstruction": "lasso", "thinet": "thinet"}
"""Criteria that choose a layer's channels on what the layers before hand on, where a solver refits them."""


def _regressed(
    graph: Graph, model: nn.Module, chosen: Solver, seen: Calibration, decision: Mapping[str, Any], selector: Selector
) -> tuple[Plan, nn.Module, Mending]:
    """Decide how many units go from each group, then choose and refit them group by group."""
    kind = granularity(decision.get("granularity", "filter"))
    if kind.name not in COUPLED:
        raise InputError(f"criterion {decision['criterion']} chooses coupled units; use granularity filter or channel")
    counted = plan(graph, **{**decision, "criterion": "l1"})
    counts = {name: graph[name].size - left for name, left in counted.sizes.items()}
    targets = [target for target in group_targets(graph, kind, model=model) if target.name in counts]
    mended = copied(model)
    pruned, mending = regress_(mended, model, targets, counts, chosen, seen, selector=selector)
    provenance = {**counted.provenance, "criterion": decision["criterion"], "solver": chosen.name}
    return Plan.from_pruned(graph, pruned, provenance=provenance), mended, mending


def _decided(
    graph: Graph,
    model: nn.Module,
    mender: str | Solver | None,
    propagate: Propagate,
    seen: Calibration | None,
    decision: Mapping[str, Any],
) -> tuple[Plan, nn.Module, Mending | None]:
    """Return the plan, the model whose weights it is applied to, and what mending did."""
    if mender is None:
        return plan(graph, data=seen, **decision), model, None
    if seen is None:
        raise InputError("a solver mends by what layers read; give data=, the batches they are shown")
    chosen = read_solver(mender)
    asked = decision.get("criterion")
    if asked in _SELECTORS:
        return _regressed(graph, model, chosen, seen, decision, _SELECTORS[asked])
    if asked != "solver":
        made = plan(graph, data=seen, **decision)
        masked = made.mask(model)
        weights = {name: mask for name, mask in made.keep_masks().items() if mask.dim() > 1}
        return made, masked, mend_(masked, model, weights, chosen, seen, propagate=propagate)
    if not chosen.chooses:
        raise InputError(f"criterion is 'solver', but {chosen.name} only mends given zeros; name one, such as l2")
    kind = granularity(decision.get("granularity", "filter"))
    if not isinstance(kind, NM | Element):
        raise InputError(f"criterion is 'solver', but solvers choose granularity element or n:m, not {kind.name}")
    counted = plan(graph, **{**decision, "criterion": "l1"}).masks
    wanted = {
        name: (kind.n, kind.m) if isinstance(kind, NM) else float(mask.double().mean())
        for name, mask in counted.items()
    }
    mended = copied(model)
    mending = mend_(mended, model, wanted, chosen, seen, propagate=propagate)
    provenance = {**{k: str(v) for k, v in decision.items()}, "criterion": chosen.name}
    return Plan.from_pruned(graph, {}, mending.masks, provenance), mended, mending
