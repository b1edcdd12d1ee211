"""The facts of a run as plain values, `prunus-report/1`; ratios, differences and the verdict are the report's."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from prunus.axes import Graph
from prunus.costs import environment
from prunus.plans import record_of
from prunus.recipes.epochs import Row
from prunus.recipes.session import Session
from prunus.recipes.stages import Pruned
from prunus.sensitivity import Curves
from prunus.training import num_samples

SCHEMA = "prunus-report/1"
SPLITS = ("train", "validation", "test")


def collect(
    session: Session,
    *,
    small: nn.Module,
    pruned: Pruned,
    graph: Graph | None,
    curves: Curves | None,
    history: Sequence[Row],
    measures: tuple[dict[str, Any], dict[str, Any], dict[str, str]],
    artifacts: Mapping[str, str],
    controls: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Everything that the report shows, in the order of its schema."""
    recipe = session.recipe
    record = record_of(small)
    proof = record.proof if record is not None else None
    return {
        "schema": SCHEMA,
        "name": recipe.name or type(pruned.model).__name__,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "recipe": recipe.plain(),
        "environment": environment(device=session.parts.device),
        "seeds": [recipe.seed],
        "model": {"name": type(pruned.model).__name__},
        "data": {"name": session.parts.data.name, "sizes": _sizes(session)},
        "dense": measures[0],
        "pruned": measures[1],
        "proof": None if record is None or proof is None else {**_proof(proof.to_dict()), "form": record.form},
        "sensitivity": None if curves is None else _sensitivity(curves),
        "history": list(history),
        "groups": _groups(graph, pruned),
        "baselines": list(controls),
        "masks": [] if record is None else _masks(record.masks),
        "frozen": [] if graph is None else [{"name": f.param, "dim": f.dim, "reason": f.reason} for f in graph.frozen],
        "assumptions": dict(measures[2]),
        "artifacts": dict(artifacts),
    }


def _sizes(session: Session) -> dict[str, int]:
    loaders = {split: getattr(session.parts.data, split) for split in SPLITS}
    return {split: num_samples(loader, f"data.{split}") for split, loader in loaders.items() if loader is not None}


def _proof(proof: Mapping[str, Any]) -> dict[str, Any]:
    return {key: proof[key] for key in ("max_abs", "max_rel", "generic", "tolerance", "dtype", "passed")}


def _sensitivity(curves: Curves) -> dict[str, Any]:
    found = curves.to_dict()
    kept = {key: found[key] for key in ("metric", "granularity", "criterion", "levels", "curves", "dense")}
    return {**kept, "split": "validation"}


def _groups(graph: Graph | None, pruned: Pruned) -> list[dict[str, Any]]:
    if graph is None:
        return []
    gone = {name: int(units.sum()) for name, units in pruned.units.items()}
    return [
        {"name": g.name, "kind": g.kind, "size": g.size, "kept": g.size - gone.get(g.name, 0)} for g in graph.groups
    ]


def _masks(masks: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(mask.shape), "sparsity": 1.0 - float(mask.double().mean())}
        for name, mask in masks.items()
    ]
