"""A budget filled greedily: what costs the least of the metric for what it saves goes first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from prunus.allocation import Budget, RoundTo
from prunus.allocation.counts import num_pruned
from prunus.errors import InputError, NameNotFound
from prunus.sensitivity.costs import Costs

Counts = dict[str, int]
Names = tuple[str, ...]

STEP = 10_000
"""Ratios of recipes are multiples of one part in this many: four decimals, the same in Python and on the page."""

CLOSE = 0.01
"""The share of a budget that may stay unused where an exchange of units could use it."""

_QUANTITIES = {True: ("macs", "params", "bytes", "nnz", "sparsity", "latency"), False: ("nnz", "sparsity")}


@dataclass(frozen=True)
class Filling:
    """A budget to be met by pruning targets, each to one of its levels or as far as is needed towards the next.

    levels: sparsities, ascending. drops: target -> what it loses of the metric at each level; nan counts as infinite.
    round_to: kept counts are multiples of it; `auto`: of the kernels' steps.
    Raises NameNotFound or InputError for a budget that these costs say nothing about.
    """

    costs: Costs
    levels: tuple[float, ...]
    drops: Mapping[str, Sequence[float]]
    budget: Budget
    round_to: RoundTo = 1

    def __post_init__(self) -> None:
        known, quantity = _QUANTITIES[self.costs.coupled], self.budget.quantity
        if quantity not in known:
            raise NameNotFound.of("budget of this analysis", quantity, known)
        if quantity == "macs" and not self.costs.macs:
            raise InputError("a budget of MACs needs the graph; analyse again with graph=, from prunus.trace")
        if quantity == "latency":
            known_on = None if self.costs.latency is None else self.costs.latency.device
            if known_on != self.budget.device:
                there = "no device" if known_on is None else f"{known_on} only"
                raise InputError(
                    f"these curves know the latency on {there}; time them first: "
                    f"curves.timed(graph, {self.budget.device!r})"
                )

    def fill(self) -> dict[str, float]:
        """Return a ratio per target; see `Curves.ratios_for`. Raises InputError where the levels do not reach."""
        chosen = dict.fromkeys(self.costs.targets, 0)
        prices = dict.fromkeys(self._sets, 0.0)
        best, least = chosen, 0.0 if self._is_met(chosen) else math.inf
        while not self._is_met(chosen):
            for names in self._sets:
                found = self._finished(chosen, names)
                if found is not None and (lost := self._lost(found)) < least:
                    best, least = found, lost
            move = self._cheapest(chosen)
            if move is None:
                break
            price, names, count = move
            prices[names] = price
            chosen = {**chosen, **dict.fromkeys(names, count)}
        if least == math.inf:
            raise self._out_of_reach(chosen)
        for names in sorted(prices, key=lambda names: -prices[names]):
            best = self._relieved(best, names)
        best = self._closed(best)
        return {name: ratio_of(count, self.costs.targets[name].units) for name, count in best.items()}

    def drop(self, name: str, count: int) -> float:
        """Return what a target loses at a count: linear between those measured, and never less than at fewer."""
        before, fallen = 0, 0.0
        for measured, drop in zip(self._measured[name], self.drops[name], strict=True):
            risen = math.inf if math.isnan(drop) else max(fallen, drop)
            if count < measured:
                share = (count - before) / (measured - before)
                return fallen + (risen - fallen) * share if share else fallen
            before, fallen = measured, risen
        return fallen

    def _cheapest(self, chosen: Counts) -> tuple[float, Names, int] | None:
        """Return the lowest price, metric lost per share saved, of moving one set on to a level; of equal the largest.

        Looking past the next level finds what lies behind a hump.
        """
        found = []
        for names in self._sets:
            lost = sum(self.drop(name, chosen[name]) for name in names)
            for count in self._stops(names, chosen[names[0]]):
                drop = sum(self.drop(name, count) for name in names) - lost
                saved = self._saved(chosen, names, count)
                if saved > 0 and math.isfinite(drop):
                    found.append((drop / saved, -saved, names, count))
        if not found:
            return None
        price, _, names, count = min(found)
        return price, names, count

    def _finished(self, chosen: Counts, names: Names) -> Counts | None:
        """Meet the budget by moving one set alone, no further than is needed; None where that cannot be."""
        stops = self._stops(names, chosen[names[0]])
        if not stops or self._saved(chosen, names, stops[-1]) < self._missing(chosen) - 1e-9:
            return None
        found = {**chosen, **dict.fromkeys(names, stops[-1])}
        return self._relieved(found, names) if self._is_met(found) else None

    def _relieved(self, chosen: Counts, names: Names) -> Counts:
        """Give a set as many of its units back as the budget allows."""
        few, many = -1, chosen[names[0]]
        while many - few > 1:
            middle = (few + many) // 2
            tried = {**chosen, **dict.fromkeys(names, self._at_most(names, middle))}
            few, many = (few, middle) if self._is_met(tried) else (middle, many)
        return {**chosen, **dict.fromkeys(names, self._at_most(names, many))}

    def _closed(self, chosen: Counts) -> Counts:
        """Where much is unused, give one unit of a set back and let another make up for it, if less is lost by that."""
        if self._unused(chosen) <= CLOSE:
            return chosen
        found = [chosen]
        for names in (names for names in self._sets if chosen[names[0]] > 0):
            freed = {**chosen, **dict.fromkeys(names, self._at_most(names, chosen[names[0]] - 1))}
            found += [each for other in self._sets if other != names and (each := self._finished(freed, other))]
        return min(found, key=self._lost)

    def _unused(self, counts: Counts) -> float:
        return self.budget.unused(self._value(counts), self._value({}))

    def _lost(self, counts: Counts) -> float:
        return sum(self.drop(name, count) for name, count in counts.items())

    @cached_property
    def _measured(self) -> dict[str, list[int]]:
        return {name: self.costs.measured(name, self.levels) for name in self.costs.targets}

    @cached_property
    def _sets(self) -> list[Names]:
        """Targets that move together; a set that lacks one of its members does not move at all."""
        known, equal = self.costs.targets, self.costs.equal
        bound = {name for names in equal for name in names}
        whole = [names for names in equal if all(name in known for name in names)]
        return [*whole, *((name,) for name in known if name not in bound)]

    def _stops(self, names: Names, count: int) -> list[int]:
        """Return the counts at the levels above the present one."""
        measured = zip(*(self._measured[name] for name in names), strict=True)
        counts = {self._at_most(names, min(each)) for each in measured}
        return sorted(stop for stop in counts if stop > count)

    def _at_most(self, names: Names, count: int) -> int:
        """Return the largest count that can be pruned of each and is no larger."""
        return min(self.costs.targets[name].bounded(count, self.round_to) for name in names)

    @cached_property
    def _terms(self) -> dict[str, list[tuple[int, Names]]]:
        """The terms of the budget's quantity in which each target's units are a factor."""
        costs = self.costs
        quantity = "params" if self.budget.quantity in ("sparsity", "nnz") else self.budget.quantity
        found: dict[str, list[tuple[int, Names]]] = {name: [] for name in costs.targets}
        for factor, groups in getattr(costs, quantity):
            for name in found.keys() & set(groups):
                found[name].append((factor, groups))
        return found

    def _saved(self, chosen: Counts, names: Names, count: int) -> float:
        """Return what moving a set to a count saves, as a share of the dense model's figure."""
        if self.budget.quantity == "latency":
            assert self.costs.latency is not None
            states = (self.costs.left_of(counts) for counts in (chosen, {**chosen, **dict.fromkeys(names, count)}))
            before, now = (self.costs.latency.at(sizes, only=names) for sizes in states)
            return (before - now) / self._whole
        if not self.costs.coupled:
            targets = [(self.costs.targets[name], chosen[name]) for name in names]
            return sum(target.zeros(count) - target.zeros(now) for target, now in targets) / self._whole
        sizes = self.costs.sizes or {}

        def left(name: str, counts: Mapping[str, int]) -> int:
            return sizes[name] - counts.get(name, 0)

        after = {**chosen, **dict.fromkeys(names, count)}
        terms = dict.fromkeys(term for name in names for term in self._terms[name])
        saved = sum(
            factor * (math.prod(left(n, chosen) for n in groups) - math.prod(left(n, after) for n in groups))
            for factor, groups in terms
        )
        return saved / self._whole

    def _missing(self, chosen: Counts) -> float:
        """Return what is still to be saved, as a share of the dense model's figure."""
        budget, value = self.budget, self._value(chosen)
        if budget.quantity == "sparsity":
            return budget.limit - value
        return value / self._whole - (budget.limit if budget.relative else budget.limit / self._whole)

    @cached_property
    def _whole(self) -> float:
        """The dense model's figure; for a sparsity, all that it is a share of."""
        if self.budget.quantity != "sparsity":
            return self._value({}) or 1.0
        if self.costs.coupled:
            return float(self.costs.left({}).params)
        return sum(target.units * target.elements for target in self.costs.targets.values())

    def _value(self, counts: Mapping[str, int]) -> float:
        if self.budget.quantity == "sparsity":
            return self.costs.sparsity(counts)
        return float(getattr(self.costs.left(counts), self.budget.quantity))

    def _is_met(self, counts: Mapping[str, int]) -> bool:
        return self.budget.is_met(self._value(counts), self._value({}))

    def _out_of_reach(self, chosen: Counts) -> InputError:
        value, dense = self._value(chosen), self._value({})
        shown = f"{value / dense:.3f} of the dense model" if dense else f"{value:.3f}"
        return InputError(
            f"budget {self.budget} is out of reach: at the highest level measured, {self.levels[-1]:g}, "
            f"{self.budget.quantity} comes to {shown}; measure higher levels"
        )


def ratio_of(count: int, units: int) -> float:
    """Return the smallest multiple of 1 / STEP near count / units that prunes at least `count`."""
    parts = round(count * STEP / units)
    parts += num_pruned(parts / STEP, units) < count
    return min(parts, STEP - 1) / STEP
