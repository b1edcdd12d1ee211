"""Decide what goes: scores, counts, units; nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prunus.allocation import (
    Allocator,
    Budget,
    RoundTo,
    ScoredTarget,
    allocator,
    check_ratio,
    dropped,
    is_structured,
    left_of,
    levelled,
    measure_for,
    meet,
    meet_latency,
    parse_budget,
    ruler_of,
    score_for,
)
from prunus.axes import Graph
from prunus.criteria import Criterion, collect_for, criterion
from prunus.errors import InputError
from prunus.granularity import (
    COUPLED,
    FIXED,
    Depth,
    Granularity,
    TargetSpec,
    block_target,
    find_targets,
    granularity,
    with_protection,
)
from prunus.plans import Plan, named_state
from prunus.runtimes import device, latency_table
from prunus.statistics import Loss, calibration


def plan(
    graph: Graph,
    *,
    ratio: float | None = None,
    target: str | Mapping[str, float | str] | Budget | None = None,
    granularity: str | Granularity = "filter",
    criterion: str | Criterion = "l2",
    allocation: str | Mapping[str, Any] | Allocator = "uniform",
    targets: TargetSpec = "*",
    protect: TargetSpec = (),
    round_to: RoundTo | None = None,
    max_ratio: float = 1.0,
    data: Any = None,
    loss: Loss | None = None,
) -> Plan:
    """Decide what goes; nothing is touched.

    graph: from `trace`; the criterion reads the weights of its model as they are now.
    ratio: the share of units (or elements) to remove, 0 <= ratio < 1; n:m and patterns need none. target: a budget
        instead, such as `macs=0.5`, `params<=2e6`, `sparsity=0.9`, `energy=0.5` or `latency=0.6@onnxruntime`: the
        mildest ratio that meets it is found. A latency is looked up, then measured and corrected: within 3 %, or the
        plan says by how much it was missed.
    granularity: `filter` or `channel` remove coupled units and `layer` whole residual blocks, which shrinks the model;
        every other one zeroes elements.
    targets: patterns, or a mapping such as `{"kind": "ffn"}`; see `prunus.granularity.group_targets`. For `layer`,
        patterns over the names of residual blocks.
    data, loss: batches, and a function (output, target) -> loss, for criteria that observe the model; see
        `prunus.statistics.Calibration`.
    protect: name patterns, or `{"kind": "head"}`, that stay whole. max_ratio: the largest share of a target that goes.
    round_to: kept counts become multiples of it; `auto` takes the steps of runtimes' convolutions (16, 8 or 4, see
        `prunus.runtimes.step_for`). By default `auto` for a latency, else 1.
    Raises InputError for a wrong ratio or a budget out of reach, NothingToPrune where the request changes nothing.
    """
    kind, rank, share = _granularity(granularity), _criterion(criterion), allocator(allocation)
    if (ratio is None) == (target is None) and not (ratio is None and isinstance(kind, FIXED)):
        raise InputError("give either ratio= (such as 0.5) or target= (such as 'macs=0.5')")
    budget = None if target is None else parse_budget(target)
    timed = budget is not None and budget.quantity == "latency" and is_structured(kind)
    step: RoundTo = round_to if round_to is not None else "auto" if timed else 1
    wanted = with_protection(targets, protect)
    by_depth = isinstance(kind, Depth)
    found = [block_target(graph, wanted)] if by_depth else find_targets(graph.model, kind, wanted, graph)
    tensors = named_state(graph.model)
    seen = collect_for(graph.model, rank, found, calibration(data, loss))
    scored = {
        t.name: ScoredTarget.of(
            t,
            score_for(share, t, tensors, rank, seen),
            round_to=step,
            max_ratio=max_ratio,
            measured=measure_for(share, t, tensors),
        )
        for t in found
    }

    def counts(fraction: float) -> dict[str, int]:
        return levelled(share.counts(scored, fraction), graph.equal)

    steps = {name: each.round_to for name, each in scored.items() if each.fixed is None}
    timing = None
    if budget is None:
        chosen = counts(1.0 if share.uses_progress or ratio is None else check_ratio("ratio", ratio))
    elif timed:
        table, left = latency_table(graph, device(budget.device or "torch")), left_of(graph, kind, found, scored)
        chosen, timing = meet_latency(table, budget, counts, left, graph.equal, steps)
    else:
        chosen = meet(budget, counts, ruler_of(graph, budget, kind, found, scored), graph.equal, steps)
    pruned = {t.name: t.parts[0].units.pick(scored[t.name].scores, chosen[t.name]) for t in found}
    provenance = {
        "granularity": kind.name,
        "criterion": rank.name,
        "allocation": share.name,
        **({} if ratio is None else {"ratio": ratio}),
        **({} if budget is None else {"target": str(budget)}),
        **({} if timing is None else timing.provenance),
    }
    if by_depth:
        return Plan.from_pruned(graph, {}, provenance=provenance, dropped=dropped(found[0], scored, chosen))
    if kind.name in COUPLED:
        return Plan.from_pruned(graph, pruned, provenance=provenance)
    masks = {t.name: t.parts[0].units.scatter(pruned[t.name]) for t in found}
    return Plan.from_pruned(graph, {}, masks, provenance)


_granularity, _criterion = granularity, criterion  # the arguments above carry the same names
