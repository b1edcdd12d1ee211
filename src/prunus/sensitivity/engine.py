"""Measures cells: many in a pass where outputs can be replayed, one by one where not, and says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from prunus.axes import unwrapped
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.contents import default_limit
from prunus.sensitivity.early import Census, Counted
from prunus.sensitivity.naive import Evaluate, measure
from prunus.sensitivity.passes import Found, Pass
from prunus.sensitivity.ready import Ready
from prunus.sensitivity.survey import DENSE, Survey, take_survey
from prunus.sensitivity.tape import Refused
from prunus.statistics import restored


@dataclass
class Engine:
    """Measures cells of one model.

    recalibrate: data for batch norms, measured anew in every cell; then nothing can be replayed.
    approximate: see `perform_sensitivity_analysis`. seconds: what a pass should take at most, as its cells are
    lost together when it is killed; where the dense model alone takes long, ten times that.
    limit: bytes that a pass keeps in memory.
    """

    model: nn.Module
    evaluate: Evaluate
    cutter: Cutter
    recalibrate: Any = None
    approximate: float | None = None
    seconds: float = 30.0
    limit: int = field(default_factory=lambda: default_limit())
    _is_wanted: Callable[[Cell], bool] = field(default=bool, repr=False)
    _changed: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        """Expect `evaluate` to change every parameter, until it was seen not to."""
        self._changed = {name for name, _ in unwrapped(self.model).named_parameters()}

    def measure(
        self, cells: Sequence[Cell], is_wanted: Callable[[Cell], bool] = lambda cell: True
    ) -> Iterator[tuple[Cell, Found]]:
        """Yield the dense model's metrics, then each cell's as they come.

        is_wanted: asked before a cell is begun; another process may have measured it meanwhile.
        """
        self._is_wanted = is_wanted
        if self.recalibrate is not None or not cells:
            yield from self._one_by_one((DENSE, *cells))
            return
        targets = list({cell.key[0]: cell.target for cell in cells if cell.target}.values())
        census = Census()
        survey = take_survey(self.model, self._counting(census), self.cutter, targets)
        if survey.metrics is not None:
            self._changed = survey.changed
        if survey.everything is not None:
            yield from self._plainly(survey.metrics, cells, survey.everything)
            return
        fast = [cell for cell in cells if cell.key[0] not in survey.refused]
        done: set[Cell] = set()
        for whole in self._groups(fast, survey):
            group = [cell for cell in whole if is_wanted(cell)]
            try:
                found = self._pass(group, survey, census, is_first=not done) if group else {}
            except Refused as reason:
                left = [cell for cell in cells if cell not in done]
                yield from self._plainly(None, left, str(reason), needs_dense=not done)
                return
            if not done:
                yield self._dense(survey)
            done.update(found)
            yield from found.items()
        if not done:
            yield self._dense(survey)
        for target in targets:
            if target.name in survey.refused:
                own = [cell for cell in cells if cell.target is target]
                _say(f"{target.name}", survey.refused[target.name])
                yield from self._one_by_one(own)

    def _dense(self, survey: Survey) -> tuple[Cell, Found]:
        assert survey.metrics is not None
        return DENSE, Found(survey.metrics)

    def _counting(self, census: Census) -> Evaluate:
        """Return the evaluation, one that counts what it sees where cells may stop early."""
        if self.approximate is None or not isinstance(self.evaluate, Ready):
            return self.evaluate
        return Counted(self.evaluate, census)

    def _pass(self, group: Sequence[Cell], survey: Survey, census: Census, *, is_first: bool) -> dict[Cell, Found]:
        how = (self.limit, is_first, self.approximate, census)
        this = Pass(self.model, self.evaluate, self.cutter, survey, group, *how)
        found = this.run()
        if this.failed and not found:
            raise Refused(next(iter(this.failed.values())))
        missing = [cell for cell in group if cell not in found]
        for cell, reason in this.failed.items():
            _say(str(cell), reason)
        return {**found, **dict(self._one_by_one(missing))}

    def _groups(self, cells: Sequence[Cell], survey: Survey) -> Iterator[list[Cell]]:
        """Part the cells so that one pass takes about the seconds, and its pruned weights fit in memory."""
        longest = max(self.seconds, 10 * survey.seconds)  # so that the dense model is a tenth of the work
        each = max(0.0, survey.seconds - survey.model_seconds)  # evaluate's own work, once for every cell
        group: list[Cell] = []
        time, size = survey.seconds, 0
        for cell in cells:
            takes, holds = survey.costs[cell.key[0]] + each, self._bytes(cell)
            if group and (time + takes > longest or size + holds > self.limit):
                yield group
                group, time, size = [], survey.seconds, 0
            group.append(cell)
            time, size = time + takes, size + holds
        if group:
            yield group

    def _bytes(self, cell: Cell) -> int:
        assert cell.target is not None
        tensors = self.cutter.tensors()
        return sum(tensors[part.param].untyped_storage().nbytes() for part in cell.target.parts)

    def _plainly(
        self, dense: Any, cells: Sequence[Cell], reason: str, *, needs_dense: bool = True
    ) -> Iterator[tuple[Cell, Found]]:
        """Measure one by one, and say why; the dense model again unless its metrics are known."""
        if dense is not None:
            yield DENSE, Found(dense)
        elif needs_dense:
            yield from self._one_by_one([DENSE])
        _say("every cell", reason)
        yield from self._one_by_one(cells)

    def _one_by_one(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Found]]:
        for cell in cells:
            if cell != DENSE and not self._is_wanted(cell):
                continue
            with restored(self.model, self._changed) as changed:
                metrics = measure(self.model, self.evaluate, self.cutter, cell, self.recalibrate)
            if cell == DENSE:
                self._changed &= changed
            yield cell, Found(metrics)


def _say(what: str, reason: str) -> None:
    warnings.warn(f"sensitivity of {what} takes a whole evaluation per cell: {reason}", stacklevel=2)
