"""The plain way: prune one target, evaluate, put everything back. What the fast way is judged by, and falls back to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from prunus.errors import TrainingError
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.store import Metrics
from prunus.statistics import recalibrate_, restored

Evaluate = Callable[[nn.Module], "float | Mapping[str, float]"]


def measure(model: nn.Module, evaluate: Evaluate, cutter: Cutter, cell: Cell, recalibrate: Any = None) -> Metrics:
    """Evaluate the model with one target pruned, or as it is.

    recalibrate: data that batch norms are measured anew on, before the evaluation.
    """
    with restored(model, cell.params):
        cutter.prune_(cell)
        if recalibrate is not None:
            recalibrate_(model, recalibrate)
        return evaluated(model, evaluate, cell)


def evaluated(model: nn.Module, evaluate: Evaluate, cell: Cell) -> Metrics:
    """Call `evaluate`; a TrainingError says at which cell it failed."""
    try:
        return metrics_of(evaluate(model))
    except TrainingError as error:
        raise TrainingError(f"evaluate {cell.where}: {error}") from None
    except Exception as error:
        raise TrainingError(f"evaluate failed {cell.where}: {type(error).__name__}: {error}") from error


def metrics_of(result: object) -> Metrics:
    """Read what `evaluate` returned; raises TrainingError where it holds no numbers."""
    named: Mapping[Any, Any] = result if isinstance(result, Mapping) else {"metric": result}
    try:
        metrics = {str(name): float(_plain(value)) for name, value in named.items()}
    except (TypeError, ValueError):
        raise TrainingError(f"returned {result!r}; a number or a mapping of numbers is wanted") from None
    if not metrics:
        raise TrainingError("returned an empty mapping; at least one metric is wanted")
    return metrics


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
