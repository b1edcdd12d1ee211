"""NetAdapt: in each round every group proposes its smallest cut that saves enough; the most accurate one is kept.

Yang et al. 2018, "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", arXiv:1804.03230.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prunus.errors import InputError
from prunus.search.meter import Meter, first
from prunus.search.problem import Bench, Book, Outcome, Problem, StateFile
from prunus.search.space import Choice, Counts, expanded
from prunus.search.trials import Trial, better

_LEAST = 1e-6
"""A share of the dense model that is too little to go on for."""

_NEAR = 1.25
"""A choice that looks dearer than the budget by less is measured, where it can be: it may keep to it."""


@dataclass(frozen=True)
class NetAdapt:
    """Settings of the search.

    step: the share of the dense model's cost that the first round saves. decay: what the saving is multiplied by after
        each round, so that the last cuts are careful.
    """

    step: float = 0.05
    decay: float = 0.96
    name: ClassVar[str] = "netadapt"

    def __post_init__(self) -> None:
        if not 0 < self.step < 1 or not 0 < self.decay <= 1:
            raise InputError(
                f"netadapt has step {self.step:g} and decay {self.decay:g}; want 0 < step < 1, 0 < decay <= 1"
            )

    def run(self, problem: Problem, book: Book, seed: int) -> None:
        """Go round until the budget holds; what a round kept is on disk before the next begins."""
        meter, state = problem.meter, StateFile.beside(book.store)
        self._check_reach(meter)
        choice, before, number = meter.whole, None, 0
        saved = state.load()
        if saved is not None:
            choice, number, book.kept = tuple(saved["choice"]), int(saved["rounds"]), int(saved["kept"])
            before = Outcome({}, saved["units"], saved["weights"])
            book.go_on_at(int(saved["next"]))
        bench = _Judging(problem) if problem.bench is None else problem.bench
        while (wanted := _wanted(problem, choice)) is not None:
            goal = max(wanted, meter.share(choice) - self.step * self.decay**number)
            proposals = _proposals(meter, choice, goal)
            if not proposals and meter.is_met(choice):
                break  # what was measured is above the budget, and stays so
            if not proposals:
                raise InputError(
                    f"netadapt comes to {meter.share(choice):.3f} of the dense model, and no target saves more by "
                    "itself; raise max_ratio="
                )
            total = book.number + len(proposals) * self._rounds(meter.share(choice), wanted, number)
            choice, book.kept, before = _round(book, bench, before, proposals, number, total)
            number += 1
            done = {"choice": choice, "rounds": number, "next": book.number, "kept": book.kept}
            state.save({**done, "units": _plain(before.units), "weights": before.weights})
        book.weights = None if before is None else before.weights

    def _rounds(self, share: float, wanted: float, number: int) -> int:
        """Estimate how many rounds are left, this one included."""
        rounds = 0
        while share > wanted and rounds < 10_000:
            share, rounds = share - self.step * self.decay ** (number + rounds), rounds + 1
        return rounds

    def _check_reach(self, meter: Meter) -> None:
        """Raise InputError where the savings of all rounds never add up to what is wanted."""
        reach = self.step / (1 - self.decay) if self.decay < 1 else 1.0
        if reach < 1 - meter.limit:
            raise InputError(
                f"netadapt with step {self.step:g} and decay {self.decay:g} saves at most {reach:.3f} of the dense "
                f"model, but {meter.budget} asks for {1 - meter.limit:.3f}; raise step or decay"
            )


def _wanted(problem: Problem, choice: Choice) -> float | None:
    """Return the share of the dense model to get to; None where a choice meets the budget, measured if it has to be."""
    meter, share = problem.meter, problem.meter.share(choice)
    if problem.excess is None or share > _NEAR * meter.limit:
        return None if meter.is_met(choice) else meter.limit
    excess = problem.excess(expanded(meter.knobs, choice))
    return share / (1 + excess) if excess > 0 else None


def _proposals(meter: Meter, choice: Choice, goal: float) -> list[Choice]:
    """Return what the knobs propose for a goal; where none gets there by itself, for half the way, and so on."""
    share = meter.share(choice)
    while True:
        cuts = [cut for at in range(len(choice)) if (cut := proposal(meter, choice, at, goal)) is not None]
        if cuts or goal >= share - _LEAST:
            return cuts
        goal = (goal + share) / 2


def proposal(meter: Meter, choice: Choice, at: int, goal: float) -> Choice | None:
    """Return the choice with one knob turned on to the first step that leaves at most `goal`; None where none does.

    goal: a share of the dense model; at the budget's own limit, the budget decides, below it the share alone.
    """
    knob = meter.knobs[at]

    def turned(place: int) -> Choice:
        return (*choice[:at], knob.steps[place], *choice[at + 1 :])

    def holds(place: int) -> bool:
        found = turned(place)
        return meter.share(found) <= goal or (goal >= meter.limit and meter.is_met(found))

    start, last = knob.place(choice[at]) + 1, len(knob.steps) - 1
    if start > last or not holds(last):
        return None
    return turned(first(start, last, holds))


def _round(
    book: Book, bench: Bench, before: Outcome | None, proposals: list[Choice], number: int, total: int
) -> tuple[Choice, int, Outcome]:
    """Judge all proposals of a round, write each down, and return the most accurate, its number, and its weights."""
    found: list[Trial] = []
    while len(found) < len(proposals) and (trial := book.stored(proposals[len(found)])) is not None:
        found.append(trial)
    start = book.number - len(found)
    jobs = [(start + at, expanded(book.problem.knobs, choice)) for at, choice in enumerate(proposals)]
    outcomes: dict[int, Outcome] = {}
    offset = len(found)
    for position, outcome in bench.outcomes(before, jobs[offset:]):
        outcomes[offset + position] = outcome
        while len(found) in outcomes:  # trials are written in their order, whichever worker is the first
            done = outcomes[len(found)]
            trial = book.write(proposals[len(found)], done.metrics, {"round": number}, done.units)
            book.tell(trial, total)
            found.append(trial)
    rank = better(book.problem.mode)
    best = max(range(len(found)), key=lambda at: (rank(found[at]), -found[at].share))
    if best not in outcomes:  # judged before an interruption: its weights come out the same once more
        outcomes[best] = next(iter(bench.outcomes(before, [jobs[best]])))[1]
    return proposals[best], found[best].number, outcomes[best]


@dataclass(frozen=True)
class _Judging:
    """The bench without training: candidates as they are pruned."""

    problem: Problem

    def outcomes(self, before: Outcome | None, jobs: Sequence[tuple[int, Counts]]) -> Iterator[tuple[int, Outcome]]:
        for position, (_, counts) in enumerate(jobs):
            yield position, Outcome(self.problem.judge(counts))


def _plain(units: Mapping[str, tuple[int, ...]] | None) -> Any:
    return None if units is None else {name: list(positions) for name, positions in units.items()}
