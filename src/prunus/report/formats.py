"""Numbers as a person reads them: three significant digits, a unit, a sign where it is a difference."""

from __future__ import annotations

import math

MISSING = "not measured"
_COUNT_STEPS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))
_BYTE_STEPS = ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB"))
_JOULE_STEPS = ((1.0, " J"), (1e-3, " mJ"), (1e-6, " µJ"), (1e-9, " nJ"))


def significant(value: float, digits: int = 3) -> str:
    """Significant digits without an exponent: 1234.5 -> `1234`, 12.345 -> `12.3`, 0.012345 -> `0.0123`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    # Round first: 9.996 has one digit before the point, but its rounded value 10.0 has two.
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded if decimals else value:.{decimals}f}"


def count(value: float | None) -> str:
    """A number of things: 431080 -> `431 k`, 912 -> `912`."""
    if value is None:
        return MISSING
    return _scaled(value, _COUNT_STEPS) or f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes with decimal prefixes: 45100 -> `45.1 kB`."""
    if value is None:
        return MISSING
    return _scaled(value, _BYTE_STEPS) or f"{value:.0f} B"


def joules(value: float | None) -> str:
    """Energy: 1.5e-5 -> `15.0 µJ`."""
    if value is None:
        return MISSING
    return _scaled(value, _JOULE_STEPS) or f"{value * 1e12:.0f} pJ"


def milliseconds(value: float | None) -> str:
    """Time: 1.234 -> `1.23 ms`; below a hundredth of a millisecond in microseconds."""
    if value is None:
        return MISSING
    return f"{significant(value)} ms" if value >= 0.01 else f"{significant(value * 1e3)} µs"


def seconds(value: float | None) -> str:
    """Wall clock: 93 -> `1 min 33 s`."""
    if value is None:
        return MISSING
    if value < 60:
        return f"{significant(value)} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ratio(value: float | None) -> str:
    """How many times less: 3.4 -> `3.40×`."""
    return MISSING if value is None else f"{significant(value)}×"


def percent(fraction: float | None, decimals: int = 2) -> str:
    """A fraction as percent: 0.9012 -> `90.12 %`."""
    return MISSING if fraction is None else f"{100 * fraction:.{decimals}f} %"


def points(fraction: float | None, decimals: int = 2) -> str:
    """A signed difference of fractions: -0.0031 -> `−0.31 points`, with a true minus sign."""
    if fraction is None:
        return MISSING
    text = f"{abs(100 * fraction):.{decimals}f}"
    return f"{_sign(fraction, text)}{text} points"


def signed(value: float | None) -> str:
    """A signed difference of plain numbers, two significant digits: 0.0058 -> `+0.0058`."""
    if value is None:
        return MISSING
    text = significant(abs(value), 2)
    return f"{_sign(value, text)}{text}"


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str | None:
    # 999 700 is 1.00 M, not 1000 k: the step is chosen by the rounded value.
    rounded = float(f"{value:.2e}")
    for step, unit in steps:
        if abs(rounded) >= step:
            return f"{significant(value / step)}{unit}"
    return None


def _sign(value: float, text: str) -> str:
    if float(text) == 0:
        return "±"
    return "−" if value < 0 else "+"
