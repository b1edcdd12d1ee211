"""What a solver is, what it returns, and the names under which solvers are known."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from prunus.errors import InputError
from prunus.granularity.checks import check_size
from prunus.granularity.registry import Registry
from prunus.solvers.pattern import Pattern


@dataclass(frozen=True)
class Solved:
    """A layer's new weights.

    weight: (R, C), the dtype of the weight that was given, zero where keep is False.
    keep: (R, C) bool.
    error: ‖X(W'−W)ᵀ‖² / ‖XWᵀ‖² of the returned weights, from G in float64; 0 is perfect, 1 as bad as zeros.
    """

    weight: Tensor
    keep: Tensor
    error: float


@runtime_checkable
class Solver(Protocol):
    """Choose the mask and mend what is left, or only mend; a pure function of W and G = XᵀX."""

    @property
    def name(self) -> str:
        """The spelling that `solver()` reads back."""

    @property
    def chooses(self) -> bool:
        """Whether it can choose a mask, or only refit a given one."""

    def solve(
        self,
        weight: Tensor,
        gram: Tensor,
        *,
        keep: Tensor | None = None,
        density: float | None = None,
        pattern: Pattern | None = None,
    ) -> Solved:
        """Return weights whose outputs differ least, in the sense of G, from those of `weight`.

        weight: (R, C), any float dtype; gram: (C, C), float32 or float64, the sum (never the mean) of x xᵀ.
        keep: (R, C) bool. Alone it is the mask, and only what it keeps is refitted; with density or pattern
            it says where weights are left: what it prunes stays pruned.
        density: round(density·R·C) weights are kept in all.
        pattern: n of every m consecutive columns are kept.
        Raises InputError for none of the three, for density with pattern, and for shapes that disagree.
        """


KNOWN: Registry[Solver] = Registry("solver", "prunus.solvers")
register = KNOWN.register
solver_names = KNOWN.names


def solver(spec: str | Solver) -> Solver:
    """Read a solver by its name.

    spec: `lstsq`, `admm`, `admm(gradual=yes)`, `sparsegpt`, `sparsegpt(refit=lstsq)`, `obs`, `alps`, `swaps`,
        the name of an entry point of `prunus.solvers`, or an object with `name`, `chooses` and `solve`.
    Raises NameNotFound for an unknown name, InputError for wrong arguments or an object that is no solver.
    """
    return KNOWN.given(spec, Solver, "a name such as 'alps' or an object with name, chooses and solve")  # type: ignore[type-abstract]


def spelled(name: str, settings: Any) -> str:
    """Write a solver's settings as `name(key=value)`, leaving out what is at its default."""
    given = {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.default is MISSING or getattr(settings, field.name) != field.default
    }
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})" if given else name


def check_counts(name: str, **counts: object) -> None:
    """Raise InputError unless every setting is a whole number of at least 1."""
    for key, value in counts.items():
        check_size(f"{name}: {key}", value)


def check_numbers(name: str, *, least: float = 0, **numbers: object) -> None:
    """Raise InputError unless every setting is a finite number of at least `least`."""
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
            raise InputError(f"{name}: {key} is {value!r}; a finite number of at least {least} is wanted")
