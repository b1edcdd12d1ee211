"""Statistics of whole residual blocks: how far each turns what it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunus.granularity import JoinedUnits, Piece, WholeBlock
from prunus.plans.depth import Skipped
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import OfModel, register, wide
from prunus.statistics.modes import device_of
from prunus.statistics.store import Statistics


def block_influence() -> OfModel:
    """Σ over tokens of 1 − cos(input, output) of each residual block, by (statistic, block); count: tokens.

    A token is one position of what is no feature: of a sequence, or of a map. Padding tokens do not enter.
    """
    return OfModel(_influences_, of_blocks=True)


def _influences_(
    model: nn.Module, pieces: Sequence[Piece], calibration: Calibration, found: Statistics, name: str
) -> None:
    units = [piece.part.units for piece in pieces]
    blocks = [block for each in units if isinstance(each, JoinedUnits) for block in each.blocks]
    for batch in calibration.read(device_of(model)):
        with torch.no_grad(), _watched(model, blocks, found, name, batch):
            batch.run(model)


@contextmanager
def _watched(
    model: nn.Module, blocks: Sequence[WholeBlock], found: Statistics, name: str, batch: Batch
) -> Iterator[None]:
    handles = []
    for block in blocks:
        module, given = model.get_submodule(block.name), list[Tensor]()

        def enter(_: nn.Module, args: Any, kwargs: Any, block: WholeBlock = block, given: list[Tensor] = given) -> None:
            # A copy: blocks may work in place on what they are given.
            given.append(Skipped(block.takes, wraps=False)(*args, **kwargs).clone())

        def leave(_: nn.Module, args: Any, output: Any, block: WholeBlock = block, given: list[Tensor] = given) -> None:
            turned = _turned(given.pop(), output[0] if block.wraps else output, block.features, batch.is_real)
            found.add_((name, block.name), turned.sum(dtype=torch.float64), turned.numel())

        handles += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _turned(x: Tensor, y: Tensor, features: int, is_real: Tensor | None) -> Tensor:
    """Return 1 − cos of every token, (T,); 0 where it is unchanged, though it be zero."""
    before, after = (wide(t).movedim(features, -1).reshape(-1, t.shape[features]) for t in (x, y))
    turned = (1 - functional.cosine_similarity(before, after, dim=1)).masked_fill((before == after).all(dim=1), 0)
    return turned[is_real.reshape(-1)] if is_real is not None and is_real.numel() == len(turned) else turned


register("block_influence", block_influence)
