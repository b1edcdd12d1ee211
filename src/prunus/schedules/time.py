"""Points in time with units: `2ep`, `300 steps`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from prunus.errors import InputError

Unit = Literal["epoch", "step"]

_FORM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)
_UNITS: dict[str, Unit] = {
    "ep": "epoch",
    "epoch": "epoch",
    "epochs": "epoch",
    "st": "step",
    "step": "step",
    "steps": "step",
}


@dataclass(frozen=True)
class Time:
    """So many epochs or optimizer steps since the scheduler was built; epochs may be fractions such as 0.5.

    Epoch 2 means: when two epochs are over and the third begins.
    """

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not math.isfinite(self.value) or self.value < 0:
            raise InputError(f"time is {self.value!r}; a number of at least 0 is wanted")
        if self.unit not in ("epoch", "step"):
            raise InputError(f"unit of time is {self.unit!r}; 'epoch' or 'step' is wanted")
        if self.unit == "step" and not self.is_whole:
            raise InputError(f"time is {self.value} steps; whole steps are wanted")

    def __str__(self) -> str:
        return f"{self.value:g}{'ep' if self.unit == 'epoch' else 'st'}"

    @property
    def is_whole(self) -> bool:
        """Whether this is a whole number of its unit."""
        return float(self.value).is_integer()

    @classmethod
    def parse(cls, spec: Any, name: str = "time") -> Time:
        """Read a time.

        spec: `2ep`, `2 epochs`, `300st`, `300 steps`, or a whole number, which counts epochs.
        name: what the time is called where the user wrote it.
        Raises InputError, with the right spelling, for everything else.
        """
        if isinstance(spec, Time):
            return spec
        if isinstance(spec, int) and not isinstance(spec, bool) and spec >= 0:
            return cls(spec, "epoch")
        match = _FORM.fullmatch(spec) if isinstance(spec, str) else None
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise InputError(f"{name} is {spec!r}; a time such as '2ep', '300 steps' or 2 (epochs) is wanted")
        return cls(float(match[1]), unit)

    def in_steps(self, steps_per_epoch: int) -> Time:
        """Return the nearest whole number of steps."""
        return Time(round(self.value * steps_per_epoch), "step") if self.unit == "epoch" else self
