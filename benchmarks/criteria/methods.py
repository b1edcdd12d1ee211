"""The methods: every criterion that is registered, alone and with a solver, and solvers that choose themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prunus.criteria import criterion_names
from prunus.granularity import NM, granularity

Request = Mapping[str, Any]

COLUMNS: Mapping[str, Mapping[str, Request]] = {
    "element": {f"{ratio:.2f}": {"granularity": "element", "ratio": ratio} for ratio in (0.5, 0.7, 0.8, 0.9, 0.95)},
    "n:m": {pattern: {"granularity": pattern} for pattern in ("4:8", "2:4", "1:4")},
    "filter": {f"{ratio:.2f}": {"granularity": "filter", "ratio": ratio} for ratio in (0.1, 0.2, 0.3, 0.5, 0.7)},
}
"""What is asked of `prunus.plan`, by granularity and column of its table."""

SPELLINGS = {"lp": "lp(3)", "random": "random(seed={seed})"}
"""How a criterion is written where its name does not suffice."""

ALIASES = {"magnitude"}
"""Other words for criteria that are there already."""

NORMS = {"l2", "linf", "lp"}
"""Of a single weight they are all |w|, as l1 is: left out where single weights go."""

MENDED = ("l1", "taylor", "wanda")
CHOOSERS = ("sparsegpt", "alps")


@dataclass(frozen=True)
class Method:
    """criterion: its name in the registry, or `solver` where the solver chooses. solver: mends what is left."""

    criterion: str
    solver: str | None = None

    @property
    def name(self) -> str:
        """What the tables call it."""
        if self.criterion == "solver":
            return f"{self.solver} (chooses)"
        return f"{self.criterion} + {self.solver}" if self.solver else self.criterion

    def spelling(self, seed: int) -> str:
        """Return what `prunus.criteria.criterion` reads."""
        return SPELLINGS.get(self.criterion, self.criterion).format(seed=seed)


def methods(kind: str, *, solvers: bool = True) -> Iterator[Method]:
    """Yield the methods for a granularity, criteria first."""
    for name in criterion_names():
        if name not in ALIASES and not (name in NORMS and kind != "filter"):
            yield Method(name)
    if solvers:
        yield from (Method(name, "lstsq") for name in MENDED if name in criterion_names())
        if kind != "filter":
            yield from (Method("solver", name) for name in CHOOSERS)


def longest_group(kind: str) -> int:
    """Return how many inputs a weight needs to take part, so that it does in every column alike."""
    kinds = [granularity(request["granularity"]) for request in COLUMNS[kind].values()]
    return max([each.m for each in kinds if isinstance(each, NM)], default=0)
