"""Everything that a search saw: one line per candidate, on disk before the next is begun; and its Pareto front."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prunus.axes import Graph
from prunus.errors import FileError, InputError
from prunus.journal import Journal
from prunus.plans import Plan
from prunus.quality import Mode, sign_of

FORMAT = "prunus-search/1"


@dataclass(frozen=True)
class Trial:
    """One candidate: what went, how good it was, what it cost.

    number: 0 for the dense model. counts: target -> units that go.
    metrics: what `evaluate` returned, the judged one first.
    value: the budget's quantity of what is left; share: as a share of the dense model's; is_met: whether the budget is.
    notes: what is kept of it, plain values: AMC's reward, NetAdapt's iteration; of which trial it was made, if of one.
    units: target -> positions of the units that go, where they do not follow from the counts and the dense weights.
    """

    number: int
    counts: Mapping[str, int]
    metrics: Mapping[str, float]
    value: float
    share: float
    is_met: bool
    notes: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, tuple[int, ...]] | None = None
    maker: Callable[[Trial, Graph | None], Plan] | None = field(default=None, repr=False, compare=False)

    @property
    def metric(self) -> float:
        """The judged metric."""
        return next(iter(self.metrics.values()))

    @property
    def is_beside(self) -> bool:
        """Whether it is not the method's own but made of another one."""
        return "made of" in self.notes

    def plan(self, graph: Graph | None = None) -> Plan:
        """Make the plan of this candidate, to apply and prove; on another trace of the same model where one is given.

        Raises NothingToPrune for the dense model.
        """
        if self.maker is None:
            raise InputError(f"trial {self.number} was read from a file; ask the search that wrote it for its plan")
        return self.maker(self, graph)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        row = {name: getattr(self, name) for name in ("number", "value", "share", "is_met")}
        row |= {"counts": dict(self.counts), "metrics": dict(self.metrics), "notes": dict(self.notes)}
        return row | ({} if self.units is None else {"units": {name: list(u) for name, u in self.units.items()}})

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Trial:
        """Read what `to_dict` returned."""
        units = row.get("units")
        fields = {name: row[name] for name in ("number", "counts", "metrics", "value", "share", "is_met", "notes")}
        return cls(**fields, units=None if units is None else {name: tuple(u) for name, u in units.items()})


def better(mode: Mode) -> Callable[[Trial], float]:
    """Return a function whose value is the higher, the better a trial is judged."""
    sign = sign_of(mode)
    return lambda trial: sign * trial.metric


def pareto(trials: Iterable[Trial], mode: Mode = "max") -> tuple[Trial, ...]:
    """Return the trials that no other beats in both metric and cost, the cheapest first; of equals the first seen."""
    rank = better(mode)
    ordered = sorted(trials, key=lambda trial: (trial.share, -rank(trial), trial.number))
    front: list[Trial] = []
    for trial in ordered:
        if not front or rank(trial) > rank(front[-1]):
            front.append(trial)
    return tuple(front)


class TrialStore:
    """Trials in memory, and on disk where a path is given.

    path: a journal; None keeps the trials in memory only. mark: the fingerprint of what is searched.
    Raises FileError as `prunus.journal.Journal` does.
    """

    def __init__(self, path: str | os.PathLike[str] | None, mark: str) -> None:
        self.path = None if path is None else Path(path)
        self.trials: list[Trial] = []
        if path is None:
            self._journal = None
            return
        of = "search (model, method, target, seed or settings)"
        self._journal = Journal(path, FORMAT, mark, holds="trials of a search", of=of)
        try:
            self.trials = [Trial.from_dict(record) for _, record in self._journal.news()]
        except (KeyError, TypeError, AttributeError):
            raise FileError(f"{self.path} has a line that is no trial; delete the file to start anew") from None

    def __len__(self) -> int:
        return len(self.trials)

    def add(self, trial: Trial) -> Trial:
        """Keep one trial; it is on disk when this returns."""
        assert trial.number == len(self.trials), "trials are numbered in order"
        if self._journal is not None:
            self._journal.append(trial.to_dict())
        self.trials.append(trial)
        return trial
