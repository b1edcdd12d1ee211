"""Meet a budget: the mildest fraction that does, then what is not needed is given back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prunus.allocation.budget import Budget
from prunus.allocation.rulers import Ruler
from prunus.errors import InputError, NothingToPrune

CLOSE = 0.01
_MOST = 1 - 1e-9


def meet(
    budget: Budget,
    counts: Callable[[float], dict[str, int]],
    ruler: Ruler,
    equal: Sequence[tuple[str, ...]],
    steps: Mapping[str, int],
    close: float = CLOSE,
) -> dict[str, int]:
    """Find the mildest fraction that meets the budget, then give back what is not needed, target by target.

    equal: names of targets whose counts must stay equal, which are given back together. steps: how many units of a
    target are given back at once; those that are absent have a fixed number. close: the share of a budget that may stay
    unused where a finer choice of units could use it.
    Raises InputError for a budget out of reach, NothingToPrune for one that the dense model meets.
    """
    if not any(counts(0.0).values()) and budget.is_met(*ruler(counts(0.0))):
        raise NothingToPrune(f"budget {budget} is met by the dense model as it is; ask for less")
    if not budget.is_met(*ruler(counts(_MOST))):
        value, dense = ruler(counts(_MOST))
        shown = f"{value / dense:.3f} of the dense model" if budget.relative else f"{value:.6g}"
        raise InputError(
            f"budget {budget} is out of reach: {budget.quantity} gets to {shown} at most; see graph.frozen, "
            "max_ratio and the allocation"
        )
    bound = {name for names in equal for name in names}
    sets = [*equal, *((name,) for name in counts(0.0) if name not in bound)]

    def unused(chosen: Mapping[str, int]) -> float:
        return budget.unused(*ruler(chosen))

    chosen, mild = _mildest(budget, counts, ruler, sets, steps, close)
    found = [chosen]
    for names in sets if unused(chosen) > close else ():
        spared = {name: mild[name] for name in names if chosen.get(name, 0) > mild.get(name, 0)}
        if spared and budget.is_met(*ruler({**counts(_MOST), **spared})):  # a dear unit: let others make up for it
            found.append(_mildest(budget, partial(_sparing, counts, spared), ruler, sets, steps, close)[0])
    return min(found, key=unused)


def _sparing(counts: Callable[[float], dict[str, int]], spared: Mapping[str, int], fraction: float) -> dict[str, int]:
    return {**counts(fraction), **spared}


def _mildest(
    budget: Budget,
    counts: Callable[[float], dict[str, int]],
    ruler: Ruler,
    sets: Sequence[tuple[str, ...]],
    steps: Mapping[str, int],
    close: float,
) -> tuple[dict[str, int], dict[str, int]]:
    """Return counts that meet the budget, and those of the mildest fraction that does not."""
    low, high = 0.0, _MOST
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if budget.is_met(*ruler(counts(middle))) else (middle, high)
    mild, chosen = counts(low), counts(high)
    for names in sets:
        returned = {**chosen, **{name: min(chosen[name], mild[name]) for name in names if name in chosen}}
        if budget.is_met(*ruler(returned)):
            chosen = returned
    return _filled(budget, chosen, counts(0.0), ruler, sets, steps, close), mild


def _filled(
    budget: Budget,
    chosen: dict[str, int],
    least: Mapping[str, int],
    ruler: Ruler,
    sets: Sequence[tuple[str, ...]],
    steps: Mapping[str, int],
    close: float,
) -> dict[str, int]:
    """Give single steps back while too much of the budget is unused: dearest first, in turn, so that none gets many.

    One fraction for all targets is coarse where a unit is dear, a head of few or a member of a large equal set.
    """

    def returned(names: Sequence[str]) -> dict[str, int]:
        return {**chosen, **{n: max(least[n], chosen[n] - steps[n]) for n in names if n in chosen and n in steps}}

    def is_close() -> bool:
        return budget.unused(*ruler(chosen)) <= close

    if is_close():
        return chosen
    dearest = sorted(sets, key=lambda names: budget.unused(*ruler(returned(names))))
    before = None
    while chosen != before and not is_close():
        before = chosen
        for names in dearest:
            if not is_close() and budget.is_met(*ruler(returned(names))):
                chosen = returned(names)
    return chosen
