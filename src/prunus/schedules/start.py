"""The two added lines: `with prunus.sparse(model, optimizer, "schedule.yaml") as scheduler:`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.axes import Inexact, trace
from prunus.errors import InputError
from prunus.schedules.parse import Settings, parse_settings, read_settings
from prunus.schedules.policy import Policy
from prunus.schedules.scheduler import PruningScheduler
from prunus.schedules.threshold import MagnitudeParameterPruner
from prunus.statistics import Loss


def sparse(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: str | Path | Mapping[str, Any] | Sequence[Policy | MagnitudeParameterPruner],
    *,
    example_inputs: Any = None,
    inexact: Inexact = "forbid",
    fold_constants: bool = False,
    steps_per_epoch: int | None = None,
    data: Any = None,
    loss: Loss | None = None,
) -> PruningScheduler:
    """Prune a model while your own loop trains it.

    schedule: a YAML file with `policies: [...]` (the words of a recipe's `prune:`, also `stop` and `guard`), such a
        mapping, or a list of policies.
    example_inputs: a tensor or a tuple of arguments; the model is then traced, and filters and channels are pruned
        with all that hangs on them. inexact, as in `trace`, and fold_constants need them.
    fold_constants, steps_per_epoch, data, loss: as in `PruningScheduler`.
    Returns a `PruningScheduler`, which is a context manager.
    Raises RecipeError, naming the file and the path inside it, and whatever `PruningScheduler` and `trace` raise.
    """
    settings = _settings(schedule)
    asked = ["fold_constants=True"] * fold_constants + [f"inexact={inexact!r}"] * (inexact != "forbid")
    if asked and example_inputs is None:
        raise InputError(f"{asked[0]} is about units that go as one, which a trace tells; add example_inputs=")
    return PruningScheduler(
        model,
        optimizer,
        settings.policies,
        graph=None if example_inputs is None else trace(model, example_inputs, inexact=inexact),
        stop=settings.stop,
        guard=settings.guard,
        fold_constants=fold_constants,
        steps_per_epoch=steps_per_epoch,
        data=data,
        loss=loss,
    )


def _settings(schedule: Any) -> Settings:
    if isinstance(schedule, (str, Path)):
        return read_settings(schedule)
    if isinstance(schedule, Mapping):
        return parse_settings(schedule)
    alone = isinstance(schedule, (Policy, MagnitudeParameterPruner))
    return Settings((schedule,) if alone else tuple(schedule))
