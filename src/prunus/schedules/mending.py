"""What follows a pruning at once: the weights that are left are solved for anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from prunus.axes import copied
from prunus.errors import InputError
from prunus.masks import MaskSet
from prunus.schedules.policy import Policy
from prunus.solvers import mend_, solver
from prunus.statistics import Calibration


@contextmanager
def mended_(
    model: nn.Module, policy: Policy, masks: MaskSet, calibration: Calibration | None
) -> Iterator[dict[str, Any]]:
    """Mend the weights that are pruned inside, where the policy names a solver; yields the facts for the log.

    masks: of all policies, read on leaving. Takes a copy of the model meanwhile.
    """
    facts: dict[str, Any] = {}
    if policy.solver is None:
        yield facts
        return
    if calibration is None:
        raise InputError(f"solver {policy.solver} mends by what layers read; give data=, the batches they are shown")
    before = copied(model)
    yield facts
    pruned = {name: mask for name, mask in masks.masks.items() if not bool(mask.all())}
    mending = mend_(model, before, pruned, solver(policy.solver), calibration)
    facts["mended"] = mending.summary
