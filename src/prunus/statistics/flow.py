"""The order in which weights leave a net whose flow is kept up: SynFlow, without data and without a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunus.batches import blame
from prunus.errors import InputError, TrainingError
from prunus.granularity import Piece
from prunus.selection import lowest_k
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.curvature import output_of
from prunus.statistics.kinds import OfModel, register
from prunus.statistics.store import Statistics

LAST_DENSITY = 1e-3
"""Where the path ends; what is left then is ranked as it stands."""


def synflow(rounds: int = 100) -> OfModel:
    """The order of removal along an exponential path, (U,) float64: the share of all units that went before.

    Each round scores the units that are left by Σ |w|·∂R/∂|w| under the masks so far, R = 1ᵀ Π|W| 1, and removes the
    lowest of all targets together, so that the same share stays in every round. rounds: how many take the density to
    a tenth; three times as many are made, to 0.1 %.
    The paper removes down to a density ρ in n rounds, each keeping ρ^(1/n). Its masks are nested, and a round depends
    on nothing but the masks before it. So one path with steps r = 0.1^(1/rounds) goes through the very masks of the
    paper's iteration for every density rᵏ (with n = k rounds), and cutting the order of removal at any density between
    two of them gives what a last, shorter round would have given. Above a density of 0.1 fewer than `rounds` rounds
    lead there, below more: all in steps of one size.
    The net runs in float64 on an input of ones of the first sample's shape, in eval mode, with |w| in the place of
    every parameter and without the means of batch norms, which could make the flow negative; the model itself is not
    touched. Memory: about five float64 per weight. Processes need not add theirs up: all find the same.
    """
    if type(rounds) is not int or rounds < 1:
        raise InputError(f"rounds of synflow is {rounds!r}; a whole number of at least 1 is wanted")

    def collect_(
        model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
    ) -> None:
        device = pieces[0].tensor.device
        flow = _Flow(model, pieces, _ones(next(calibration.read(device))))
        places = flow.removal(0.1 ** (1 / rounds))
        for piece in pieces:
            found.add_((name, piece.param, piece.target), places[piece.target])

    return OfModel(collect_)


class _Flow:
    """A net of |w| in float64, and which of its units are left."""

    def __init__(self, model: nn.Module, pieces: Sequence[Piece], ones: Batch) -> None:
        self._model, self._ones = model, ones
        named = dict(model.named_parameters(remove_duplicate=False))
        first = {id(named[name]): name for name in reversed(named)}
        self._name = {name: first[id(parameter)] for name, parameter in named.items()}
        self._state = {name: self._made(name, value) for name, value in model.named_buffers()}
        self._state |= {name: named[name].detach().abs().double() for name in first.values()}
        self._targets: dict[str, list[Piece]] = {}
        for piece in pieces:
            self._targets.setdefault(piece.target, []).append(piece)

    @staticmethod
    def _made(name: str, buffer: Tensor) -> Tensor:
        if name.split(".")[-1] == "running_mean":
            return torch.zeros_like(buffer, dtype=torch.float64)
        return buffer.double() if buffer.is_floating_point() else buffer

    def removal(self, kept: float) -> dict[str, Tensor]:
        """Return per target each unit's place in the order of removal, in [0, 1); kept: the share per round."""
        left = {name: torch.arange(pieces[0].counts.numel()) for name, pieces in self._targets.items()}
        places = {name: torch.zeros(len(units), dtype=torch.float64) for name, units in left.items()}
        total = sum(map(len, left.values()))
        alive, share = total, 1.0
        while alive:
            share *= kept
            wanted = round(share * total) if share >= LAST_DENSITY else 0
            scores = self._scores()
            among = [scores[name][units] for name, units in left.items()]
            gone = dict(zip(left, lowest_k(among, alive - wanted), strict=True))
            self._place_(places, left, gone, dict(zip(left, among, strict=True)), total - alive)
            left = {name: units[~gone[name]] for name, units in left.items()}
            self._mask_(left)
            alive = wanted
        return {name: (place / total).to(self._targets[name][0].tensor.device) for name, place in places.items()}

    def _place_(
        self,
        places: Mapping[str, Tensor],
        left: Mapping[str, Tensor],
        gone: Mapping[str, Tensor],
        scores: Mapping[str, Tensor],
        start: int,
    ) -> None:
        """Write down where those stand that go in this round: behind all before, in the order of their scores."""
        order = torch.cat([scores[name][gone[name]] for name in left]).argsort(stable=True)
        ranks = torch.empty(len(order), dtype=torch.float64)
        ranks[order] = torch.arange(start, start + len(order), dtype=torch.float64)
        for name, part in zip(left, torch.split(ranks, [int(gone[name].sum()) for name in left]), strict=True):
            places[name][left[name][gone[name]]] = part

    def _scores(self) -> dict[str, Tensor]:
        """Return Σ_unit |w|·∂R/∂|w| of every target's units, those that are gone too, on the CPU."""
        names = dict.fromkeys(self._name[p.param] for pieces in self._targets.values() for p in pieces)
        leaves = {name: self._state[name].requires_grad_() for name in names}
        try:
            with torch.enable_grad(), blame("synflow in float64"):
                args = (self._ones.args, dict(self._ones.kwargs))
                flow = output_of(functional_call(self._model, self._state, *args)).sum()
            values = torch.autograd.grad(flow, list(leaves.values()), allow_unused=True, materialize_grads=True)
        finally:
            for leaf in leaves.values():
                leaf.requires_grad_(False)
        if not bool(flow.isfinite()):
            raise TrainingError("synflow: the flow through the net leaves float64; scale its weights down")
        through = {name: leaf * slope for (name, leaf), slope in zip(leaves.items(), values, strict=True)}
        return {
            target: torch.stack([p.table(through[self._name[p.param]]).sum(dim=1) for p in pieces]).sum(dim=0).cpu()
            for target, pieces in self._targets.items()
        }

    def _mask_(self, left: Mapping[str, Tensor]) -> None:
        for target, pieces in self._targets.items():
            for piece in pieces:
                pruned = torch.ones(piece.counts.numel(), dtype=torch.bool)
                pruned[left[target]] = False
                self._state[self._name[piece.param]] *= piece.part.units.scatter(pruned.to(piece.tensor.device))


def _ones(batch: Batch) -> Batch:
    """Return one sample of ones, float64 where the batch has floats."""
    sample = next(batch.samples())

    def ones(item: object) -> object:
        if not isinstance(item, Tensor):
            return item
        return torch.ones_like(item, dtype=torch.float64 if item.is_floating_point() else item.dtype)

    return Batch(tuple(map(ones, sample.args)), {key: ones(value) for key, value in sample.kwargs.items()})


for _factory in (synflow,):
    register(_factory.__name__, _factory)
