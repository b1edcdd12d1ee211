"""What a search found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from prunus.allocation import Budget
from prunus.axes import Graph
from prunus.plans import Plan, Proof
from prunus.quality import Mode
from prunus.runtimes import Check
from prunus.search.timing import is_close
from prunus.search.trials import Trial, better, pareto


@dataclass(frozen=True)
class SearchResult:
    """Every candidate of a search, and which of them are worth having.

    trials: in their order, the dense model first. sizes: target -> its units.
    kept: the trial to which NetAdapt came. weights: its weights, in the dense shapes, where candidates were trained:
        load them before the plan is applied.
    proof: that the best one thinned computes what it does masked; None where nothing is thinned.
    checks: trial -> its latency as looked up and as its whole model measured; the best is among them, where any are.
    """

    method: str
    budget: Budget
    mode: Mode
    granularity: str
    criterion: str
    trials: tuple[Trial, ...]
    sizes: Mapping[str, int]
    kept: int | None = None
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    proof: Proof | None = None
    checks: Mapping[int, Check] = field(default_factory=dict)

    @cached_property
    def best(self) -> Trial:
        """The candidate within the budget that earned the highest reward, or, without rewards, the best metric.

        Where whole models were measured, of those that keep to a latency within 3 %, or else the fastest. Of NetAdapt,
        the one that it came to.
        """
        if self.kept is not None:
            return self.trials[self.kept]
        if not self.checks:
            return self.ranked[0]
        kept = (trial for trial in self.ranked if trial.number in self.checks)
        return next(kept, self.trials[min(self.checks, key=lambda number: self.checks[number].measured)])

    @cached_property
    def ranked(self) -> tuple[Trial, ...]:
        """The candidates within the budget, as measured where they were measured; the best first."""
        rank = better(self.mode)
        found = (trial for trial in self.trials if trial.is_met)
        return tuple(sorted(found, key=lambda t: (-float(t.notes.get("reward", rank(t))), t.share, t.number)))

    @property
    def asked(self) -> float:
        """The budget as a share of the dense model's figure."""
        return self.budget.allowed(self.trials[0].value)

    @cached_property
    def front(self) -> tuple[Trial, ...]:
        """The candidates that no other beats in both metric and cost, the cheapest first."""
        return pareto(self.trials, self.mode)

    def ratios(self, trial: Trial | None = None) -> dict[str, float]:
        """Return target -> share of its units that goes, as `{"per_layer": …}` takes it; of the best by default."""
        counts = (self.best if trial is None else trial).counts
        return {name: count / self.sizes[name] for name, count in counts.items() if count}

    def plan(self, graph: Graph | None = None) -> Plan:
        """Make the plan of the best candidate; see `Trial.plan`."""
        return self.best.plan(graph)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw all candidates, metric against cost, and the front. path: ends in .svg, .png or .pdf."""
        from prunus.search.plot import draw_front  # matplotlib is an extra

        draw_front(self, path)

    def plot_learning(self, path: str | os.PathLike[str]) -> None:
        """Draw the metric, or AMC's reward, of each trial in its order, and the best so far."""
        from prunus.search.plot import draw_learning

        draw_learning(self, path)

    def __str__(self) -> str:
        best, dense = self.best, self.trials[0]
        name = next(iter(best.metrics))
        lines = [
            f"{self.method} for {self.budget}: {len(self.trials) - 1} candidates, {len(self.front)} on the front",
            f"best: {name} {best.metric:.4g} (dense {dense.metric:.4g}), {best.share:.3f} of the dense "
            f"{self.budget.quantity}, trial {best.number}",
        ]
        if best.number in self.checks:
            check = self.checks[best.number]
            missed = "" if is_close(check, self.asked) else f": missed by {check.measured / self.asked - 1:.1%}"
            lines.append(f"  measured on {self.budget.device}: {check.measured:.3f} ± {check.error:.3f}{missed}")
        lines += [
            f"  {name}: {best.counts[name]} of {size} go" for name, size in self.sizes.items() if name in best.counts
        ]
        return "\n".join(lines)
