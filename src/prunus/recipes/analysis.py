"""`prunus sensitivity`: train as the recipe says, analyse, and leave pictures, tables, the page and a schedule."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunus.allocation import RoundTo
from prunus.axes import Graph
from prunus.errors import FileError, InputError
from prunus.recipes import stages
from prunus.recipes.beginning import begun, check_device
from prunus.recipes.folder import open_folder
from prunus.recipes.opening import Opened, moved
from prunus.recipes.schema import Sensitivity
from prunus.recipes.words import budget_device
from prunus.sensitivity import Curves, Left, mode_of
from prunus.sensitivity.measured import measured_ratios
from prunus.sensitivity.schedule_text import rounded_down, template
from prunus.training import Reporter, Silent
from prunus.training.files import write_atomically, write_json

MAX_DROP = 0.02
"""What each target alone may lose where neither the recipe nor the command says it."""


@dataclass(frozen=True)
class Analysis:
    """What an analysis left.

    ratios: target -> share to prune, or empty where the granularity fixes it. dense, left: what the model costs, and
    what it will with these ratios. files: what was written, by what it is. notes: what was not, and why.
    """

    curves: Curves
    ratios: dict[str, float]
    dense: Left | None
    left: Left | None
    files: dict[str, Path]
    notes: tuple[str, ...]


def analyse(
    opened: Opened,
    wanted: Sensitivity | None = None,
    *,
    fresh: bool = False,
    effort: stages.Effort | None = None,
    reporter: Reporter | None = None,
) -> Analysis:
    """Analyse a recipe's trained model on its validation data, in its `out` folder.

    opened: from `open_recipe`. Its training is that of `prunus run`: an earlier one of this recipe there is used, an
    interrupted one goes on. wanted: the analysis, by default the recipe's own. fresh: remove the earlier run.
    effort: workers, a part of the targets (of which only the cells are left), evaluations that stop early.
    The files of another granularity or criterion than the recipe's carry both in their names.
    Raises PrunusError in one sentence; cells that are measured by then are used by the next call.
    """
    recipe, root = opened.recipe, Path(opened.recipe.out)
    own = recipe.sensitivity or Sensitivity()
    wanted = wanted or own
    check_device(wanted.timed_on)
    folder = open_folder(root, recipe.plain(), fresh=fresh)
    with begun(opened, folder, reporter or Silent(), sensitivity=wanted) as session:
        model, _ = stages.train(session)
        graph = stages.find_structure(session, model)
        stem = _stem(own, wanted)
        curves = stages.measure_curves(session, model, graph, wanted, f"{stem}.jsonl", effort)
    if effort is not None and effort.part is not None:
        note = f"part {effort.part} is measured; once all are, run this without --part for pictures, page and schedule"
        return Analysis(curves, {}, None, None, {"cells": root / f"{stem}.jsonl"}, (note,))
    return _written(curves, wanted, graph, _base(opened, root), root, stem)


def _stem(own: Sensitivity, wanted: Sensitivity) -> str:
    """What the files are called: a store holds the cells of one granularity and criterion."""
    if (own.granularity, own.criterion) == (wanted.granularity, wanted.criterion):
        return "sensitivity"
    return "sensitivity-" + re.sub(r"\W+", "-", f"{wanted.granularity}-{wanted.criterion}").strip("-")


def _written(
    curves: Curves, wanted: Sensitivity, graph: Graph | None, base: dict[str, Any], root: Path, stem: str
) -> Analysis:
    """Write every file that can be; what these curves cannot give becomes a note."""
    mode, drop = mode_of(curves.metric), MAX_DROP if wanted.max_drop is None else wanted.max_drop
    shown = drop if wanted.target is None else None
    files, notes = {"cells": root / f"{stem}.jsonl"}, []

    def attempt(what: str, name: str, write: Callable[[Path], Any]) -> None:
        try:
            write(root / name)
            files[what] = root / name
        except FileError:
            raise
        except InputError as error:
            notes.append(f"no {what}: {error}")

    attempt("curves", f"{stem}.json", lambda path: write_json(path, curves.to_dict()))
    attempt("table", f"{stem}.csv", curves.to_csv)
    attempt("graph", f"{stem}.svg", lambda path: curves.plot(path, max_drop=shown, mode=mode))
    attempt("slopes", f"{stem}.slopes.svg", lambda path: curves.plot(path, kind="slopes"))
    attempt("heat map", f"{stem}.heat.svg", lambda path: curves.plot(path, kind="heat", max_drop=shown, mode=mode))
    attempt("page", f"{stem}.html", lambda path: curves.page(path, mode=mode, max_drop=drop, base=base))
    if curves.is_fixed:
        notes.append(f"no schedule: {curves.granularity} is whole or not at all; prune the targets that bear it")
        return Analysis(curves, {}, None, None, files, tuple(notes))
    given = template(curves, base, None).round_to
    # Kernels step: where time is the budget, counts between their steps are paid for and not used.
    round_to: RoundTo = "auto" if given == 1 and budget_device(wanted.target) is not None else given
    if wanted.target is None:
        cut = curves.ratios(drop, mode=mode)
    else:
        filling = curves.filling(wanted.target, mode=mode, round_to=round_to)
        if budget_device(wanted.target) is None or graph is None:
            cut = filling.fill()
        else:
            cut, timing = measured_ratios(filling, graph)
            notes.append(f"latency: {timing}")
    ratios = {name: rounded_down(ratio) for name, ratio in cut.items()}
    schedule = stem.replace("sensitivity", "schedule", 1) + ".yaml"
    attempt(
        "schedule",
        schedule,
        lambda path: write_atomically(path, curves.recipe(ratios, base, round_to=round_to).encode()),
    )
    costs = curves.known_costs("the summary")
    left = costs.left(costs.counts(ratios, round_to=round_to))
    return Analysis(curves, ratios, costs.left({}), left, files, tuple(notes))


def write_page(curves: Curves, opened: Opened, reporter: Reporter) -> str | None:
    """Write the interactive page of a run's own analysis; returns its name, or None, with the reason said."""
    mode, wanted, root = mode_of(curves.metric), opened.recipe.sensitivity or Sensitivity(), Path(opened.recipe.out)
    try:
        drop = MAX_DROP if wanted.max_drop is None else wanted.max_drop
        curves.page(root / "sensitivity.html", mode=mode, max_drop=drop, base=_base(opened, root))
    except FileError:
        raise
    except InputError as error:
        reporter.say(f"no interactive page: {error}")
        return None
    return "sensitivity.html"


def _base(opened: Opened, root: Path) -> dict[str, Any]:
    """The recipe as the schedule repeats it: it runs in a folder of its own, and finds the user's files from there."""
    return {**moved(opened.values, opened.folders, root), "out": str(root / "pruned")}
