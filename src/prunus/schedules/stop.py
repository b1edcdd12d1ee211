"""When to prune no further: at a sparsity, or at a budget of compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from prunus.allocation import Budget, check_ratio, parse_budget

# A quantity, such as `macs` or `latency@torch` -> (its figure now, the dense model's).
Figures = Callable[[str], tuple[float, float]]


@runtime_checkable
class Stop(Protocol):
    """A stop condition."""

    @property
    def quantity(self) -> str:
        """What it looks at: sparsity, macs, params, bytes, energy, nnz, or latency@ and a device."""

    def reached(self, figures: Figures) -> str | None:
        """Return the reason to stop in words, or None to go on."""


@dataclass(frozen=True)
class StopAtSparsity:
    """Stop when this share of all the model's parameters is zero."""

    sparsity: float

    def __post_init__(self) -> None:
        check_ratio("stop.sparsity", self.sparsity)

    @property
    def quantity(self) -> str:
        """Sparsity."""
        return "sparsity"

    def reached(self, figures: Figures) -> str | None:
        """Return the reason once the sparsity is there."""
        now, _ = figures("sparsity")
        return f"sparsity {now:.4g} has reached {self.sparsity:g}" if now >= self.sparsity else None


@dataclass(frozen=True)
class StopAtBudget:
    """Stop when the thinned model costs no more than a budget such as `macs=0.33` or `params<=2e6`.

    macs, params, bytes and energy count what is left once pruned filters are removed, so they need a traced
    graph; nnz and sparsity count zeros. A latency is measured of the structure that is left, after every pruning.
    """

    budget: Budget | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", parse_budget(self.budget))

    @property
    def quantity(self) -> str:
        """The budget's quantity, of a latency with its device."""
        budget = self._budget
        return budget.quantity if budget.device is None else f"{budget.quantity}@{budget.device}"

    @property
    def _budget(self) -> Budget:
        return parse_budget(self.budget)

    def reached(self, figures: Figures) -> str | None:
        """Return the reason once the budget is met."""
        now, dense = figures(self.quantity)
        if not self._budget.is_met(now, dense):
            return None
        figure = f"{now / dense:.4g} of the dense model" if self._budget.relative else f"{now:.6g}"
        return f"{self._budget.quantity}, {figure}, has met the budget {self._budget}"


def stop(spec: str | Mapping[str, Any] | Stop) -> Stop:
    """Read a stop condition: `{sparsity: 0.9}`, `{macs: 0.33}`, `params<=2e6`, or an object with reached().

    Raises NameNotFound or InputError as `parse_budget` does.
    """
    if not isinstance(spec, (str, Mapping)) and isinstance(spec, Stop):
        return spec
    budget = parse_budget(spec)
    return StopAtSparsity(budget.limit) if budget.quantity == "sparsity" else StopAtBudget(budget)
