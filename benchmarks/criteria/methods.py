"""The methods: every criterion that is registered, alone and with a solver, and solvers that choose themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunus.criteria import criterion_names

Request = Mapping[str, Any]

PATTERNS = ("4:8", "2:4", "1:4")
KINDS = ("element", "n:m", "filter")

SPELLINGS = {"lp": "lp(3)", "random": "random(seed={seed})"}
"""How a criterion is written where its name does not suffice."""

ALIASES = {"magnitude"}
"""Other words for criteria that are there already."""

NORMS = {"l2", "linf", "lp"}
"""Of a single weight they are all |w|, as l1 is: left out where single weights go."""

MENDED = ("l1", "random", "taylor", "wanda")
CHOOSERS: Mapping[str, Sequence[tuple[str, str]]] = {
    "element": (("solver", "sparsegpt"), ("solver", "alps")),
    "n:m": (("solver", "sparsegpt"), ("solver", "alps")),
    "filter": (("reconstruction", "lstsq"), ("thinet", "lstsq")),
}
"""Criterion and solver of the methods that choose layer by layer, on what the layers before, mended, hand on."""


@dataclass(frozen=True)
class Method:
    """criterion: its name in the registry, or what `CHOOSERS` says. solver: mends what is left."""

    criterion: str
    solver: str | None = None
    chooses: bool = False

    @property
    def name(self) -> str:
        """What the tables call it."""
        words = [self.criterion] if self.criterion != "solver" else []
        return " + ".join([*words, *([self.solver] if self.solver else [])]) + (" (chooses)" if self.chooses else "")

    def spelling(self, seed: int) -> str:
        """Return what `prunus.criteria.criterion` reads."""
        return SPELLINGS.get(self.criterion, self.criterion).format(seed=seed)


def methods(kind: str, *, solvers: bool = True) -> Iterator[Method]:
    """Yield the methods for a granularity, criteria first."""
    for name in criterion_names():
        if name not in ALIASES and not (name in NORMS and kind != "filter"):
            yield Method(name)
    if solvers:
        yield from (Method(name, "lstsq") for name in MENDED)
        yield from (Method(name, solver, chooses=True) for name, solver in CHOOSERS[kind])


def columns(kind: str, ratios: Mapping[str, Sequence[float]]) -> dict[str, Request]:
    """Return what is asked of `prunus.plan` in each column of a granularity's table; ratios: by granularity."""
    if kind == "n:m":
        return {pattern: {"granularity": pattern} for pattern in PATTERNS}
    return {f"{ratio:.2f}": {"granularity": kind, "ratio": ratio} for ratio in ratios[kind]}


def longest_group(kind: str) -> int:
    """Return how many inputs a weight needs to take part, so that it does in every column alike."""
    return max(int(pattern.split(":")[1]) for pattern in PATTERNS) if kind == "n:m" else 0
