"""Evolution and Bayesian search through Optuna's samplers, with its storage.

A candidate is a direction, a number per knob, and a cost between four fifths of the budget and all of it. Whatever the
direction's own cost, it is repaired, not punished: it is followed as far as that cost allows, see `meter.brought`. What
is told to the sampler, accuracy and cost, is what the repaired candidate gave.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from prunus.errors import InputError
from prunus.search.meter import brought, uniform
from prunus.search.problem import Book, Problem, check_trials
from prunus.search.space import Choice, Knob

SPREAD = 0.8
"""The cheapest cost that is tried, as a share of the budget: cheaper ones are not asked for, but show what is lost."""


@dataclass(frozen=True)
class Evolve:
    """NSGA-II over accuracy and cost.

    trials: candidates; population: of each generation, small, as a candidate is dear.

    Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II".
    """

    trials: int = 200
    population: int = 12
    name: ClassVar[str] = "evolve"

    def __post_init__(self) -> None:
        check_trials(self.trials, "trials of evolve")

    def run(self, problem: Problem, book: Book, seed: int) -> None:
        """Breed candidates until there are `trials`."""
        size = self.population
        _run(
            problem,
            book,
            self.trials,
            lambda optuna, k: optuna.NSGAIISampler(population_size=size, seed=_seed(seed, k)),
        )


@dataclass(frozen=True)
class Bayes:
    """The tree-structured Parzen estimator over accuracy and cost. trials: candidates.

    Source: Bergstra et al. 2011, "Algorithms for hyper-parameter optimization"; Ozaki et al. 2022 for two objectives.
    """

    trials: int = 200
    name: ClassVar[str] = "bayes"

    def __post_init__(self) -> None:
        check_trials(self.trials, "trials of bayes")

    def run(self, problem: Problem, book: Book, seed: int) -> None:
        """Try the most promising candidates until there are `trials`."""
        _run(problem, book, self.trials, lambda optuna, k: optuna.TPESampler(multivariate=True, seed=_seed(seed, k)))


def _run(problem: Problem, book: Book, trials: int, sampler: Any) -> None:
    """Ask, repair, judge, tell. The sampler's seed is made anew per trial, so that no hidden state survives a kill."""
    optuna, limit = load_optuna(), problem.meter.limit
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = _study(optuna, book)
        book.go_on_at(1 + _num_told(study))
        while (told := _num_told(study)) < trials:
            study.sampler = sampler(optuna.samplers, told)
            if told == 0 and not study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
                study.enqueue_trial({**_places(problem.knobs, uniform(problem.meter)), "cost": limit})
            asked = study.ask()
            places = [
                asked.suggest_int(_label(t, knob), 0, len(knob.steps) - 1) for t, knob in enumerate(problem.knobs)
            ]
            direction = [knob.steps[place] for knob, place in zip(problem.knobs, places, strict=True)]
            choice = brought(problem.meter, direction, asked.suggest_float("cost", SPREAD * limit, limit))
            trial = book.measure(choice, trials)
            study.tell(asked, [trial.metric, trial.share])


def _study(optuna: Any, book: Book) -> Any:
    """Open the study beside the store; a trial that a killed run left unfinished does not count."""
    path = book.store.path
    storage = None if path is None else f"sqlite:///{path.with_name(f'{path.name}.db')}"
    directions = ["maximize" if book.problem.mode == "max" else "minimize", "minimize"]
    study = optuna.create_study(storage=storage, study_name="prunus", directions=directions, load_if_exists=True)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _num_told(study: Any) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False))


def load_optuna() -> Any:
    """Import Optuna; raises InputError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise InputError("evolve and bayes need Optuna, which is not installed; pip install 'prunus[search]'") from None
    return optuna


def _label(t: int, knob: Knob) -> str:
    return f"{t} {knob.names[0]}"


def _places(knobs: tuple[Knob, ...], choice: Choice) -> dict[str, int]:
    return {_label(t, k): k.place(count) for t, (k, count) in enumerate(zip(knobs, choice, strict=True))}


def _seed(seed: int, trial: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{trial}".encode()).digest()[:4], "big")
