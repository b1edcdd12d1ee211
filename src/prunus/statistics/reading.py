"""What single weights read in one forward pass, for work that goes layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.plans import named_state
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import wide
from prunus.statistics.layers import Layer, without_padding
from prunus.statistics.modes import undisturbed
from prunus.statistics.watch import Watch


@dataclass(frozen=True)
class Reading:
    """The inputs of one weight in one forward pass, one per call."""

    inputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, model: nn.Module, name: str, batch: Batch) -> Reading:
        """Run the model on a batch, in eval mode and without gradients, and keep what the weight reads."""
        seen: list[Tensor] = []

        def see(layer: Layer, x: Tensor) -> None:
            seen.append(without_padding(layer, x.detach(), batch.is_real))

        with undisturbed(model), torch.no_grad(), Watch({id(named_state(model)[name]): name}, see):
            batch.run(model)
        return cls(tuple(seen))

    def columns(self, layer: Layer) -> Iterator[Tensor]:
        """Yield what was read as (groups, t, columns), in chunks."""
        for x in self.inputs:
            yield from layer.columns(wide(x))


def readings(model: nn.Module, names: Iterable[str], calibration: Calibration) -> dict[str, Layer]:
    """Return how each weight reads, in the order in which they run first on the first batch."""
    tensors, found = named_state(model), dict[str, Layer]()
    watched = {id(tensors[name]): name for name in names}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = next(calibration.read(device))

    def see(layer: Layer, _: Tensor) -> None:
        found.setdefault(layer.name, layer)

    with undisturbed(model), torch.no_grad(), Watch(watched, see):
        batch.run(model)
    return found
