"""What hangs together, drawn: layers from top to bottom, each group as a line through the layers that it cuts.

One self-contained SVG: text stays text, colours follow light and dark, each line and layer says more as a tooltip.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

from prunus.axes import Graph, units_of
from prunus.report.svg import NUM_COLOURS
from prunus.report.tracks import Dim, Picture, Row, Track, arrange
from prunus.report.write import write_whole

ROW, THIN = 22.0, 9.0
LANE, TOP, EDGE = 18.0, 76.0, 16.0
CHARACTER = 7.25  # width of one at 12 px in the fonts below
_LIGHT = ("#7b2d5e", "#0b6e99", "#c2570c", "#2f7d32", "#6a4fc3", "#b3261e", "#8a6d00", "#00796b")
_DARK = ("#e79ac5", "#6cc5ee", "#ffae70", "#86d68a", "#b8a5ff", "#ff9b92", "#e6cc5c", "#62d2c3")


@dataclass(frozen=True)
class _Columns:
    """Where the columns begin: shapes, lanes, labels; names begin at the edge."""

    shapes: float
    lanes: float
    labels: float

    @classmethod
    def of(cls, laid: Picture) -> _Columns:
        shapes = EDGE + CHARACTER * max((len(row.name) for row in laid.rows if row.dims), default=0) + 18
        lanes = shapes + max((_shape_width(row.dims) for row in laid.rows), default=0.0) + 26
        return cls(shapes, lanes, lanes + LANE * (1 + max((track.lane for track in laid.tracks), default=-1)) + 12)

    def x(self, track: Track) -> float:
        return self.lanes + LANE * track.lane + LANE / 2


def picture(graph: Graph) -> str:
    """Return an SVG of a graph's groups.

    Rows are weights in the order in which they first run, with their shapes; thin rows are norms and scales. A line is
    a group: a disc where a layer makes its units, a ring where it reads them, a bar where it scales them. Grey sizes
    are kept whole, for the reason with that number.
    """
    laid = arrange(graph)
    tops, at = _tops(laid.rows), _Columns.of(laid)
    labels = [_labels(graph, [t for t in laid.tracks if t.first == i], row) for i, row in enumerate(laid.rows)]
    width = max(600.0, at.labels + CHARACTER * max(map(_length, labels), default=0) + EDGE)
    notes = [line for number, reason in enumerate(laid.notes, 1) for line in _note(number, reason, width)]
    height = tops[-1] + 26 + 16 * len(notes)
    parts = [
        *_heading(graph),
        *_blocks(laid.rows, tops, width),
        *(_guide(row, laid, top, at) for row, top in zip(laid.rows, tops, strict=False)),
        *(_line(track, tops, laid.rows, at) for track in laid.tracks),
        *(mark for row, top in zip(laid.rows, tops, strict=False) for mark in _marks(row, laid, top, at)),
        *(_name_and_shape(row, top, laid, at) for row, top in zip(laid.rows, tops, strict=False) if row.dims),
        *(_words(at.labels, _middle(laid.rows[i], tops[i]) + 4, words) for i, words in enumerate(labels) if words),
        *(_words(EDGE, tops[-1] + 26 + 16 * i, line, "soft") for i, line in enumerate(notes)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="{len(graph.groups)} groups: what is removed together">'
        f'<style>{_style()}</style><rect class="paper" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def write_picture(graph: Graph, path: Path) -> Path:
    """Write `picture` to a file, whole or not at all; raises FileError where it cannot be written."""
    write_whole(path, picture(graph))
    return path


def _style() -> str:
    colours = [" ".join(f".c{i}{{color:{shades[i]}}}" for i in range(NUM_COLOURS)) for shades in (_LIGHT, _DARK)]
    return f"""
text {{ font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328; white-space: pre }}
.head {{ font: 600 16px system-ui, "DejaVu Sans", sans-serif }}
[class^=c] {{ fill: currentColor; stroke: currentColor }}
tspan {{ stroke: none !important }}
.track {{ fill: none; stroke-width: 6; stroke-linecap: round; stroke-opacity: .38 }}
.ring {{ stroke-width: 2.4 }} .paper, .ring {{ fill: #fbfaf8 }} .block {{ fill: #f1eee8 }} .guide {{ stroke: #d5d1c9 }}
.soft {{ fill: #5d6670 }} .faint {{ fill: #8a919a }} {colours[0]}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e7e5e1 }} .paper, .ring {{ fill: #16171a }} .block {{ fill: #1f2125 }} .guide {{ stroke: #3a3d44 }}
.soft {{ fill: #a2a8b0 }} .faint {{ fill: #7d848d }} {colours[1]}
}}
"""


def _tops(rows: Sequence[Row]) -> list[float]:
    """Return where each row begins, and where the last one ends."""
    tops = [TOP]
    for row in rows:
        tops.append(tops[-1] + (ROW if row.dims else THIN))
    return tops


def _middle(row: Row, top: float) -> float:
    return top + (ROW if row.dims else THIN) / 2


def _heading(graph: Graph) -> list[str]:
    size = graph.size()
    title = f"{type(graph.model).__name__}: {len(graph.groups)} groups, {size.params:,} parameters"
    legend = (
        '<g class="c0"><circle cx="22" cy="52" r="5"/><circle class="ring" cx="148" cy="52" r="4.4"/>'
        '<rect x="268" y="50" width="12" height="4" rx="1.5"/></g>'
        '<text class="soft" x="34" y="56">makes units</text><text class="soft" x="160" y="56">reads them</text>'
        '<text class="soft" x="288" y="56">scales them</text>'
        '<text class="soft" x="400" y="56">grey sizes are kept whole</text>'
    )
    return [f'<text class="head" x="{EDGE}" y="30">{escape(title)}</text>', legend]


def _blocks(rows: Sequence[Row], tops: Sequence[float], width: float) -> list[str]:
    """Shade every second run of layers of one block."""
    found, start, shaded = [], 0, False
    for i in range(1, len(rows) + 1):
        if i == len(rows) or _block(rows[i].name) != _block(rows[start].name):
            if shaded:
                found.append(
                    f'<rect class="block" y="{tops[start]:.1f}" width="{width:.0f}" '
                    f'height="{tops[i] - tops[start]:.1f}"/>'
                )
            start, shaded = i, not shaded
    return found


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _block(name: str) -> str:
    """Return the path down to its first number (`layer2.0` of `layer2.0.downsample.0`), or else the parent's."""
    parents = _parent(name).split(".")
    numbered = next((i for i, part in enumerate(parents) if re.search(r"(^|_)\d+$", part)), len(parents) - 1)
    return ".".join(parents[: numbered + 1])


def _shape_width(dims: Sequence[Dim]) -> float:
    return CHARACTER * (
        sum(len(str(d.size)) + max(0, len(d.groups) - 1) + bool(d.note) for d in dims) + 3 * max(0, len(dims) - 1)
    )


def _guide(row: Row, laid: Picture, top: float, at: _Columns) -> str:
    """A hairline from a layer's shape to the furthest line that it belongs to."""
    if not row.roles or not row.dims:
        return ""
    end, y = max(at.x(laid.tracks[number]) for number in row.roles), _middle(row, top)
    start = at.shapes + _shape_width(row.dims) + 6
    return f'<path class="guide" d="M{start:.1f} {y:.1f} H{end:.1f}"/>'


def _line(track: Track, tops: Sequence[float], rows: Sequence[Row], at: _Columns) -> str:
    x = at.x(track)
    ends = [_middle(rows[i], tops[i]) for i in (track.first, track.last)]
    members = "\n".join(f"{m.param} dim {m.dim}: {m.role}" for m in track.group.members)
    words = f"{track.group.name}: {track.group.size} {units_of(track.group)}\n{members}"
    return (
        f'<g class="c{track.colour}"><title>{escape(words)}</title>'
        f'<path class="track" d="M{x:.1f} {ends[0]:.1f} V{ends[1] + 0.01:.2f}"/></g>'
    )


def _marks(row: Row, laid: Picture, top: float, at: _Columns) -> list[str]:
    """Disc, ring, both, or bar on each line through a row."""
    found = []
    for number, roles in row.roles.items():
        track = laid.tracks[number]
        x, y = at.x(track), _middle(row, top)
        shape = f'<rect x="{x - 6:.1f}" y="{y - 2:.1f}" width="12" height="4" rx="1.5"/>'
        if "in" in roles:
            shape = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{6 if "out" in roles else 4.4}"/>'
        if "out" in roles:
            radius = 3 if "in" in roles else 5
            shape = f'{shape if "in" in roles else ""}<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
        words = f"{', '.join(row.tensors)}: {' and '.join(sorted(roles))}"
        found.append(f'<g class="c{track.colour}"><title>{escape(words)}</title>{shape}</g>')
    return found


def _name_and_shape(row: Row, top: float, laid: Picture, at: _Columns) -> str:
    """The name of a layer, its parents faint, and its shape in the colours of its groups."""
    y, parent = _middle(row, top) + 4, _parent(row.name)
    head = f'<tspan class="faint">{escape(parent)}.</tspan>' if parent else ""
    sizes = '<tspan class="faint"> × </tspan>'.join(_size(dim, laid) for dim in row.dims)
    return _words(EDGE, y, head + escape(row.name.rpartition(".")[2])) + _words(at.shapes, y, sizes)


def _words(x: float, y: float, markup: str, kind: str = "plain") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{markup}</text>'


def _length(markup: str) -> int:
    """Return how many characters a reader sees."""
    return len(unescape(re.sub("<[^>]*>", "", markup)))


def _size(dim: Dim, laid: Picture) -> str:
    numbers = [number for number in dim.groups if number is not None]
    if numbers:
        words = [str(dim.size), *("•" for _ in numbers[1:])]
        return "".join(
            f'<tspan class="c{laid.tracks[number].colour}" font-weight="600">{word}</tspan>'
            for number, word in zip(numbers, words, strict=True)
        )
    # an empty character takes the raised note down again; `baseline-shift` is not known everywhere
    note = f'<tspan dy="-4" font-size="9">{dim.note}</tspan><tspan dy="4">&#8203;</tspan>' if dim.note else ""
    return f'<tspan class="faint">{dim.size}{note}</tspan>'


def _labels(graph: Graph, tracks: Sequence[Track], row: Row) -> str:
    """What begins in a row, each in its colour: units, and what one of them takes along."""
    found = []
    for track in tracks:
        group = track.group
        name = "" if group.name == row.name else f"{group.name}: "
        words = f'<tspan class="c{track.colour}">{escape(name)}{group.size} {units_of(group)}</tspan>'
        found.append(f'{words}<tspan class="faint">, {graph.unit_cost(group.name).params:,} parameters each</tspan>')
    return "   ".join(found)


def _note(number: int, reason: str, width: float) -> list[str]:
    """A reason with its number, in lines that fit."""
    room = int((width - 2 * EDGE) / CHARACTER)
    lines, line = list[str](), f"{number:>2}  "
    for word in reason.split():
        if len(line) + len(word) > room:
            lines, line = [*lines, line], "    "
        line += f"{word} "
    return [escape(text.rstrip()) for text in (*lines, line)]
