"""Both models measured in the same run: costs, latency, and the metrics on validation and test."""

from __future__ import annotations

from typing import Any

from torch import nn

from prunus.costs import Costs, Latency, latency, macs, measure, parameters
from prunus.recipes.session import Session

Measures = dict[str, Any]


def measure_both(session: Session, dense: nn.Module, pruned: nn.Module) -> tuple[Measures, Measures, dict[str, str]]:
    """The dense model's and the pruned model's measures, and the assumptions behind them.

    The test split is read here and nowhere else.
    """
    models = {"dense": dense.eval(), "pruned": pruned.eval()}
    times = _latency(session, models)
    found = {name: _measures(session, model, times.get(name), name) for name, model in models.items()}
    return found["dense"][0], found["pruned"][0], {"energy_joules": found["dense"][1].energy_assumption}


def _latency(session: Session, models: dict[str, nn.Module]) -> dict[str, Latency]:
    if not session.recipe.finish.latency:
        return {}
    session.reporter.say("measuring latency")
    return latency(models, session.one_example, threads=session.recipe.threads or 1)


def _measures(session: Session, model: nn.Module, time: Latency | None, name: str) -> tuple[Measures, Costs]:
    costs = measure(model, session.one_example)
    counted = {key: value for key, value in costs.to_dict().items() if key not in ("energy_assumption", "latency")}
    return {**counted, "latency": _plain(time), "metrics": _metrics(session, model, name)}, costs


def measure_control(session: Session, name: str, model: nn.Module) -> Measures:
    """What a control reaches, and its size."""
    metrics = _metrics(session, model.eval(), name)
    return {"name": name, "metrics": metrics, "macs": macs(model, session.one_example), "parameters": parameters(model)}


def _metrics(session: Session, model: nn.Module, name: str) -> Measures:
    session.reporter.say(f"evaluating the {name} model")
    test = session.parts.evaluate(model, "test") if session.parts.data.test is not None else None
    return {"validation": session.parts.evaluate(model, "validation"), "test": test}


def _plain(time: Latency | None) -> dict[str, Any] | None:
    if time is None:
        return None
    return {
        "median_ms": time.median_ms,
        "p90_ms": time.p90_ms,
        "batch": time.batch,
        "threads": time.threads,
        "runtime": time.runtime,
        "ratio_to_dense": time.ratio_to_first,
    }
