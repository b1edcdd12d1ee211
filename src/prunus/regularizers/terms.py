"""Regularizers at work on one model: the loss terms, each known by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError, naming
from prunus.granularity import Target
from prunus.granularity.targets import GraphLike
from prunus.regularizers.base import Regularizer, regularizer
from prunus.regularizers.kinds import unit_norms


class Regularizers:
    """The terms that are added to a model's loss: `loss = task_loss + terms()`, one call per optimizer step.

    regularizers: texts, mappings or objects, see `regularizer`; two of one kind need a `name` each.
    graph: from `prunus.trace(model, …)`; with it, filters and channels are coupled groups.
    Raises NameNotFound or InputError for what cannot be read or matches nothing, naming the regularizer.
    """

    def __init__(
        self,
        model: nn.Module,
        regularizers: Sequence[str | Mapping[str, Any] | Regularizer],
        *,
        graph: GraphLike | None = None,
    ) -> None:
        self.regularizers = check_names([regularizer(spec) for spec in regularizers])
        self.targets: dict[str, list[Target]] = {}
        for item in self.regularizers:
            with naming(f"regularizer {item.name}"):
                self.targets[item.name] = item.find(model, graph)
        self._params: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self._chosen: dict[str, dict[str, Tensor]] = {}
        self._step = 0
        self._last: dict[str, Tensor] = {}

    def __call__(self) -> Tensor:
        """The sum of all terms, one differentiable number; the step that growing strengths count goes on by one."""
        values = {item.name: self._value(item) for item in self.regularizers}
        self._last = {name: value.detach() for name, value in values.items()}
        self._step += 1
        return torch.stack(list(values.values())).sum() if values else torch.zeros(())

    @property
    def last(self) -> dict[str, float]:
        """Each term at the latest call, strength included, by name; empty before the first."""
        return {name: float(value) for name, value in self._last.items()}

    @torch.no_grad()
    def threshold_(self) -> dict[str, int]:
        """Set to 0 each unit whose root mean square is at most its regularizer's threshold; a group's biases too.

        Nothing holds them there: a mask or a policy does.
        Returns how many units each regularizer with a threshold now has at 0, by name.
        """
        return {
            item.name: sum(self._zero_(item, target) for target in self.targets[item.name])
            for item in self.regularizers
            if item.threshold > 0
        }

    def state_dict(self) -> dict[str, Any]:
        """The step, and the units that were chosen."""
        return {"step": self._step, "chosen": {name: dict(units) for name, units in self._chosen.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; raises InputError when it is of other regularizers."""
        for name, units in state["chosen"].items():
            if name not in self.targets or set(units) - {target.name for target in self.targets[name]}:
                raise InputError(f"the state of regularizer {name} is of another model or recipe; start anew")
        self._step = int(state["step"])
        self._chosen = {name: dict(units) for name, units in state["chosen"].items()}

    def _value(self, item: Regularizer) -> Tensor:
        if item.name not in self._chosen:
            units = {target.name: item.chosen(target, self._params) for target in self.targets[item.name]}
            self._chosen[item.name] = {name: chosen for name, chosen in units.items() if chosen is not None}
        terms = [item.penalty(*self._units(item, target)) for target in self.targets[item.name]]
        return item.strength_at(self._step) * torch.stack(terms).sum()

    def _units(self, item: Regularizer, target: Target) -> tuple[list[Tensor], Tensor]:
        """As `_all_units`, of the chosen ones alone."""
        parts, counts = self._all_units(target)
        chosen = self._chosen.get(item.name, {}).get(target.name)
        if chosen is None:
            return parts, counts
        chosen = chosen.to(counts.device)
        return [part[chosen] for part in parts], counts[chosen]

    def _all_units(self, target: Target) -> tuple[list[Tensor], Tensor]:
        """The scored tensors as (U, E), and how many elements each unit has in all of them."""
        parts = [part.units.gather(self._params[part.param]) for part in target.scored]
        counts = torch.stack([part.units.counts for part in target.scored]).sum(dim=0)
        return parts, counts.to(parts[0].device)

    def _zero_(self, item: Regularizer, target: Target) -> int:
        parts, counts = self._all_units(target)
        gone = unit_norms(parts) <= item.threshold * counts.sqrt()
        for part in target.parts:
            if part.param in self._params:
                self._params[part.param].mul_(part.units.scatter(gone))
        return int(gone.sum())


def check_names(regularizers: Sequence[Regularizer]) -> tuple[Regularizer, ...]:
    """Raise InputError when two share a name: each term is logged under its own."""
    names = [item.name for item in regularizers]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two regularizers are named {name}; give each its own `name`")
    return tuple(regularizers)
