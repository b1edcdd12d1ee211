"""What stop conditions look at: a quantity of the pruned model, and of the dense one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from prunus.axes import Graph
from prunus.costs import energy_of_structure
from prunus.errors import InputError
from prunus.runtimes import GivenTable, LatencyTable, device, latency_table

_STRUCTURAL = ("macs", "params", "bytes", "energy", "latency")


def check_quantities(quantities: Sequence[str], graph: Graph | None) -> None:
    """Raise InputError where a structural quantity is asked for without a graph."""
    for quantity in quantities:
        if quantity.split("@")[0] in _STRUCTURAL and graph is None:
            raise InputError(
                f"stop at {quantity} needs the model's structure; give graph=prunus.trace(model, inputs), "
                "or stop at nnz or sparsity"
            )


@dataclass
class Figures:
    """The quantities of a model that is being pruned.

    masks: parameter -> True where kept. pruned_units: group -> True where pruned. graph: for what depends on structure.
    """

    model: nn.Module
    masks: Callable[[], Mapping[str, Tensor]]
    pruned_units: Callable[[], Mapping[str, Tensor]]
    graph: Graph | None
    _tables: dict[str, LatencyTable | GivenTable] = field(default_factory=dict, init=False)

    def of(self, quantity: str) -> tuple[float, float]:
        """Return a quantity of the pruned and of the dense model.

        sparsity, nnz: zeros are what the masks hold, over all parameters, ties once. macs, params, bytes, energy:
        once pruned units are removed, on the inputs that the graph was traced with. latency@torch: of that structure,
        in milliseconds, measured against the dense one, or by a table that was given.
        """
        name, _, where = quantity.partition("@")
        if name not in _STRUCTURAL:
            return self._zeros(name)
        assert self.graph is not None, "check_quantities has seen to it"
        sizes = {group: int((~units).sum()) for group, units in self.pruned_units().items()}
        if name == "latency":
            return self._latency(where, sizes)
        if name == "energy":
            return energy_of_structure(self.graph, sizes), energy_of_structure(self.graph)
        return getattr(self.graph.size(sizes), name), getattr(self.graph.size(), name)

    def _latency(self, where: str, sizes: Mapping[str, int]) -> tuple[float, float]:
        assert self.graph is not None
        if where not in self._tables:
            self._tables[where] = latency_table(self.graph, device(where))
        table = self._tables[where]
        if isinstance(table, LatencyTable):
            return table.measure(sizes).measured * table.dense_ms, table.dense_ms
        return table.predict(sizes), table.dense_ms

    def _zeros(self, name: str) -> tuple[float, float]:
        parameters = dict(self.model.named_parameters())
        total = sum(parameter.numel() for parameter in parameters.values())
        zeros = sum(int((~mask).sum()) for key, mask in self.masks().items() if key in parameters)
        return (zeros / max(1, total), 0.0) if name == "sparsity" else (total - zeros, total)
