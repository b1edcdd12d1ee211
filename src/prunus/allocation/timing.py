"""Meet a latency: by the table first, then by what whole models measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from prunus.allocation.budget import Budget
from prunus.allocation.meeting import meet
from prunus.allocation.rulers import Left, latency_ruler
from prunus.errors import InputError
from prunus.runtimes import Check, GivenTable, LatencyTable

TOLERANCE = 0.03
"""How far, relatively, a measured latency may lie from the one that was asked for."""
_AIM = 0.015
_TRIES = 6


@dataclass(frozen=True)
class Timing:
    """How a latency was met.

    asked: share of the dense model's. check: what the table said and what was measured; None where it was given.
    table: the table in words, with its error bar.
    """

    asked: float
    device: str
    check: Check | None
    table: str

    @property
    def missed_by(self) -> float:
        """How far the measured latency lies from the one asked for, relatively."""
        return 0.0 if self.check is None else self.check.measured / self.asked - 1

    @property
    def provenance(self) -> dict[str, Any]:
        """What a plan remembers of it: in words, and the figures as shares of the dense latency."""
        figures = {} if self.check is None else {"latency_figures": asdict(self.check)}
        return {"latency": str(self), "latency_table": self.table, **figures}

    def __str__(self) -> str:
        if self.check is None:
            return f"{self.asked:.3f} of the dense latency by {self.device}, which was not measured here"
        said = (
            f"{self.check.measured:.3f} ± {self.check.error:.3f} of the dense latency measured on {self.device}, "
            f"{self.asked:.3f} asked, {self.check.predicted:.3f} looked up"
        )
        return said if abs(self.missed_by) <= TOLERANCE else f"{said}: missed by {abs(self.missed_by):.1%}"


def meet_latency(
    table: LatencyTable | GivenTable,
    budget: Budget,
    counts: Callable[[float], dict[str, int]],
    left: Left,
    equal: Sequence[tuple[str, ...]],
    steps: Mapping[str, int],
) -> tuple[dict[str, int], Timing]:
    """Find counts by the table, measure the whole model against the dense one, correct, until both agree.

    counts, equal, steps: as for `meet`. left: what counts leave of the model.
    Returns what `approach` does. Raises InputError where the budget is out of reach, or needs nothing to be pruned.
    """
    ruler, asked = latency_ruler(table, left), budget.allowed(table.dense_ms)
    if asked >= 1:
        raise InputError(
            f"budget {budget} is met by the dense model, which takes {table.dense_ms:.3g} ms on {table.device}"
        )
    return approach(
        table,
        asked,
        lambda share: meet(replace(budget, limit=share, relative=True), counts, ruler, equal, steps, close=_AIM),
        left,
    )


def approach(
    table: LatencyTable | GivenTable, asked: float, chosen_at: Callable[[float], dict[str, int]], left: Left
) -> tuple[dict[str, int], Timing]:
    """Ask for the share of the dense latency that leads to the one that is wanted, once whole models are measured.

    asked: the share wanted. chosen_at: from a share, by any estimate of it, to counts; raises InputError out of reach.
    Returns the counts that come closest of those that keep to it within 3 %, or else of all, and how close they come; a
    latency that is only given is not measured.
    """
    on, chosen = str(table.device), chosen_at(asked)
    if not isinstance(table, LatencyTable):
        return chosen, Timing(asked, on, None, str(table))
    tried: list[tuple[dict[str, int], Check]] = []
    aim = asked
    while len(tried) < _TRIES and chosen not in [counts for counts, _ in tried]:
        check = table.measure(*left(chosen))
        tried.append((chosen, check))
        if abs(check.measured / asked - 1) <= _AIM:
            break
        aim = min(0.999, aim * asked / check.measured)
        try:
            chosen = chosen_at(aim)
        except InputError:  # what the table says is out of reach now was not when it was first asked
            break
    kept = [pair for pair in tried if pair[1].measured <= asked * (1 + TOLERANCE)]
    best, check = min(kept or tried, key=lambda pair: abs(pair[1].measured - asked))
    return best, Timing(asked, on, check, str(table))
