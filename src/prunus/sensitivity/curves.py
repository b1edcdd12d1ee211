"""What the analysis found: metric against sparsity for every target, and the ratios that a threshold cuts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from prunus.errors import InputError, NameNotFound


@dataclass(frozen=True)
class Curves:
    """Target × level → metrics.

    metric: the judged metric; granularity, criterion: their names; levels: sparsities, ascending.
    dense: metric to its value before pruning; values: metric to target to one value per level.
    approximate: target -> the levels whose evaluation was stopped early, by a confidence interval.
    """

    metric: str
    granularity: str
    criterion: str
    levels: tuple[float, ...]
    dense: Mapping[str, float]
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    approximate: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, tuple[float, ...]]:
        """The judged metric per target, one value per level."""
        return dict(self.values[self.metric])

    def ratios(
        self, max_drop: float, *, metric: str | None = None, mode: Literal["max", "min"] = "max"
    ) -> dict[str, float]:
        """Return per target the largest sparsity up to which the metric stays within `max_drop` of the
        dense one.

        max_drop: at least 0, absolute, in the metric's own unit: 0.01 is one point of an accuracy in [0, 1].
        metric: the judged one by default. mode: `max` for accuracies, `min` for losses, whose drop is their
        rise. Between two levels (and between the dense model and the first) the metric is taken to be
        linear. A curve that recovers after it fell too far is cut where it first fell; one that never does
        gives the highest level.
        """
        if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not max_drop >= 0:
            raise InputError(f"max_drop is {max_drop!r}; a number of at least 0 is wanted, in the metric's own unit")
        if mode not in ("max", "min"):
            raise NameNotFound.of("mode", str(mode), ("max", "min"))
        name = self._known(self.metric if metric is None else metric)
        sign = 1 if mode == "max" else -1
        dense = self.dense[name]
        return {
            target: _cut(self.levels, [sign * (dense - value) for value in values], max_drop)
            for target, values in self.values[name].items()
        }

    def plot(self, path: str | os.PathLike[str], *, metric: str | None = None) -> None:
        """Draw metric against sparsity, one line per target.

        path: ends in .svg, .png or .pdf.
        Raises InputError when matplotlib is not installed or the suffix is another, FileError when the file
        cannot be written.
        """
        from prunus.sensitivity.plot import draw  # matplotlib is an extra

        draw(self, path, self._known(self.metric if metric is None else metric))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the judged metric as `dense` and `curves`, the other metrics under `others`."""
        others = {name: {"dense": self.dense[name], "curves": _plain(self.values[name])} for name in self.values}
        judged = others.pop(self.metric)
        return {
            "metric": self.metric,
            "granularity": self.granularity,
            "criterion": self.criterion,
            "levels": list(self.levels),
            **judged,
            "others": others,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Curves:
        """Read what `to_dict` returned. Raises InputError when a key is missing."""
        try:
            every = {data["metric"]: data, **data.get("others", {})}
            return cls(
                metric=data["metric"],
                granularity=data["granularity"],
                criterion=data["criterion"],
                levels=tuple(data["levels"]),
                dense={name: part["dense"] for name, part in every.items()},
                values={name: _frozen(part["curves"]) for name, part in every.items()},
            )
        except KeyError as error:
            raise InputError(f"sensitivity curves lack the key {error}; read what Curves.to_dict returned") from None

    def __rich__(self) -> Table:
        title = f"{self.metric} by sparsity ({self.granularity}, {self.criterion})"
        table = Table("target", title=title)
        for level in (0.0, *self.levels):
            table.add_column(f"{level:.0%}" if round(level, 2) == level else f"{level:.1%}", justify="right")
        for target, values in self.table.items():
            table.add_row(target, *(f"{value:.4g}" for value in (self.dense[self.metric], *values)))
        return table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _known(self, metric: str) -> str:
        if metric not in self.values:
            raise NameNotFound.of("metric", metric, self.values)
        return metric


def _cut(levels: Sequence[float], drops: Sequence[float], most: float) -> float:
    """Return where the piecewise linear drop, 0 at level 0, first exceeds `most`."""
    before, fallen = 0.0, 0.0
    for level, drop in zip(levels, drops, strict=True):
        if not drop <= most:
            share = (most - fallen) / (drop - fallen) if math.isfinite(drop) else 0.0
            return before + share * (level - before)
        before, fallen = level, drop
    return before


def _plain(curves: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {target: list(values) for target, values in curves.items()}


def _frozen(curves: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {target: tuple(values) for target, values in curves.items()}
