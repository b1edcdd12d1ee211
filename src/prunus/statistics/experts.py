"""Statistics of experts: how much each adds to what its mixture returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from prunus.errors import InputError
from prunus.granularity import MemberUnits, Piece
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import OfModel, register, wide
from prunus.statistics.modes import device_of
from prunus.statistics.store import Statistics

CLOSE = 0.05
"""How far the experts' shares may be from what is made of all, as a part of it: rounding in bfloat16 stays below."""


def expert_activation() -> OfModel:
    """Σ over its tokens of gate · ‖output‖₂ of each expert, and how many tokens it got, (2, E), in float64.

    The product is the norm of what the expert adds to the output of the module that holds the experts' weights: that
    output with the weights of all others at zero, minus the one with all at zero. So it does not matter how the gates
    are computed and the tokens sent; a token is an expert's where it adds anything.
    Cost: E + 2 passes of each mixture for each batch. Memory: its experts' weights once more.
    """
    return OfModel(_collect_)


def _collect_(
    model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
) -> None:
    mixtures: dict[str, dict[str, Piece]] = {}
    for piece in pieces:
        mixtures.setdefault(piece.target, {})[piece.param] = piece
    for batch in calibration.read(device_of(model)):
        with torch.no_grad(), _watched(model, mixtures, found, name, batch):
            batch.run(model)


@contextmanager
def _watched(
    model: nn.Module, mixtures: Mapping[str, Mapping[str, Piece]], found: Statistics, name: str, batch: Batch
) -> Iterator[None]:
    handles = []
    for stacks in mixtures.values():
        path = _holder(list(stacks))
        first, *others = stacks
        for other in others:
            found.share_((name, other), (name, first))
        inside = {param[len(path) :].lstrip("."): piece for param, piece in stacks.items()}
        running: list[bool] = []

        def see(
            module: nn.Module,
            args: Any,
            kwargs: Any,
            inside: Any = inside,
            first: str = first,
            running: list[bool] = running,
        ) -> None:
            if running:
                return
            running.append(True)
            norms = _shares(module, inside, args, kwargs).norm(dim=-1).flatten(1)
            running.clear()
            if batch.is_real is not None and batch.is_real.numel() == norms.shape[1]:
                norms = norms[:, batch.is_real.reshape(-1)]
            found.add_((name, first), torch.stack([norms.double().sum(1), (norms > 0).double().sum(1)]))

        handles.append(model.get_submodule(path).register_forward_pre_hook(see, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _holder(params: Sequence[str]) -> str:
    """Return the path of the smallest module that holds all these parameters."""
    paths = [param.split(".")[:-1] for param in params]
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False)))


def _shares(module: nn.Module, stacks: Mapping[str, Piece], args: Any, kwargs: Any) -> Tensor:
    """Return what each expert adds to the module's output, (E, …)."""

    def output(weights: Mapping[str, Tensor]) -> Tensor:
        given, named = tree_map_only(Tensor, Tensor.clone, (args, kwargs))  # a module may work in place
        made = functional_call(module, dict(weights), given, named)
        return wide(made[0] if isinstance(made, tuple) else made)

    own = {name: piece.tensor for name, piece in stacks.items()}
    none = output({name: torch.zeros_like(stack) for name, stack in own.items()})
    experts = range(next(iter(own.values())).shape[_dim(next(iter(stacks.values())))])
    shares = torch.stack([output({name: _only(piece, e) for name, piece in stacks.items()}) - none for e in experts])
    whole = output(own) - none
    if (whole - shares.sum(0)).norm() > CLOSE * whole.norm():
        raise InputError(
            f"{next(iter(stacks.values())).target}: the experts' shares do not add up to what {type(module).__name__} "
            "returns, which does more than to sum them; give the experts a module of their own"
        )
    return shares


def _only(piece: Piece, expert: int) -> Tensor:
    """Return the stack with zeros for all other experts."""
    alone, dim = torch.zeros_like(piece.tensor), _dim(piece)
    alone.select(dim, expert).copy_(piece.tensor.select(dim, expert))
    return alone


def _dim(piece: Piece) -> int:
    """Return the dim of a stack that numbers the experts."""
    assert isinstance(piece.part.units, MemberUnits)
    return piece.part.units.dim


register("expert_activation", expert_activation)
