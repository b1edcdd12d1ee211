"""Latency of a structure by a table that was measured elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from prunus.axes import Graph
from prunus.axes.context import Value
from prunus.axes.positions import size_after
from prunus.errors import InputError
from prunus.runtimes.elsewhere import Elsewhere, Grid
from prunus.runtimes.segments import Sizes, kept_of


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
        kept, values = kept_of(self.graph, sizes), self.graph.context.values
        gone = [range(self.graph.block(name).first, self.graph.block(name).result + 1) for name in dropped]
        total = self.device.rest
        for layer in self._layers:
            if any(layer.node in span for span in gone):
                continue
            ends = []
            for index in (layer.source, layer.node):
                value = values[index]
                assert isinstance(value, Value)
                ends.append(size_after(value.dims[layer.channel], kept))
            if not layer.grid.covers(*ends):
                ins, outs = layer.grid.ins, layer.grid.outs
                raise InputError(
                    f"{self.device.path} has {layer.name} for {ins[0]} to {ins[-1]} inputs and {outs[0]} to {outs[-1]} "
                    f"outputs, not for {ends[0]} and {ends[1]}; measure these, or limit max_ratio"
                )
            total += layer.grid.at(*ends)
        return total

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
