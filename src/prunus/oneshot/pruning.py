"""The short way: trace, decide, mend, prove, thin, measure, in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prunus.allocation import parse_budget
from prunus.axes import Inexact, trace, unwrapped
from prunus.costs import Latency, latency, measure
from prunus.errors import ProofError
from prunus.granularity import as_list, unpermuted
from prunus.oneshot.mending import decided, ordered, reconstructed
from prunus.oneshot.report import PruneReport
from prunus.permuting import Permutation
from prunus.plans import Plan, record_of
from prunus.runtimes import Elsewhere, device
from prunus.solvers import Mending, Propagate, Reconstruction, Solver
from prunus.statistics import Loss, calibration, recalibrate_


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
    reconstruct: int | None = None,
    data: Any = None,
    loss: Loss | None = None,
    **decision: Any,
) -> tuple[nn.Module, PruneReport]:
    """Trace, plan, mend, prove, thin and measure a model in one call; the model itself is never changed.

    args, kwargs: example inputs. fold_constants: as in `Plan.apply`. inexact: as in `trace`.
    solver: mends what is left of every pruned weight, such as `lstsq` or `alps`, so that each layer computes again
        what it did; propagate: as in `prunus.solvers.mend_`. With `criterion="solver"` it chooses the zeros, too.
    reconstruct: steps of Adam that train each block, such as an attention, an MLP or a residual block, to compute again
        what it did, after a solver where there is one; see `prunus.solvers.reconstruct_`.
    data, loss: batches for solver and reconstruction, for criteria that observe the model, and to measure batch norms
        anew once the model is small (not after reconstruction); see `prunus.statistics.Calibration`.
    decision: the other arguments of `plan`: ratio or target, granularity, criterion, … With granularity
        `2:4(permute=yes)` channels are put in a better order first, see `prunus.permuting.permuted`.
    Groups that the class cannot have with fewer units, because its code spells out their number, and whose graph cannot
    take its place, are kept whole where the rest can be proved without them; the report names them.
    Returns the smaller model, with the same state-dict keys (see `Plan.apply`), and a report that prints itself; from
    one in `torch.compile` or a data-parallel wrapper comes the plain module.
    """
    model = unwrapped(model)
    with torch.no_grad():
        graph, seen = trace(model, args, kwargs, inexact=inexact), calibration(data, loss)
        start, permutation = ordered(graph, seen, decision)
        if permutation is not None:
            graph = trace(start, args, kwargs, inexact=inexact)
            decision["granularity"] = unpermuted(decision["granularity"])

        def attempt(decision: Mapping[str, Any]) -> tuple[nn.Module, PruneReport]:
            made, source, mending = decided(graph, start, solver, propagate, seen, decision)
            source, trained = reconstructed(made, source, start, reconstruct, seen)
            small = made.apply(source, fold_constants=fold_constants)
            if seen is not None and trained is None:  # blocks are trained with the statistics that their norms have
                recalibrate_(small, seen.data)
            timed = _timed(model, small, made, decision.get("target")) if measure_latency else None
            return small, _report(made, model, small, permutation, mending, trained, timed)

        try:
            return attempt(decision)
        except ProofError as error:
            if not error.groups:
                raise
            protect = [*as_list(decision.get("protect", ())), {"group": error.groups}]
            small, report = attempt({**decision, "protect": protect})
            return small, replace(report, spared={name: str(error) for name in error.groups})


def _report(
    made: Plan,
    model: nn.Module,
    small: nn.Module,
    permutation: Permutation | None,
    mending: Mending | None,
    trained: Reconstruction | None,
    timed: Mapping[str, Latency] | None,
) -> PruneReport:
    inputs = made.graph.trace.args, dict(made.graph.trace.kwargs)
    record = record_of(small)
    return PruneReport(
        plan=made,
        dense=measure(model, *inputs),
        pruned=measure(small, *inputs),
        latency=(timed["dense"], timed["pruned"]) if timed else None,
        proof=record.proof if record else None,
        permutation=permutation,
        mending=mending,
        reconstruction=trained,
    )


def _timed(model: nn.Module, small: nn.Module, made: Plan, target: Any) -> dict[str, Latency]:
    """Time both models against each other: where a latency budget holds, else in torch."""
    args, kwargs = made.graph.trace.args, dict(made.graph.trace.kwargs)
    models, budget = {"dense": model, "pruned": small}, None if target is None else parse_budget(target)
    on = device(budget.device) if budget is not None and budget.device else None
    if on is None or isinstance(on, Elsewhere):
        return latency(models, args, kwargs, seconds=3.0)
    return on.measure(models, args, kwargs, seconds=3.0)
