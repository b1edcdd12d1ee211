"""Latency of a structure by a table that was measured elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from prunus.axes import Graph
from prunus.axes.algebra import Axis
from prunus.axes.context import Value
from prunus.axes.positions import Kept, size_after
from prunus.errors import InputError
from prunus.runtimes.elsewhere import Elsewhere, Grid
from prunus.runtimes.lookup import Progress
from prunus.runtimes.segments import Sizes, groups_of, kept_of


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear map: its row in the table, the nodes that it reads and is, its channels' dimension."""

    name: str
    grid: Grid
    source: int
    node: int
    channel: int


@dataclass(eq=False)
class GivenTable:
    """What structures of one model take by a table: the sum over its convolutions and linear maps, and the rest.

    Raises NameNotFound where the table lacks a layer of the model.
    """

    graph: Graph
    device: Elsewhere

    def __post_init__(self) -> None:
        self._layers = tuple(self._found())

    @cached_property
    def dense_ms(self) -> float:
        """The dense model by the table."""
        return self.predict({})

    def predict(self, sizes: Sizes, dropped: Sequence[str] = ()) -> float:
        """Return the milliseconds with so many units left, blocks left out.

        Raises InputError for counts outside of what was measured.
        """
        kept = kept_of(self.graph, sizes)
        gone = [range(self.graph.block(name).first, self.graph.block(name).result + 1) for name in dropped]
        there = (layer for layer in self._layers if not any(layer.node in span for span in gone))
        return self.device.rest + sum(self._ms(layer, kept) for layer in there)

    @property
    def parts(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """The axes of each layer, groups that add up to one count: its inputs and its outputs."""
        ends = ([groups_of(self.graph, [axis]) for axis in self._axes(layer)] for layer in self._layers)
        apart = ((read, tuple(name for name in made if name not in read)) for read, made in ends)
        return tuple(tuple(filter(None, each)) for each in apart)

    @property
    def rest_ms(self) -> float:
        """What is there besides the layers."""
        return self.device.rest

    def part_ms(self, wanted: Sequence[tuple[int, Sizes]], progress: Progress | None = None) -> list[float]:
        """Return the milliseconds of layers, given as (its place in `parts`, units left in its groups).

        Raises InputError for counts outside of what was measured.
        """
        return [self._ms(self._layers[place], kept_of(self.graph, sizes)) for place, sizes in wanted]

    def _axes(self, layer: _Layer) -> list[Axis]:
        """Its inputs' and its outputs' channels."""
        values = [self.graph.context.values[index] for index in (layer.source, layer.node)]
        return [value.dims[layer.channel] for value in values if isinstance(value, Value)]

    def _ms(self, layer: _Layer, kept: Kept) -> float:
        num_in, num_out = (size_after(axis, kept) for axis in self._axes(layer))
        if not layer.grid.covers(num_in, num_out):
            ins, outs = layer.grid.ins, layer.grid.outs
            raise InputError(
                f"{self.device.path} has {layer.name} for {ins[0]} to {ins[-1]} inputs and {outs[0]} to {outs[-1]} "
                f"outputs, not for {num_in} and {num_out}; measure these, or limit max_ratio"
            )
        return layer.grid.at(num_in, num_out)

    def __str__(self) -> str:
        return f"latency by {self.device}: dense {self.dense_ms:.3g} ms in {len(self._layers)} layers and the rest"

    def _found(self) -> list[_Layer]:
        trace = self.graph.trace
        found = []
        for index in dict.fromkeys(self.graph.context.mac_nodes):
            node = trace.nodes[index]
            read = [trace.nodes[ref.index] for ref in node.refs()]
            kernel = next((each for each in read if each.kind == "parameter" and len(each.shape) > 1), None)
            source = next((each.index for each in read if each.kind != "parameter"), None)
            if kernel is not None and source is not None:
                name = str(kernel.target).rpartition(".")[0]
                channel = 1 - len(kernel.shape) if "conv" in node.op else -1
                found.append(_Layer(name, self.device.layer(name), source, index, channel))
        return found
