"""The accuracy guard: how far a metric may fall, and the last state that was good enough."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.quality import Mode, sign_of


@dataclass(frozen=True)
class AccuracyGuard:
    """Stop pruning, and go back to the last good state, once a metric is more than `max_drop` worse.

    metric: its name in the metrics of `epoch_end`. max_drop: in the metric's own unit; 0.02 is two points of top1.
    mode: `max`, more is better, or `min`. reference: what to compare with; by default the first metric that is seen
        before anything is pruned.
    """

    metric: str
    max_drop: float
    mode: Mode = "max"
    reference: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metric, str) or not self.metric:
            raise InputError(f"guard.metric is {self.metric!r}; the name of a metric is wanted")
        if not _is_number(self.max_drop) or self.max_drop < 0:
            raise InputError(f"guard.max_drop is {self.max_drop!r}; a number of at least 0 is wanted")
        sign_of(self.mode, "guard.mode")
        if self.reference is not None and not _is_number(self.reference):
            raise InputError(f"guard.reference is {self.reference!r}; a number is wanted")

    def drop(self, value: float, reference: float) -> float:
        """Return how much worse a value is than the reference; negative when it is better."""
        return sign_of(self.mode) * (reference - value)

    def read(self, metrics: Mapping[str, float] | None) -> float:
        """Return the metric that is guarded.

        Raises InputError without metrics, NameNotFound where it is not among them.
        """
        if metrics is None:
            raise InputError(f"the guard needs the metric {self.metric!r}; call epoch_end({{'{self.metric}': …}})")
        if self.metric not in metrics:
            raise NameNotFound.of("metric", self.metric, metrics)
        return float(metrics[self.metric])


def guard(spec: Mapping[str, Any] | AccuracyGuard) -> AccuracyGuard:
    """Read a guard: `{metric: top1, max_drop: 0.02}`.

    Raises NameNotFound for an unknown key, InputError for a missing or wrong value.
    """
    if isinstance(spec, AccuracyGuard):
        return spec
    if not isinstance(spec, Mapping):
        raise InputError(f"guard is {spec!r}; a mapping such as {{metric: top1, max_drop: 0.02}} is wanted")
    known = [field.name for field in fields(AccuracyGuard)]
    for key in spec:
        if key not in known:
            raise NameNotFound.of("key of guard", str(key), known)
    for key in ("metric", "max_drop"):
        if key not in spec:
            raise InputError(f"guard.{key} is missing; write guard: {{metric: top1, max_drop: 0.02}}")
    return AccuracyGuard(**spec)


def check_metrics(metrics: Mapping[str, float] | None, when: str) -> None:
    """Raise TrainingError for a metric that is nan, InputError for one that is no number."""
    for name, value in (metrics or {}).items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(f"metric {name} is {value!r} after {when}; a number is wanted") from None
        if math.isnan(number):
            raise TrainingError(f"metric {name} is nan after {when}; lower the learning rate or the pruning fraction")


@dataclass(frozen=True)
class Snapshot:
    """A model and its optimizer at one time, in plain data.

    name: when that was, such as `epoch 3`. pruning: what the scheduler has to remember of that time.
    """

    name: str
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    pruning: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, model: nn.Module, optimizer: torch.optim.Optimizer, pruning: Mapping[str, Any]) -> Snapshot:
        """Copy everything."""
        return cls(name, copy.deepcopy(dict(model.state_dict())), copy.deepcopy(optimizer.state_dict()), pruning)

    def restore_(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Put weights and optimizer state back; learning rates and other settings stay as they are now.

        A learning-rate schedule goes on counting and may compute the next rate from the present one.
        """
        model.load_state_dict(self.model)
        settings = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": copy.deepcopy(self.optimizer["state"]), "param_groups": settings})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
