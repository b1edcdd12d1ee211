"""What a method is given: knobs, a budget, a judge; and the book in which it writes what it tries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prunus.errors import FileError, InputError, TrainingError
from prunus.quality import Mode
from prunus.search.meter import Meter
from prunus.search.space import Choice, Counts, Knob, expanded
from prunus.search.trials import Trial, TrialStore
from prunus.sensitivity.naive import metrics_of
from prunus.training.checkpoint import load_checkpoint, save_checkpoint

Metrics = dict[str, float]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """What judging one candidate gave.

    units: target -> positions that go, where the method decides them on weights that have changed.
    weights: a state dict in the dense shapes, where candidates are trained.
    """

    metrics: Metrics
    units: Mapping[str, tuple[int, ...]] | None = None
    weights: Mapping[str, Any] | None = None


class Bench(Protocol):
    """Where NetAdapt trains candidates: each goes on from the outcome that was kept before."""

    def outcomes(self, before: Outcome | None, jobs: Sequence[tuple[int, Counts]]) -> Iterator[tuple[int, Outcome]]:
        """Judge candidates, given as (number, counts), after a short training each; yield (position, outcome)."""


@dataclass(frozen=True)
class Problem:
    """A search without its method; tests use toys in the places of models.

    judge: the metrics of the one-shot pruned model, by units that go per target.
    bench: trains candidates, for methods that do; None where candidates are judged as they are pruned.
    excess: by what share a whole candidate was measured above the budget, 0 where it keeps to it; None where the
        meter's figures are exact.
    """

    meter: Meter
    judge: Callable[[Counts], Metrics]
    mode: Mode = "max"
    bench: Bench | None = None
    excess: Callable[[Counts], float] | None = None

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """What is chosen."""
        return self.meter.knobs


@runtime_checkable
class Method(Protocol):
    """How a search walks."""

    @property
    def name(self) -> str:
        """Its word."""

    def run(self, problem: Problem, book: Book, seed: int) -> None:
        """Try candidates until done, or go on where the book ends."""


@dataclass
class Book:
    """The trials of one search, numbered; what is in the store already is not measured again.

    A candidate that was seen before takes over its metrics: one-shot pruning is deterministic.
    reward: what a candidate earns, noted with each, the dense model's too; None where the metric itself decides.
    kept: the trial that NetAdapt's last round kept. weights: its weights, where candidates were trained.
    """

    problem: Problem
    store: TrialStore
    progress: Progress | None = None
    reward: Callable[[Trial], float] | None = None
    kept: int | None = field(default=None, init=False)
    weights: Mapping[str, Any] | None = field(default=None, init=False)
    _next: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not self.store.trials:
            whole = self.problem.meter.whole
            self.store.add(self._trial(0, whole, self.problem.judge(expanded(self.problem.knobs, whole)), {}))
        self._seen = {_key(trial.counts): dict(trial.metrics) for trial in self.store.trials}

    @property
    def dense(self) -> Trial:
        """The dense model's."""
        return self.store.trials[0]

    @property
    def number(self) -> int:
        """The number of the next trial."""
        return self._next

    def go_on_at(self, number: int) -> None:
        """Say which trial of the method's own is the next, as its saved state has it.

        Raises FileError where the store does not reach so far.
        """
        own = [position for position, trial in enumerate(self.store.trials) if not trial.is_beside]
        if number > len(own):
            raise FileError(f"{self.store.path} lacks trials that its state file counts; delete both to start anew")
        self._next = [*own, len(self.store)][number]

    def stored(self, choice: Choice) -> Trial | None:
        """Return the next trial if it is known already, and take it as done.

        Raises FileError where the store holds another candidate in its place.
        """
        while self._next < len(self.store) and self.store.trials[self._next].is_beside:
            self._next += 1
        if self._next >= len(self.store):
            return None
        trial = self.store.trials[self._next]
        if _key(trial.counts) != _key(expanded(self.problem.knobs, choice)):
            raise FileError(
                f"{self.store.path} trial {self._next} is another candidate than the search comes to now; it was "
                "written on another machine or by another version: delete it to start anew"
            )
        self._next += 1
        return trial

    def measure(self, choice: Choice, total: int) -> Trial:
        """Judge a candidate as it is pruned, and write it down."""
        found = self.stored(choice)
        if found is None:
            counts = expanded(self.problem.knobs, choice)
            metrics = self._seen.get(_key(counts)) or self.problem.judge(counts)
            self._seen[_key(counts)] = metrics
            found = self.write(choice, metrics, {})
        self.tell(found, total)
        return found

    def beside(self, choice: Choice, of: Trial) -> Trial:
        """Judge a candidate that is not the method's own but made of one of its, or return what is known of it."""
        counts = expanded(self.problem.knobs, choice)
        known = (trial for trial in self.store.trials if _key(trial.counts) == _key(counts))
        found = next(known, None)
        if found is None:
            self._next = len(self.store)
            found = self.write(choice, self.problem.judge(counts), {"made of": of.number})
            self.tell(found, found.number)
        return found

    def write(
        self,
        choice: Choice,
        metrics: Metrics,
        notes: Mapping[str, Any],
        units: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Trial:
        """Write the next trial down."""
        trial = self.store.add(self._trial(self._next, choice, metrics, notes, units))
        self._next += 1
        return trial

    def tell(self, trial: Trial, total: int) -> None:
        """Report progress."""
        if self.progress is not None:
            name, value = next(iter(trial.metrics.items()))
            note = f"{name} {value:.4g} at {trial.share:.3f} of the {self.problem.meter.budget.quantity}"
            self.progress(trial.number, max(total, trial.number), note)

    def _trial(
        self,
        number: int,
        choice: Sequence[int],
        metrics: Metrics,
        notes: Mapping[str, Any],
        units: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Trial:
        meter = self.problem.meter
        counts = expanded(meter.knobs, choice)
        figures = (meter.value(choice), meter.share(choice), meter.is_met(choice))
        trial = Trial(number, counts, metrics, *figures, notes, units)
        return trial if self.reward is None else replace(trial, notes={**notes, "reward": self.reward(trial)})


def _key(counts: Counts) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items()))


def read_metrics(result: object) -> Metrics:
    """Read what the user's `evaluate` returned; raises TrainingError unless it is a finite number or several."""
    try:
        metrics = metrics_of(result)
    except TrainingError as error:
        raise TrainingError(f"evaluate {error}") from None
    if not all(math.isfinite(value) for value in metrics.values()):
        raise TrainingError(f"evaluate returned {metrics}; a search ranks finite numbers only")
    return metrics


@dataclass(frozen=True)
class StateFile:
    """A method's own state, replaced whole after every step; nothing is kept where there is no path."""

    path: Path | None

    @classmethod
    def beside(cls, store: TrialStore) -> StateFile:
        """The file that belongs to a store."""
        return cls(None if store.path is None else store.path.with_name(f"{store.path.name}.state"))

    def load(self) -> Any:
        """Return what was saved last, or None."""
        return load_checkpoint(self.path) if self.path is not None and self.path.exists() else None

    def save(self, content: Mapping[str, Any]) -> None:
        """Replace it."""
        if self.path is not None:
            save_checkpoint(self.path, dict(content))


def check_trials(trials: object, what: str) -> int:
    """Return a number of trials; raises InputError unless it is a whole number of at least 1."""
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"{what} is {trials!r}; a whole number of at least 1 is wanted")
    return trials
