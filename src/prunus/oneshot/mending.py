"""Choose and mend: the plan, and the model whose weights it is applied to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from prunus.axes import Graph, copied
from prunus.errors import InputError
from prunus.granularity import (
    COUPLED,
    NM,
    Depth,
    Element,
    Granularity,
    granularity,
    group_targets,
    with_protection,
)
from prunus.oneshot.deciding import plan
from prunus.permuting import Permutation, permuted
from prunus.plans import Plan
from prunus.solvers import Mending, Propagate, Reconstruction, Selector, Solver, mend_, reconstruct_, regress_
from prunus.solvers import solver as read_solver
from prunus.statistics import Calibration

_SELECTORS: dict[Any, Selector] = {"reconstruction": "lasso", "thinet": "thinet"}
"""Criteria that choose a layer's channels on what the layers before hand on, where a solver refits them."""


def _regressed(
    graph: Graph,
    model: nn.Module,
    kind: Granularity,
    chosen: Solver,
    seen: Calibration,
    decision: Mapping[str, Any],
    selector: Selector,
) -> tuple[Plan, nn.Module, Mending]:
    """Decide how many units go from each group, then choose and refit them group by group."""
    if kind.name not in COUPLED:
        raise InputError(f"criterion {decision['criterion']} chooses coupled units; use granularity filter or channel")
    counted = plan(graph, **{**decision, "criterion": "l1"})
    counts = {name: graph[name].size - left for name, left in counted.sizes.items()}
    targets = [target for target in group_targets(graph, kind, model=model) if target.name in counts]
    mended = copied(model)
    pruned, mending = regress_(mended, model, targets, counts, chosen, seen, selector=selector)
    provenance = {**counted.provenance, "criterion": decision["criterion"], "solver": chosen.name}
    return Plan.from_pruned(graph, pruned, provenance=provenance), mended, mending


def decided(
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
    chosen, kind = read_solver(mender), granularity(decision.get("granularity", "filter"))
    if isinstance(kind, Depth):
        raise InputError(
            f"{chosen.name} mends weights whose inputs are pruned, but layer leaves out whole blocks; omit it"
        )
    asked = decision.get("criterion")
    if asked in _SELECTORS:
        return _regressed(graph, model, kind, chosen, seen, decision, _SELECTORS[asked])
    if asked != "solver":
        made = plan(graph, data=seen, **decision)
        masked = made.mask(model)
        return made, masked, mend_(masked, model, made.keep_masks(), chosen, seen, propagate=propagate)
    if not chosen.chooses:
        raise InputError(f"criterion is 'solver', but {chosen.name} only mends given zeros; name one, such as l2")
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


def ordered(
    graph: Graph, seen: Calibration | None, decision: Mapping[str, Any]
) -> tuple[nn.Module, Permutation | None]:
    """Return the model with its channels in a better order where the granularity asks for that, and what was done."""
    kind = granularity(decision.get("granularity", "filter"))
    if not isinstance(kind, NM) or not kind.permute:
        return graph.model, None
    rank = decision.get("criterion", "l2")
    wanted = with_protection(decision.get("targets", "*"), decision.get("protect", ()))
    return permuted(graph, kind, criterion="l1" if rank == "solver" else rank, targets=wanted, data=seen)


def reconstructed(
    made: Plan, source: nn.Module, model: nn.Module, steps: int | None, seen: Calibration | None
) -> tuple[nn.Module, Reconstruction | None]:
    """Return the model whose weights the plan is applied to, its blocks trained where that was asked for."""
    if steps is None:
        return source, None
    if seen is None:
        raise InputError("reconstruct= trains blocks on what they read; give data=, the batches they are shown")
    masked = made.mask(model) if source is model else source  # what a solver mended has its zeros in place
    return masked, reconstruct_(masked, model, made.keep_masks(), seen, steps=steps)
