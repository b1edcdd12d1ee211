"""Prune any PyTorch model, prove that what is left is right, show what it gained.

The names below are the whole public face; each room (`prunus.axes`, `prunus.masks`, …) has its own, smaller one. They
load on first use, so that `import prunus` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prunus._version import __version__

if TYPE_CHECKING:
    from prunus.axes import Graph, trace
    from prunus.costs import measure
    from prunus.errors import PrunusError
    from prunus.masks import MaskSet
    from prunus.oneshot import plan, prune
    from prunus.plans import Plan, load, save
    from prunus.schedules import MagnitudeParameterPruner, Policy, PruningScheduler, sparse
    from prunus.sensitivity import perform_sensitivity_analysis
    from prunus.zeros import density, nnz, sparsity, summary

_HOMES = {
    "Graph": "axes",
    "MagnitudeParameterPruner": "schedules",
    "MaskSet": "masks",
    "Plan": "plans",
    "Policy": "schedules",
    "PruningScheduler": "schedules",
    "PrunusError": "errors",
    "density": "zeros",
    "load": "plans",
    "measure": "costs",
    "nnz": "zeros",
    "perform_sensitivity_analysis": "sensitivity",
    "plan": "oneshot",
    "prune": "oneshot",
    "save": "plans",
    "sparse": "schedules",
    "sparsity": "zeros",
    "summary": "zeros",
    "trace": "axes",
}

__all__ = [
    "Graph",
    "MagnitudeParameterPruner",
    "MaskSet",
    "Plan",
    "Policy",
    "PruningScheduler",
    "PrunusError",
    "__version__",
    "density",
    "load",
    "measure",
    "nnz",
    "perform_sensitivity_analysis",
    "plan",
    "prune",
    "save",
    "sparse",
    "sparsity",
    "summary",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prunus' has no attribute {name!r}")
    value = getattr(import_module(f"prunus.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
