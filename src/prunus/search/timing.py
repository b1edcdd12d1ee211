"""A latency as the budget of a search: a table that is fitted near it, and whole models that are measured at last."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property, partial
from pathlib import Path

from prunus.allocation import TOLERANCE, Budget, Left, latency_ruler, left_of
from prunus.runtimes import Check, LatencyTable, device, latency_table
from prunus.search.meter import Meter, Ruler, brought, first, uniform, way
from prunus.search.remembered import Remembered
from prunus.search.space import Choice, Counts, Space, expanded

_FITTED, _CHECKED, _TRIES = 3, 8, 4


@dataclass(frozen=True)
class Timing:
    """The latency of a search's candidates on a device.

    asked: the share of the dense model's. path: where what is measured of whole candidates is kept, if anywhere.
    """

    space: Space
    table: LatencyTable
    asked: float
    path: Path | None

    @classmethod
    def of(cls, space: Space, budget: Budget, path: Path | None) -> Timing | None:
        """Return it for a latency that can be measured here; None for any other budget."""
        if budget.quantity != "latency" or not space.is_coupled:
            return None
        table = latency_table(space.graph, device(budget.device or "torch"))
        return cls(space, table, budget.allowed(table.dense_ms), path) if isinstance(table, LatencyTable) else None

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

    def check(self, counts: Counts) -> Check:
        """Measure a whole candidate, or say what was measured of it before."""
        return Check(*self._measured(counts))

    def excess(self, counts: Counts) -> float:
        """Return by what share a whole candidate was measured above the budget, 0 where it keeps to it within 3 %."""
        check = self.check(counts)
        return 0.0 if is_close(check, self.asked) else check.measured / self.asked - 1

    def checked(self, ranked: Iterable[tuple[int, Counts]]) -> Mapping[int, Check]:
        """Measure whole candidates, given as (number, counts) with the best first, until one keeps to the budget.

        Those that are too slow by what the others show are passed over.
        """
        found: dict[int, Check] = {}
        off = 1.0
        for number, counts in ranked:
            left = self._left(counts)
            if found and self.table.predict(*left) / self.table.dense_ms * off > self.asked * (1 + TOLERANCE):
                continue
            found[number] = self.check(counts)
            if is_close(found[number], self.asked) or len(found) == _CHECKED:
                break
            off = sum(check.measured / check.predicted for check in found.values()) / len(found)
        return found

    def milder(self, meter: Meter, choice: Choice) -> Choice:
        """Return the mildest choice found, on the way from one that keeps to the budget to the whole, that does too.

        Whole models are measured where the table points, between the last that does and the first that does not, until
        one comes within 3 % of the budget.
        """
        path = way(meter, choice)
        bad, good = 0, len(path) - 1
        at = good
        for _ in range(_TRIES):
            check = self.check(expanded(meter.knobs, path[at]))
            good, bad = (at, bad) if is_close(check, self.asked) else (good, at)
            if good - bad <= 1 or abs(check.measured / self.asked - 1) <= TOLERANCE:
                break
            aim = meter.share(path[at]) * self.asked / check.measured
            at = first(bad + 1, good - 1, partial(_is_cheaper, meter, path, aim))
        return path[good]

    @cached_property
    def _measured(self) -> Remembered[tuple[float, float, float]]:
        return Remembered(lambda counts: astuple(self.table.measure(*self._left(counts))), self.path)

    @property
    def _left(self) -> Left:
        return left_of(self.space.graph, self.space.kind, (), {})


def _is_cheaper(meter: Meter, path: Sequence[Choice], aim: float, place: int) -> bool:
    return meter.share(path[place]) <= aim


def is_close(check: Check, asked: float) -> bool:
    """Tell whether a measured latency keeps to the one asked for, within 3 %."""
    return check.measured <= asked * (1 + TOLERANCE)
