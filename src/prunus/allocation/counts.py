"""Exact counts: from a ratio to a number of units, with floors and rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

from prunus.errors import InputError


def check_ratio(name: str, value: object) -> float:
    """Return a sparsity ratio as a float; 0 <= ratio < 1.

    name: what the ratio is called where the user wrote it.
    Raises InputError for 1.0, -0.1, "40", 40, "40%", nan, True and whatever else is no ratio, with the
    right spelling.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{name} is {value!r}; a number from 0 up to, not including, 1 is wanted{_hint(value)}")
    if not 0 <= value < 1:
        reason = "would remove everything" if value == 1 else "is no ratio"
        raise InputError(f"{name} is {value!r}, which {reason}; choose 0 <= {name} < 1{_hint(value)}")
    return float(value)


def num_pruned(fraction: float, total: int) -> int:
    """Return floor(fraction · total + 1/2), computed on the decimal that the user wrote.

    0.145 of 100 is 14.5 and gives 15, though the float product is 14.499999999999998.
    """
    exact = Decimal(repr(float(fraction))) * total
    return int(exact.to_integral_value(ROUND_HALF_UP))


def num_kept(max_ratio: float, total: int) -> int:
    """Return how many of `total` units stay where at most max_ratio of them may go, on the decimal as written.

    Raises InputError for what is not in (0, 1].
    """
    if isinstance(max_ratio, bool) or not isinstance(max_ratio, (int, float)) or not 0 < max_ratio <= 1:
        raise InputError(f"max_ratio is {max_ratio!r}; a number above 0 and up to 1 is wanted{_hint(max_ratio)}")
    return total - int((Decimal(repr(float(max_ratio))) * total).to_integral_value(ROUND_FLOOR))


def with_floors(pruned: int, size: int, *, minimum: int, round_to: int) -> int:
    """Return how many units may be pruned once floors and rounding are met.

    minimum: units that must stay; round_to: the kept number is rounded up to a multiple of it, never above
    `size`. Rounding up is free on hardware that works in steps, so fewer units are pruned than asked, never
    more.
    """
    kept = max(size - pruned, min(minimum, size))
    return size - min(size, -(-kept // round_to) * round_to)


def levelled(counts: Mapping[str, int], equal: Sequence[Sequence[str]]) -> dict[str, int]:
    """Give targets that must lose equally many units (`Graph.equal`) the smallest of their counts.

    One that is not pruned at all holds the others back.
    """
    out = dict(counts)
    for names in equal:
        least = min(out.get(name, 0) for name in names)
        out.update({name: least for name in names if name in out})
    return out


def _hint(value: object) -> str:
    """Name the ratio that was probably meant: 40, "40" and "40%" mean 0.4."""
    if isinstance(value, bool):
        return ""
    try:
        number = float(str(value).strip().rstrip("%"))
    except ValueError:
        return ""
    meant = number / 100 if 1 < number < 100 or "%" in str(value) else number
    return f" (did you mean {meant:g}?)" if math.isfinite(meant) and 0 <= meant < 1 and meant != value else ""
