"""What criteria want to know of every optimizer step, summed up while a model is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prunus.criteria import criterion, pieces_of
from prunus.errors import InputError
from prunus.masks.state import after_closure
from prunus.plans import named_state
from prunus.schedules.decide import Course
from prunus.statistics import OfTraining, Statistics, statistic, wide


class Observer:
    """Sums of the statistics of training that the criteria of some policies need; none where they need none.

    Gradients are read when the optimizer steps, after AMP and the masks have had their turn (the masks are attached
    first), so that what is pruned stays where it is. A step with a closure is read after each call of it; a step that
    AMP skips is none.
    Memory: one float32 per weight and statistic.
    Raises InputError where the optimizer does not hold a parameter that is to be observed.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, courses: Sequence[Course]) -> None:
        self.steps = 0
        self._optimizer = optimizer
        self._weights = named_state(model)
        self._kinds = {need: kind for course in courses for need, kind in _needs(course).items()}
        self._sums: dict[str, dict[str, Tensor]] = {need: {} for need in self._kinds}
        for course in courses:
            for need in _needs(course):
                for param in _params(course, self._weights):
                    self._sums[need][param] = torch.zeros_like(wide(self._weights[param].detach()))
        self._check_held()
        self._handle = optimizer.register_step_pre_hook(self._before_step) if self._kinds else None

    def gathered(self, course: Course) -> Statistics | None:
        """Return what a policy's criterion needs, None where it needs nothing of this kind.

        Raises InputError before the first step.
        """
        needs = _needs(course)
        if needs and not self.steps:
            raise InputError(
                f"policy {course.name!r}: {', '.join(needs)} has seen no optimizer step yet; let the schedule begin "
                "later, after an epoch or some steps"
            )
        found = Statistics()
        for need in needs:
            for param, total in self._sums[need].items():
                found.add_((need, param), total, self.steps)
        return found if needs else None

    def remove(self) -> None:
        """Take the hook out."""
        if self._handle is not None:
            self._handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all sums as plain data."""
        sums = {need: {param: total.clone() for param, total in each.items()} for need, each in self._sums.items()}
        return {"steps": self.steps, "sums": sums}

    def check(self, state: Mapping[str, Any]) -> None:
        """Raise InputError where a saved state has other tensors than are observed here."""
        if _shapes(state.get("sums", {})) != _shapes(self._sums):
            raise InputError(
                "the saved state does not fit what the policies observe in training; resume with the policies and the "
                "model it was saved with"
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the sums of a state that `check` has passed."""
        self.steps = state.get("steps", 0)
        for need, each in self._sums.items():
            for param, total in each.items():
                total.copy_(state["sums"][need][param])

    def _before_step(
        self, _: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        with_action = after_closure(args, kwargs, self._observe)
        if with_action is None:
            self._observe()
        return with_action

    @torch.no_grad()
    def _observe(self) -> None:
        if bool(getattr(self._optimizer, "found_inf", False)):  # a fused optimizer will skip this step by itself
            return
        self.steps += 1
        rates = {id(p): _rate(group) for group in self._optimizer.param_groups for p in group["params"]}
        scale = getattr(self._optimizer, "grad_scale", None)  # a fused optimizer takes it out by itself
        for need, each in self._sums.items():
            for param, total in each.items():
                weight = self._weights[param]
                if weight.grad is not None:
                    slope = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
                    slope = slope if scale is None else wide(slope) / scale
                    total += self._kinds[need].observe(weight.detach(), slope, rates[id(weight)])

    def _check_held(self) -> None:
        held = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        for need, each in self._sums.items():
            for param in each:
                if id(self._weights[param]) not in held:
                    raise InputError(
                        f"{param}: {need} is gathered in optimizer steps, but the optimizer does not hold this "
                        "parameter; give it to the optimizer, or exclude it"
                    )


def needs_data(course: Course) -> bool:
    """Whether a policy's criterion observes the model on calibration data."""
    return bool(criterion(course.policy.criterion).needs - set(_needs(course)))


def _needs(course: Course) -> dict[str, OfTraining]:
    kinds = {need: statistic(need) for need in sorted(criterion(course.policy.criterion).needs)}
    return {need: kind for need, kind in kinds.items() if isinstance(kind, OfTraining)}


def _params(course: Course, tensors: Mapping[str, Tensor]) -> list[str]:
    rank = criterion(course.policy.criterion)
    return [piece.param for target in course.targets for piece in pieces_of(target, tensors, rank)]


def _rate(group: Mapping[str, Any]) -> Any:
    """The learning rate of a parameter group, negative where its objective is maximised."""
    return -group["lr"] if group.get("maximize") else group["lr"]


def _shapes(sums: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, torch.Size]]:
    return {need: {param: total.shape for param, total in each.items()} for need, each in sums.items()}
