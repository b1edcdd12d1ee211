"""What weights read in one forward pass, for work that goes layer by layer."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.plans import named_state
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import wide
from prunus.statistics.layers import Layer, without_padding
from prunus.statistics.modes import device_of, same_buffers, undisturbed
from prunus.statistics.stopping import Stop, until_stopped
from prunus.statistics.watch import Watch


@dataclass(frozen=True)
class Readers:
    """Layers that read one tensor, such as a query, a key and a value; or one layer that reads several times.

    once: whether each runs once per forward pass.
    """

    layers: tuple[Layer, ...]
    once: bool = True

    @property
    def names(self) -> list[str]:
        """Their weights."""
        return [layer.name for layer in self.layers]


@dataclass(frozen=True)
class Reading:
    """The inputs of layers in one forward pass, one per call."""

    inputs: tuple[Tensor, ...]
    is_real: Tensor | None = None

    @classmethod
    def of(cls, model: nn.Module, readers: Readers, batch: Batch) -> Reading:
        """Run a model in eval mode on a batch, no further than needed, and keep what the layers read.

        Raises InputError where they read one tensor on the first batch and different ones on this.
        """
        tensors, left = named_state(model), set(readers.names)
        seen: list[Tensor] = []

        def see(layer: Layer, x: Tensor) -> None:
            left.discard(layer.name)
            if not readers.once:
                seen.append(x.clone())  # what runs afterwards may write into it
                return
            if seen and x is not seen[0]:
                raise _torn(readers)
            seen[:] = [x]
            if not left:
                raise Stop

        with same_buffers(model), until_stopped(), Watch({id(tensors[name]): name for name in left}, see):
            batch.run(model)
        if seen and left:
            raise _torn(readers)
        return cls(tuple(x.detach() for x in seen), batch.is_real)

    def columns(self, layer: Layer) -> Iterator[Tensor]:
        """Yield what a layer read as (groups, t, columns), in chunks, without padding."""
        for x in self.inputs:
            yield from layer.columns(wide(without_padding(layer, x, self.is_real)))


def readings(model: nn.Module, names: Iterable[str], calibration: Calibration) -> list[Readers]:
    """Return who reads together, in the order in which they run first on the first batch."""
    tensors, calls = named_state(model), Counter[str]()
    watched = {id(tensors[name]): name for name in names}
    batch = next(calibration.read(device_of(model)))
    together: list[list[Layer]] = []
    recent: dict[tuple[int, int], tuple[weakref.ref[Tensor], list[Layer]]] = {}  # no input is kept alive

    def see(layer: Layer, x: Tensor) -> None:
        calls[layer.name] += 1
        if calls[layer.name] > 1:
            return
        key = (id(x), x._version)
        if key not in recent or recent[key][0]() is not x:
            together.append([])
            recent[key] = weakref.ref(x), together[-1]
        recent[key][1].append(layer)

    with undisturbed(model), torch.no_grad(), Watch(watched, see):
        batch.run(model)
    found: list[Readers] = []
    for layers in together:
        once = tuple(layer for layer in layers if calls[layer.name] == 1)
        found += [Readers((layer,), once=False) for layer in layers if layer not in once]
        found += [Readers(once)] if once else []
    return found


def _torn(readers: Readers) -> InputError:
    names = " and ".join(readers.names)
    return InputError(f"{names} read one tensor on the first batch and different ones on another; mend them apart")
