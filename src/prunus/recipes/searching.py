"""`prunus search`: the ratios of a recipe's policy, found against a budget, and the recipe that has them.

<out>/search/<method>-<budget>-<seed>/
    search.jsonl     every candidate; beside it the method's state
    front.svg, learning.svg
    searched.yaml    the recipe with the ratios found; searched-17.yaml, of candidate 17
    run/             where that recipe runs; the trained weights lie there already
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from prunus.allocation import parse_budget
from prunus.errors import InputError, NothingToPrune
from prunus.recipes import stages, words
from prunus.recipes.beginning import begun, check_device
from prunus.recipes.epochs import make_optimizer
from prunus.recipes.folder import open_folder
from prunus.recipes.opening import Opened, moved, open_recipe
from prunus.recipes.policies import calibration, of_batch
from prunus.recipes.schema import Policy, Recipe
from prunus.recipes.session import Session
from prunus.search import SearchResult, Trial, find_method, search
from prunus.training import Evaluation, Reporter, Silent, recalibrate_, reseed, train_epoch
from prunus.training.losses import Loss


@dataclass(frozen=True)
class Searched:
    """What a search left. recipe: the file with the ratios found; pictures: those that could be drawn."""

    result: SearchResult
    recipe: Path
    pictures: tuple[Path, ...]


def search_recipe(
    opened: Opened,
    *,
    method: str,
    target: str,
    trials: int | None = None,
    seed: int | None = None,
    steps: int = 10,
    workers: int = 1,
    pick: int | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> Searched:
    """Train the recipe's model, or read it where it was trained, and search the ratios of its policy.

    seed: the recipe's by default. steps: batches on which netadapt trains each candidate; 0 leaves that out.
    workers: processes in which netadapt trains its candidates side by side; the result is the same.
    pick: the number of a candidate whose recipe is written instead of the best one's, beside it.
    fresh: begin the search anew; the trained model stays.
    Raises InputError for a recipe of several policies, NothingToPrune where nothing pruned is better than the dense
    model, and as `prunus.search.search` does.
    """
    reporter, recipe = reporter or Silent(), opened.recipe
    if steps < 0:
        raise InputError(f"steps is {steps}; the batches on which netadapt trains a candidate are wanted, 0 for none")
    policy, seed = _policy(recipe), recipe.seed if seed is None else seed
    budget = parse_budget(words.budget(target))
    check_device(budget.device)
    name = f"{find_method(method, trials).name}-{_slug(str(budget))}-{seed}"
    folder = open_folder(Path(recipe.out), recipe.plain())
    with begun(opened, folder, reporter) as session:
        place = folder.path("search") / name
        if fresh:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        model, _ = stages.train(session)
        graph = None if budget.relative else stages.find_structure(session, model)
        with reporter.bar("search", 1) as bar:
            result = search(
                model.eval(),
                session.example,
                _Judge.of(session),
                method=method,
                target=of_batch(target, graph),
                trials=trials,
                seed=seed,
                mode="min" if recipe.metrics[0] == "loss" else "max",
                granularity=policy.granularity,
                criterion=policy.criterion,
                targets=policy.targets,
                round_to=policy.round_to,
                store=place / "search.jsonl",
                data=calibration(session),
                progress=bar.at,
                train=_short(session, steps) if method == "netadapt" and steps else None,
                workers=workers,
            )
        pictures = _draw(result, place, reporter)
        return Searched(result, _write(opened, result, place, pick), pictures)


def _policy(recipe: Recipe) -> Policy:
    if len(recipe.prune.policies) > 1:
        raise InputError(
            f"prunus search finds the ratios of one policy, but prune.policies has {len(recipe.prune.policies)}; leave "
            "one, and search the others after it"
        )
    if recipe.prune.inexact != "forbid":
        raise InputError(f"prunus search knows inexact: forbid only, not {recipe.prune.inexact}")
    return recipe.prune.policies[0]


@dataclass(frozen=True)
class _Judge:
    """Validation metrics as the run will measure them: with batch norms anew on the batches, where there are some.

    Like `_Short`, without the session: it goes to other processes.
    """

    evaluation: Evaluation
    batches: list[Any]

    @classmethod
    def of(cls, session: Session) -> _Judge:
        """The judge of a recipe."""
        batches = list(calibration(session).data) if session.recipe.finish.recalibrate else []
        return cls(session.parts.evaluation("validation"), batches)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics, the judged one first."""
        if self.batches:
            recalibrate_(model, self.batches, device=self.evaluation.device)
        return self.evaluation(model)


@dataclass(frozen=True)
class _Short:
    """Train a candidate on a few batches; which ones follows from torch's seed, also where a loader has its own."""

    recipe: Recipe
    data: Any
    loss: Loss
    device: torch.device
    steps: int

    def __call__(self, model: nn.Module) -> None:
        """Train it in place."""
        reseed(int(torch.randint(2**31, ())), "short", 0, self.data)
        optimizer = make_optimizer(self.recipe, "prune", self.recipe.prune, model)
        batches = _First(self.data, self.steps)
        train_epoch(model, batches, optimizer, self.loss, where="a candidate", device=self.device)


def _short(session: Session, steps: int) -> _Short:
    parts = session.parts
    return _Short(session.recipe, parts.data.train, parts.loss, parts.device, steps)


@dataclass(frozen=True)
class _First:
    """The first batches of a loader."""

    loader: Any
    count: int

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.loader), self.count)


def _write(opened: Opened, result: SearchResult, place: Path, pick: int | None) -> Path:
    """Write the recipe with the ratios found, and make its folder, with the trained weights in it."""
    trial, suffix = (result.best, "") if pick is None else (_picked(result, pick), f"-{pick}")
    if not any(trial.counts.values()):
        others = ", ".join(str(other.number) for other in result.front if any(other.counts.values()))
        raise NothingToPrune(
            f"the best that {result.method} found for {result.budget} is the dense model; lower the target, or --pick "
            f"one of the front: {others or 'there is none'}"
        )
    path, out = place / f"searched{suffix}.yaml", place / f"run{suffix}"
    values = moved(_without_none(opened.recipe.plain()), opened.folders, place)
    values["name"] = f"{values.get('name', opened.recipe.model.factory)} ({result.method}, {result.budget})"
    values["out"] = str(out)
    policy = values["prune"]["policies"][0]
    policy.pop("target", None)  # the ratios found say how much
    policy["allocation"] = {"per_layer": result.ratios(trial)}
    head = f"# {result.method} for {result.budget}: trial {trial.number}, {trial.share:.3f} left, {trial.metric:.4g}\n"
    path.write_text(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    found = open_recipe(path)
    plain = found.recipe.plain()
    try:
        run = open_folder(out, plain)  # the run of these ratios, where there is one
    except InputError:
        run = open_folder(out, plain, fresh=True)  # of others
    run.claim(plain, found.text)
    trained = out / "state" / "train.safetensors"
    if not trained.exists():
        shutil.copyfile(Path(opened.recipe.out) / "state" / "train.safetensors", trained)
    return path


def _picked(result: SearchResult, number: int) -> Trial:
    if not 1 <= number < len(result.trials):
        raise InputError(f"there is no candidate {number}; the search tried 1 to {len(result.trials) - 1}")
    return result.trials[number]


def _draw(result: SearchResult, place: Path, reporter: Reporter) -> tuple[Path, ...]:
    front, learning = place / "front.svg", place / "learning.svg"
    try:
        result.plot(front)
        result.plot_learning(learning)
    except InputError as error:
        reporter.say(f"no pictures: {error}")
        return ()
    return front, learning


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value
