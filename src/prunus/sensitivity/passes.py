"""One evaluation of the dense model that gives the outputs of many pruned ones besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils import _pytree as pytree

from prunus.sensitivity.calls import flat, forward_as, mark
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.contents import Content, Keeper, View, copied
from prunus.sensitivity.early import Census, Stopping
from prunus.sensitivity.naive import Evaluate, evaluated
from prunus.sensitivity.ready import Ready, Tally, tally_of
from prunus.sensitivity.replay import Player
from prunus.sensitivity.store import Metrics
from prunus.sensitivity.survey import Survey, guarded, taints_of
from prunus.sensitivity.tape import Refused, Tape
from prunus.statistics import restored

Answer = tuple[list[Any], Any]
"""What a call returned, flattened: leaves and tree."""


class Found(NamedTuple):
    """metrics: of a cell. examples: how many were seen where it stopped early, else None."""

    metrics: Metrics
    examples: int | None = None


@dataclass
class Pass:
    """A pass over the data for some cells.

    survey: what the dense model did; a pass in which it does something else is refused. limit: bytes of activations,
    and of outputs, that stay in memory. is_first: whether nothing was compared with the model's own outputs yet.
    approximate: half width of the interval at which a cell stops, if any. census: of all data, where cells may stop.
    """

    model: nn.Module
    evaluate: Evaluate
    cutter: Cutter
    survey: Survey
    cells: Sequence[Cell]
    limit: int
    is_first: bool = True
    approximate: float | None = None
    census: Census = field(default_factory=Census)
    failed: dict[Cell, str] = field(default_factory=dict)

    def run(self) -> dict[Cell, Found]:
        """Return what was found; `failed` says of which cells nothing was, and why.

        Raises Refused where outputs cannot be replayed.
        """
        targets = list({cell.key[0]: cell.target for cell in self.cells if cell.target}.values())
        self._bits = {target.name: 1 << number for number, target in enumerate(targets)}
        self._taints, self._free = taints_of(self.cutter, targets), guarded(self.cutter)
        self._twins, self._weights = self._cut()
        self._active = list(self._weights)
        self._number = 0
        self._latest: dict[Cell, Answer] = {}
        self._original = self.model.forward
        if tally_of(self.evaluate) is not None:
            found = self._tallied()
        else:
            found = self._stored()
        return {cell: found[self._twins[cell]] for cell in self.cells if self._twins[cell] in found}

    def _cut(self) -> tuple[dict[Cell, Cell], dict[Cell, dict[int, UntypedStorage]]]:
        """Return for each cell the first that prunes the same, and for those the pruned storages."""
        twins: dict[Cell, Cell] = {}
        known: dict[str, list[tuple[Tensor, Cell]]] = {}
        for cell in self.cells:
            pruned, seen = self.cutter.pruned(cell), known.setdefault(cell.key[0], [])
            twins[cell] = next((other for same, other in seen if torch.equal(same, pruned)), cell)
            seen.append((pruned, cell))
        return twins, {cell: self.cutter.storages(cell) for cell in self.cells if twins[cell] is cell}

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model as it is, and replay every cell."""
        number, self._number = self._number, self._number + 1
        taken, returned = self._expected(number)
        if mark(*flat((args, kwargs), "takes")) != taken:
            raise Refused("evaluate gives other inputs the second time (shuffled data, or made of outputs)")
        keeper = Keeper(self.limit, self._free)
        tape = Tape(self._taints, {}, {}, keeper)
        with tape:
            result = self._original(*args, **kwargs)
        leaves, tree = flat(result, "returns")
        if tape.refused or mark(leaves, tree) != returned:
            raise Refused("the model returns something else the second time")
        views = [tape.output(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
        player = Player(tape.ops, views)
        for cell in self._active:
            storages = player.play(self._bits[cell.key[0]], self._weights[cell])
            self._latest[cell] = _answer(leaves, views, storages), tree
        if number == 0:
            self._check(tape.read(), returned, args, kwargs)
        keeper.close()
        return result

    def _expected(self, number: int) -> tuple[str, str]:
        if number >= len(self.survey.calls):
            raise Refused("evaluate calls the model more often the second time")
        return self.survey.calls[number]

    def _check(self, read: set[int], dense: str, args: Any, kwargs: Any) -> None:
        """Compare with what the model really returns: as it is, pruned to one cell, and where weights were not read."""
        if self.is_first and mark(*flat(self._original(*args, **kwargs), "returns")) != dense:
            raise Refused("the model computes something else while it is taped")
        unread = {name for name in self._bits if not self._places(name) <= read}
        first = max(self._active, key=lambda cell: (cell.target is self._active[0].target, cell.level))
        for cell in {first: 0, **{cell: 0 for cell in self._active if cell.key[0] in unread}}:
            with restored(self.model, cell.params):
                self.cutter.prune_(cell)
                real = mark(*flat(self._original(*args, **kwargs), "returns"))
            if real != mark(*self._latest[cell]):
                raise Refused(f"a replay {cell.where} gives another output than the model")

    def _places(self, name: str) -> set[int]:
        target = next(cell.target for cell in self.cells if cell.target and cell.key[0] == name)
        return set(self.cutter.places(target))

    def _tallied(self) -> dict[Cell, Found]:
        """Let a ready evaluation add up the outputs of all cells side by side."""
        ready = self.evaluate
        assert isinstance(ready, Ready)
        tallies: dict[Cell, Tally] = {cell: _empty(ready) for cell in self._active}
        dense, found = _empty(ready), dict[Cell, Found]()
        early = None if self.approximate is None else Stopping(ready, self.approximate, self.census)

        def visit(output: Any, target: Any, size: int) -> bool:
            dense.add(output, target, size)
            if early is not None:
                early.see(output, target)
            for cell in list(self._active):
                answer = pytree.tree_unflatten(*self._latest.pop(cell))
                tallies[cell].add(answer, target, size)
                if early is not None and early.may_stop(cell, answer, target):
                    found[cell] = Found(self._moved(tallies[cell], dense), early.seen)
                    self._active.remove(cell)
            return not self._active

        with restored(self.model), forward_as(self.model, self._forward):
            ready.each(self.model, visit)
        if early is not None:
            early.warn()
        for cell in self._active:
            found[cell] = Found(evaluated(self.model, partial(_result, tallies[cell]), cell))
        return found

    def _moved(self, seen: Tally, dense: Tally) -> Metrics:
        """Return the dense model's metrics on all data, moved by the mean difference on what was seen."""
        assert self.survey.metrics is not None
        ours, theirs = seen.result(), dense.result()
        return {name: value + ours[name] - theirs[name] for name, value in self.survey.metrics.items()}

    def _stored(self) -> dict[Cell, Found]:
        """Keep the outputs of all cells, then call `evaluate` for each with these in place of the model's."""
        keeper = Keeper(self.limit)
        kept: dict[Cell, list[Answer]] = {cell: [] for cell in self._active}

        def forward(*args: Any, **kwargs: Any) -> Any:
            result = self._forward(*args, **kwargs)
            for cell in self._active:
                leaves, tree = self._latest.pop(cell)
                kept[cell].append(([_kept(leaf, keeper) for leaf in leaves], tree))
            return result

        with restored(self.model), forward_as(self.model, forward):
            evaluated(self.model, self.evaluate, Cell(None, 0.0))
        found = {cell: metrics for cell in self._active if (metrics := self._answered(cell, kept.pop(cell)))}
        keeper.close()
        return {cell: Found(metrics) for cell, metrics in found.items()}

    def _answered(self, cell: Cell, answers: list[Answer]) -> Metrics | None:
        """Evaluate a cell whose outputs are known; None where `evaluate` wants something else of them."""
        calls = iter(range(len(answers)))

        def forward(*args: Any, **kwargs: Any) -> Any:
            number = next(calls, len(answers))
            if mark(*flat((args, kwargs), "takes")) != self._expected(number)[0]:
                raise Refused("evaluate gives the model inputs that are made of its outputs")
            leaves, tree = answers[number]
            return pytree.tree_unflatten([_given(leaf) for leaf in leaves], tree)

        try:
            with restored(self.model), forward_as(self.model, forward):
                return evaluated(self.model, self.evaluate, cell)
        except Refused as reason:
            self.failed[cell] = str(reason)
        except Exception as error:
            self.failed[cell] = f"evaluate failed on outputs in place of the model ({error})"
        return None


def _result(tally: Tally, model: nn.Module) -> Metrics:
    return tally.result()


def _empty(ready: Ready) -> Tally:
    tally = ready.tally()
    assert tally is not None
    return tally


def _answer(leaves: Sequence[Any], views: Sequence[View], storages: Sequence[UntypedStorage | None]) -> list[Any]:
    """Return the leaves of a call with a cell's tensors in them; what does not depend on the cell is copied."""
    pairs: Iterator[tuple[View, UntypedStorage | None]] = iter(zip(views, storages, strict=True))
    found = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            view, storage = next(pairs)
            found.append(view.on(copied(leaf.untyped_storage()) if storage is None else storage))
        else:
            found.append(leaf)
    return found


def _kept(leaf: Any, keeper: Keeper) -> Any:
    """Put a tensor under the keeper's bound."""
    if not isinstance(leaf, Tensor):
        return leaf
    view = View.of(leaf, Content())
    keeper.keep(view.content, leaf.untyped_storage())
    return view


def _given(leaf: Any) -> Any:
    if isinstance(leaf, View):
        assert leaf.content.storage is not None
        return leaf.on(leaf.content.storage)
    return leaf
