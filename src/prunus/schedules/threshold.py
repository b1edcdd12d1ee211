"""The seeds' word: zero every weight whose magnitude is at most a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from prunus.allocation import Threshold
from prunus.errors import NothingToPrune
from prunus.granularity import find_targets
from prunus.masks import MaskSet
from prunus.plans import named_state
from prunus.schedules.decide import Course, choose, masks_of
from prunus.schedules.kinds import OneShot
from prunus.schedules.policy import Policy
from prunus.schedules.time import Time


@dataclass(frozen=True)
class MagnitudeParameterPruner:
    """Zero every |w| <= threshold, per tensor.

    thresholds: one number for all weights, or pattern over parameter names -> number, with `*` as the
    default for all
        weights (biases and norms are pruned only where a pattern names them). Without `*` the rest is
        left alone.
    Source: Han et al. 2015, arXiv:1506.02626; Distiller's class of this name.
    """

    thresholds: float | Mapping[str, float]

    def __post_init__(self) -> None:
        self._allocation()

    def prune_(self, model: nn.Module) -> MaskSet:
        """Zero the weights now, and return the masks; attach them to an optimizer to keep the zeros.

        Raises NameNotFound for a pattern that matches nothing, NothingToPrune where no weight is that small.
        """
        policy = self.policy()
        course = Course("magnitude", policy, OneShot(), find_targets(model, policy.granularity, policy.targets))
        tensors = named_state(model)
        chosen = masks_of(course, choose(course, 1.0, tensors), tensors)
        if not chosen:
            raise NothingToPrune(f"no weight is at or below its threshold, {self.thresholds}; raise it")
        masks = MaskSet(model)
        masks.set_("magnitude", chosen)
        return masks

    def policy(self, begin: Time | str | int = 0) -> Policy:
        """Return this as a policy for a scheduler, which acts at `begin`."""
        thresholds = self._allocation()
        return Policy(
            name="magnitude",
            granularity="element",
            criterion="l1",
            targets=list(thresholds.thresholds),
            allocation=thresholds,
            schedule=OneShot(begin=begin),
        )

    def _allocation(self) -> Threshold:
        given = self.thresholds
        return Threshold(dict(given) if isinstance(given, Mapping) else {"*": given})
