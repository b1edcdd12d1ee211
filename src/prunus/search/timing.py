"""A latency as the budget of a search: a table that is fitted near it, and whole models that are measured at last."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from prunus.allocation import Budget, latency_ruler
from prunus.allocation.rulers import Left, left_of
from prunus.oneshot.latency import TOLERANCE
from prunus.runtimes import Check, LatencyTable, device, latency_table
from prunus.search.meter import Meter, Ruler, brought, uniform
from prunus.search.space import Counts, Space, expanded

_FITTED, _CHECKED = 3, 8


@dataclass(frozen=True)
class Timing:
    """The latency of a search's candidates on a device."""

    space: Space
    table: LatencyTable

    @classmethod
    def of(cls, space: Space, budget: Budget) -> Timing | None:
        """Return it for a latency that can be measured here; None for any other budget."""
        if budget.quantity != "latency" or not space.is_coupled:
            return None
        table = latency_table(space.graph, device(budget.device or "torch"))
        return cls(space, table) if isinstance(table, LatencyTable) else None

    @property
    def ruler(self) -> Ruler:
        """Milliseconds by the table."""
        return latency_ruler(self.table, self._left)

    def fit(self, budget: Budget, seed: int) -> None:
        """Measure a few structures near the budget, uniform and others, and correct the table by them."""
        meter, draw = Meter(budget, self.space.knobs, self.ruler), random.Random(seed)
        meter.check()
        choices = {uniform(meter)}
        for _ in range(_FITTED):
            choices.add(brought(meter, [knob.at(draw.random() * knob.top / knob.size) for knob in meter.knobs], 1.0))
        self.table.refit([self._left(expanded(meter.knobs, choice))[0] for choice in sorted(choices)])

    def checked(self, ranked: tuple[tuple[int, Counts], ...], asked: float) -> Mapping[int, Check]:
        """Measure whole candidates, given as (number, counts) with the best first, until one keeps to the budget.

        Those that are too slow by what the others show are passed over.
        """
        found: dict[int, Check] = {}
        off = 1.0
        for number, counts in ranked:
            left = self._left(counts)
            if found and self.table.predict(*left) / self.table.dense_ms * off > asked * (1 + TOLERANCE):
                continue
            found[number] = self.table.measure(*left)
            if is_close(found[number], asked) or len(found) == _CHECKED:
                break
            off = sum(check.measured / check.predicted for check in found.values()) / len(found)
        return found

    @property
    def _left(self) -> Left:
        return left_of(self.space.graph, self.space.kind, (), {})


def is_close(check: Check, asked: float) -> bool:
    """Tell whether a measured latency keeps to the one asked for, within 3 %."""
    return check.measured <= asked * (1 + TOLERANCE)
