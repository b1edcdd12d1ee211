"""Line charts as inline SVG: no library, no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
LEFT, TOP, BOTTOM = 64, 20, 34
NUM_COLOURS = 8
_LABEL_GAP = 15.0


@dataclass(frozen=True)
class Series:
    """One line: its name, its points (y is None where unknown), its colour (None: grey, unnamed)."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    colour: int | None = 0


@dataclass(frozen=True)
class Band:
    """A stretch of the x axis with a name, such as a stage of the run."""

    start: float
    end: float
    name: str


@dataclass(frozen=True)
class Chart:
    """What to draw. `reference` is a horizontal dashed line with its name."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    show_x: Callable[[float], str]
    show_y: Callable[[float], str]
    bands: tuple[Band, ...] = ()
    reference: tuple[str, float] | None = None
    x_ticks: tuple[float, ...] | None = None
    y_floor: float | None = None
    height: int = 210
    whole_x: bool = False


@dataclass(frozen=True)
class _Frame:
    """The mapping from data to pixels."""

    x0: float
    x1: float
    y0: float
    y1: float
    height: int
    right: float

    def x(self, value: float) -> float:
        span = self.x1 - self.x0
        share = (value - self.x0) / span if span else 0.5
        return LEFT + share * (self.right - LEFT)

    def y(self, value: float) -> float:
        span = self.y1 - self.y0
        share = (value - self.y0) / span if span else 0.5
        return self.height - BOTTOM - share * (self.height - TOP - BOTTOM)


def draw(chart: Chart) -> str:
    """The chart as one `<svg>` element, every text escaped; empty where there is no point to draw."""
    points = [(x, y) for line in chart.series for x, y in line.points if y is not None]
    if not points:
        return ""
    frame = _frame(chart, points)
    named = [line for line in chart.series if line.colour is not None]
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {chart.height}" role="img" aria-label="{escape(chart.title)}">',
        *_bands(chart, frame),
        *_y_axis(chart, frame),
        *_x_axis(chart, frame),
        *_reference(chart, frame),
        *(_line(line, frame, chart) for line in chart.series if line.colour is None),
        *(_line(line, frame, chart) for line in named),
        *_names(named, frame),
        "</svg>",
    ]
    return "".join(parts)


def ticks(low: float, high: float, wanted: int = 4, *, whole: bool = False) -> list[float]:
    """Positions 1, 2 or 5 times a power of ten apart that lie in [low, high]; `whole`: integers only."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart to at least `gap`, in order, inside [low, high] where that is possible."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = dict.fromkeys(range(len(wanted)), 0.0)
    floor = low
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return [placed[index] for index in range(len(wanted))]


def _frame(chart: Chart, points: Sequence[tuple[float, float]]) -> _Frame:
    xs = [x for x, _ in points] + [edge for band in chart.bands for edge in (band.start, band.end)]
    ys = [y for _, y in points] + ([chart.reference[1]] if chart.reference else [])
    low, high = min(ys), max(ys)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 0.5
    floor = low - margin if chart.y_floor is None else min(chart.y_floor, low)
    return _Frame(min(xs), max(xs), floor, high + margin, chart.height, WIDTH - _name_room(chart))


def _name_room(chart: Chart) -> float:
    """Room right of the plot for the longest name; a character is about 7 units wide."""
    names = [_clip(line.name) for line in chart.series if line.colour is not None]
    return 40 + 7.0 * max([len(chart.x_label) + 2, *map(len, names)])


def _bands(chart: Chart, frame: _Frame) -> list[str]:
    found = []
    for number, band in enumerate(chart.bands):
        left, right = frame.x(band.start), frame.x(band.end)
        shade = "odd" if number % 2 else "even"
        found.append(
            f'<rect class="band {shade}" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{frame.height - TOP - BOTTOM}"/>'
        )
        if right - left > 7.0 * len(band.name):
            found.append(_text((left + right) / 2, TOP - 7, band.name, "middle", "band-name"))
    return found


def _y_axis(chart: Chart, frame: _Frame) -> list[str]:
    found = []
    for value in ticks(frame.y0, frame.y1):
        y = frame.y(value)
        found.append(f'<line class="grid" x1="{LEFT}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        found.append(_text(LEFT - 8, y + 4, chart.show_y(value), "end", "tick"))
    return found


def _x_axis(chart: Chart, frame: _Frame) -> list[str]:
    values = chart.x_ticks or ticks(frame.x0, frame.x1, 10, whole=chart.whole_x)
    bottom = frame.height - BOTTOM
    found = [f'<line class="axis" x1="{LEFT}" x2="{frame.right:.1f}" y1="{bottom}" y2="{bottom}"/>']
    found += [_text(frame.x(value), bottom + 16, chart.show_x(value), "middle", "tick") for value in values]
    found.append(_text(frame.right + 24, bottom + 16, chart.x_label, "start", "label"))
    return found


def _reference(chart: Chart, frame: _Frame) -> list[str]:
    if chart.reference is None:
        return []
    name, value = chart.reference
    y = frame.y(value)
    line = f'<line class="reference" x1="{LEFT}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return [line, _text(LEFT + 4, y - 4, name, "start", "tick")]


def _line(line: Series, frame: _Frame, chart: Chart) -> str:
    colour = "other" if line.colour is None else f"c{line.colour % NUM_COLOURS}"
    known = [(x, y) for x, y in line.points if y is not None]
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in known)
    drawn = f'<polyline points="{path}"/>' if len(known) > 1 else ""
    dots = "".join(
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.6">'
        f"<title>{escape(line.name)}: {escape(chart.show_x(x))}, {escape(chart.show_y(y))}</title></circle>"
        for x, y in known
    )
    return f'<g class="line {colour}">{drawn}{dots}</g>'


def _names(named: Sequence[Series], frame: _Frame) -> list[str]:
    ends = [[frame.y(y) for _, y in line.points if y is not None][-1:] for line in named]
    shown = [(line, end[0]) for line, end in zip(named, ends, strict=True) if end]
    places = spread([end for _, end in shown], _LABEL_GAP, TOP + 6, frame.height - BOTTOM - 2)
    right = frame.right
    found = []
    for (line, end), place in zip(shown, places, strict=True):
        colour = f"c{(line.colour or 0) % NUM_COLOURS}"
        found.append(
            f'<path class="leader {colour}" d="M{right + 3:.1f} {end:.1f} L{right + 14:.1f} {place:.1f}"/>'
            + _text(right + 18, place + 4, _clip(line.name), "start", f"name {colour}")
        )
    return found


def _clip(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-(limit // 2) :]}"


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
