"""What the analysis found: metric against sparsity for every target, and the ratios that a threshold cuts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from prunus.allocation import Budget, RoundTo, cut, parse_budget
from prunus.axes import Graph
from prunus.errors import InputError, NameNotFound
from prunus.quality import Mode, sign_of
from prunus.runtimes import Device, device, estimate
from prunus.sensitivity import schedule_text
from prunus.sensitivity.costs import Costs
from prunus.sensitivity.cutting import by_stage, check_drop
from prunus.sensitivity.filling import Filling
from prunus.sensitivity.measured import measured_ratios

Kind = Literal["lines", "slopes", "heat"]


@dataclass(frozen=True)
class Curves:
    """Target × level → metrics.

    metric: the judged metric; granularity, criterion: their names; levels: sparsities, ascending.
    dense: metric to its value before pruning; values: metric to target to one value per level.
    costs: what pruning each target saves, and where it stands; None in files of older versions.
    approximate: target -> the levels whose evaluation was stopped early, by a confidence interval.
    """

    metric: str
    granularity: str
    criterion: str
    levels: tuple[float, ...]
    dense: Mapping[str, float]
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    costs: Costs | None = None
    approximate: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, tuple[float, ...]]:
        """The judged metric per target, one value per level."""
        return dict(self.values[self.metric])

    def drops(self, *, metric: str | None = None, mode: Mode = "max") -> dict[str, tuple[float, ...]]:
        """Return how much worse than the dense model each target is at each level; negative where it is better."""
        name, sign = self.known(metric), sign_of(mode)
        dense = self.dense[name]
        return {target: tuple(sign * (dense - v) for v in values) for target, values in self.values[name].items()}

    def ratios(
        self,
        max_drop: float,
        *,
        metric: str | None = None,
        mode: Mode = "max",
        per_stage: bool = False,
        skip: float = 0.1,
    ) -> dict[str, float]:
        """Return per target the largest sparsity up to which the metric stays within `max_drop` of the
        dense one.

        max_drop: at least 0, absolute, in the metric's own unit: 0.01 is one point of an accuracy in [0, 1].
        metric: the judged one by default. mode: `max` for accuracies, `min` for losses, whose drop is their
        rise. Between two levels (and between the dense model and the first) the metric is taken to be
        linear. A curve that recovers after it fell too far is cut where it first fell; one that never does
        gives the highest level.
        per_stage: targets whose feature maps are of one size get the same ratio, the smallest of theirs; a target that
        bears less than `skip` is sensitive: it keeps all its units, and does not hold its stage back.
        Source of per_stage: Li et al. 2017, arXiv:1608.08710, section 3.2, which leaves the numbers to the eye.
        """
        most = check_drop(max_drop)
        found = {n: cut(self.levels, drops, most) for n, drops in self.drops(metric=metric, mode=mode).items()}
        return by_stage(found, self.costs, skip) if per_stage else found

    def ratios_for(
        self,
        target: str | Mapping[str, float] | Budget,
        *,
        metric: str | None = None,
        mode: Mode = "max",
        round_to: RoundTo | None = None,
        graph: Graph | None = None,
    ) -> dict[str, float]:
        """Return per target a ratio, so that the whole meets a budget at the least loss that the curves foresee.

        target: `macs=0.5`, `params<=2e6`, `bytes`, `sparsity=0.3`, `nnz`, and of curves that were timed
        `latency=0.6@onnxruntime`; where weights become zeros only sparsity and nnz.
        metric, mode: as in `ratios`. round_to: kept counts are multiples of it; `auto`, which a latency has
        by itself: of the kernels' steps. graph: the one that a latency was timed with: whole models are then measured
        until one keeps to it within 3 %; the ratios are then of the one that came closest.
        Greedy, as each target is taken to lose on its own: starting from the dense model, of all moves of one target
        (or one set of groups that must stay equal) to a higher level take the one that loses least of the metric per
        share of the budget's quantity saved, counted at what the other targets have left by then, until the budget is
        met. Of all ways of ending one of these states by one last move, no longer than needed, the one that loses least
        counts; of it, the dearest targets first, units that the budget does not ask for are given back. What a curve
        loses never counts as won again, and no target goes beyond the highest level measured. With convex curves and
        units of equal cost this is the optimum; groups whose costs multiply, and humps, make it a good guess.
        The plan that prunes so meets the budget, within the size of one unit. Ratios have four decimals.
        Raises InputError when the levels do not reach the budget, or the costs are not known.
        """
        filling = self.filling(target, metric=metric, mode=mode, round_to=round_to)
        if graph is None or filling.budget.quantity != "latency":
            return filling.fill()
        return measured_ratios(filling, graph)[0]

    def filling(
        self,
        target: str | Mapping[str, float] | Budget,
        *,
        metric: str | None = None,
        mode: Mode = "max",
        round_to: RoundTo | None = None,
    ) -> Filling:
        """Return what meets a budget; the arguments are those of `ratios_for`."""
        budget = parse_budget(target)
        step: RoundTo = round_to if round_to is not None else "auto" if budget.quantity == "latency" else 1
        drops = self.drops(metric=metric, mode=mode)
        return Filling(self.known_costs("a budget"), self.levels, drops, budget, step)

    def timed(
        self, graph: Graph, on: str | Device = "torch", *, progress: Callable[[int, int], None] | None = None
    ) -> Curves:
        """Return the same curves with an estimate of the latency, for the page and for budgets.

        graph: the one that the analysis was made with. on: `torch`, `onnxruntime`, `compiled`, `table:file.csv`.
        progress: called with (parts of the model timed, of how many). See `prunus.runtimes.estimate`.
        Raises InputError where weights become zeros, which no device is faster for, or the graph is another.
        """
        costs = self.known_costs("a latency")
        if not costs.coupled:
            raise InputError(
                f"{self.granularity} leaves zeros, and zeros do not become speed; analyse filters or heads"
            )
        if costs.sizes != {group.name: group.size for group in graph.groups}:
            raise InputError("this graph has other groups than the analysis; give the one it was made with")
        found = estimate(graph, device(on), most=self.levels[-1], progress=progress)
        return replace(self, costs=replace(costs, latency=found))

    def recipe(
        self,
        ratios: Mapping[str, float],
        base: Mapping[str, Any] | None = None,
        *,
        round_to: RoundTo | None = None,
    ) -> str:
        """Return YAML that prunes by these ratios: a schedule, or with `base` a recipe for `prunus run`.

        ratios: target -> share in [0, 1); rounded down to four decimals, zeros left out.
        base: a recipe's values, whose policies are replaced by one of these ratios; schedule and solver are those of
        its first policy of this granularity, or else of its first, and its sensitivity analysis is left out.
        round_to: of the policy; by default that of the policy replaced.
        Raises InputError when nothing is left to prune, or the granularity fixes the amount itself.
        """
        self.check_free("a recipe of ratios")
        for name in ratios:
            if name not in self.values[self.metric]:
                raise NameNotFound.of("target", name, self.values[self.metric])
        return schedule_text.template(self, base, round_to).filled(ratios)

    def plot(
        self,
        path: str | os.PathLike[str],
        *,
        kind: Kind = "lines",
        metric: str | None = None,
        max_drop: float | None = None,
        mode: Mode = "max",
    ) -> None:
        """Draw the curves.

        path: ends in .svg, .png or .pdf.
        kind: `lines`, metric against sparsity, one line per target, coloured by depth; `slopes`, sorted norms of the
        units of each target (Li et al. 2017, figure 2a); `heat`, target by level.
        max_drop: a line at the metric that is accepted, in `lines` and `heat`; mode: as in `ratios`.
        Raises InputError when matplotlib is not installed or the suffix is another, FileError when the file
        cannot be written.
        """
        from prunus.sensitivity.plot import draw  # matplotlib is an extra

        draw(self, path, kind, self.known(metric), max_drop, mode)

    def page(
        self,
        path: str | os.PathLike[str],
        *,
        metric: str | None = None,
        mode: Mode = "max",
        max_drop: float | None = None,
        base: Mapping[str, Any] | None = None,
        round_to: RoundTo | None = None,
        title: str = "",
    ) -> None:
        """Write one HTML file on which the threshold is dragged: ratios, costs and the recipe follow.

        metric, mode: as in `ratios`. max_drop: where the line is at first. base, round_to: as in `recipe`.
        title: of the page.
        Raises InputError without Jinja2 or without known costs, FileError when it cannot be written.
        """
        from prunus.sensitivity.page import write_page  # Jinja2 is an extra

        write_page(
            self,
            path,
            metric=self.known(metric),
            mode=mode,
            max_drop=max_drop,
            template=schedule_text.template(self, base, round_to),
            title=title,
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the file that Distiller's `sensitivities_to_csv` writes: parameter, sparsity, top1, top5, loss.

        Values are as the evaluation returned them; a metric of these that it did not return stays empty.
        Raises InputError where it returned none of them, FileError when the file cannot be written.
        """
        from prunus.sensitivity.csv_file import write_csv

        write_csv(self, path)

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, granularity: str = "element", criterion: str = "l1") -> Curves:
        """Read Distiller's file, ours or its own; granularity and criterion are not in it.

        Raises FileError where it cannot be read, is another file, or lacks the rows at sparsity 0.
        """
        from prunus.sensitivity.csv_file import read_csv

        return read_csv(path, granularity, criterion)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the judged metric as `dense` and `curves`, the other metrics under `others`."""
        others = {name: {"dense": self.dense[name], "curves": _plain(self.values[name])} for name in self.values}
        judged = others.pop(self.metric)
        return {
            "metric": self.metric,
            "granularity": self.granularity,
            "criterion": self.criterion,
            "levels": list(self.levels),
            **judged,
            "others": others,
            "costs": None if self.costs is None else self.costs.to_dict(),
            "approximate": _plain(self.approximate),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Curves:
        """Read what `to_dict` returned, also without costs. Raises InputError when a key is missing."""
        try:
            every = {data["metric"]: data, **data.get("others", {})}
            return cls(
                metric=data["metric"],
                granularity=data["granularity"],
                criterion=data["criterion"],
                levels=tuple(data["levels"]),
                dense={name: part["dense"] for name, part in every.items()},
                values={name: _frozen(part["curves"]) for name, part in every.items()},
                costs=None if data.get("costs") is None else Costs.from_dict(data["costs"]),
                approximate=_frozen(data.get("approximate", {})),
            )
        except KeyError as error:
            raise InputError(f"sensitivity curves lack the key {error}; read what Curves.to_dict returned") from None

    def __rich__(self) -> Table:
        title = f"{self.metric} by sparsity ({self.granularity}, {self.criterion})"
        table = Table("target", title=title)
        for level in (0.0, *self.levels):
            table.add_column(f"{level:.0%}" if round(level, 2) == level else f"{level:.1%}", justify="right")
        for target, values in self.table.items():
            early = self.approximate.get(target, ())
            cells = (f"{'≈' * (level in early)}{v:.4g}" for level, v in zip(self.levels, values, strict=True))
            table.add_row(target, f"{self.dense[self.metric]:.4g}", *cells)
        return table

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def known(self, metric: str | None) -> str:
        """Return a metric's name, the judged one by default; raises NameNotFound for one that was not measured."""
        name = self.metric if metric is None else metric
        if name not in self.values:
            raise NameNotFound.of("metric", name, self.values)
        return name

    def known_costs(self, what: str) -> Costs:
        """Return the costs; raises InputError where they are not known, or where the granularity fixes the amount."""
        if self.costs is None:
            raise InputError(f"{what} needs the targets' costs, which these curves lack; analyse again")
        self.check_free(what)
        return self.costs

    @property
    def is_fixed(self) -> bool:
        """Whether the granularity itself says how much of a target goes, as 2:4 does."""
        targets = {} if self.costs is None else self.costs.targets
        return any(target.fixed is not None for target in targets.values())

    def check_free(self, what: str) -> None:
        """Raise InputError where the granularity itself says how much of a target goes."""
        if self.is_fixed:
            raise InputError(f"{what} needs levels to choose from, but {self.granularity} is whole or not at all")


def _plain(curves: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {target: list(values) for target, values in curves.items()}


def _frozen(curves: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, ...]]:
    return {target: tuple(values) for target, values in curves.items()}
