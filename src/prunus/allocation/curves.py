"""Ratios from a sensitivity analysis: cut at a bearable drop, or at the drop at which the total is what is asked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prunus.allocation.base import ScoredTarget
from prunus.allocation.counts import num_pruned
from prunus.allocation.patterns import matched
from prunus.allocation.sharing import settled
from prunus.errors import FileError, InputError
from prunus.quality import Mode, sign_of


@dataclass(frozen=True)
class FromCurves:
    """Prune each target as far as its own curve allows; a target without one is left alone.

    levels: sparsities, ascending. drops: pattern over target names to the loss of quality at each level.
    max_drop: the loss that every target may cause; None finds the one at which the total is the fraction asked for.
        More than the last level of each is taken in step from what is left of all.
    """

    levels: Sequence[float]
    drops: Mapping[str, Sequence[float]]
    max_drop: float | None = None
    name: ClassVar[str] = "curves"

    def __post_init__(self) -> None:
        if not self.drops or not self.levels:
            raise InputError("curves are empty; save those of an analysis with at least one level and target")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise InputError(f"curves.max_drop is {self.max_drop!r}; a number of at least 0 is wanted")

    @property
    def uses_progress(self) -> bool:
        """Whether the ratios are given, so that a schedule only says how much of them is due."""
        return self.max_drop is not None

    @classmethod
    def read(cls, file: str | os.PathLike[str], max_drop: float | None = None, mode: Mode = "max") -> FromCurves:
        """Read what `Curves.to_dict` gave, saved as JSON.

        mode: `max` for accuracies, `min` for losses, whose drop is their rise.
        Raises FileError for another file, NameNotFound for another mode.
        """
        sign = sign_of(mode, "mode of curves")
        try:
            data: Any = json.loads(Path(file).read_text(encoding="utf-8"))
            dense, levels = float(data["dense"]), [float(level) for level in data["levels"]]
            drops = {str(t): [sign * (dense - float(v)) for v in values] for t, values in data["curves"].items()}
        except OSError as error:
            raise FileError(f"curves {file} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FileError(f"{file} holds no sensitivity curves; save json.dumps(curves.to_dict()) there") from None
        return cls(levels, drops, max_drop)

    def counts(self, targets: Mapping[str, ScoredTarget], fraction: float) -> dict[str, int]:
        """Return the units to prune per target; n:m targets keep their fixed number.

        Raises NameNotFound where a curve matches no target.
        """
        indices = matched(dict(zip(self.drops, range(len(self.drops)), strict=True)), targets)
        curves = {name: list(self.drops.values())[int(index)] for name, index in indices.items()}
        if self.max_drop is not None:
            ratios = {name: cut(self.levels, drops, self.max_drop) for name, drops in curves.items()}
            return {
                name: t.bounded(num_pruned(ratios.get(name, 0.0) * fraction, t.num_units))
                for name, t in targets.items()
            }
        worst = max((drop for drops in curves.values() for drop in drops if math.isfinite(drop)), default=0.0)
        most = max(worst, 0.0)

        def wished(level: float) -> dict[str, float]:
            """From nothing at -1 over what costs nothing at 0 to all that was analysed at 1, and all at 2."""
            ratios = {name: cut(self.levels, drops, min(1.0, max(0.0, level)) * most) for name, drops in curves.items()}
            grown = {name: ratio * (1 + min(level, 0)) for name, ratio in ratios.items()}
            return dict.fromkeys(targets, 0.0) | {n: r + (1 - r) * max(0.0, level - 1) for n, r in grown.items()}

        return settled(targets, fraction, wished, low=-1.0, high=2.0)


def cut(levels: Sequence[float], drops: Sequence[float], most: float) -> float:
    """Return where the piecewise linear drop, 0 at level 0, first exceeds `most`; the last level where it never does.

    levels: ascending. drops: one per level; what is not finite counts from the level before on.
    """
    before, fallen = 0.0, 0.0
    for level, drop in zip(levels, drops, strict=True):
        if not drop <= most:
            share = (most - fallen) / (drop - fallen) if math.isfinite(drop) else 0.0
            return before + share * (level - before)
        before, fallen = level, drop
    return before
