"""What stop conditions look at: a quantity of the pruned model, and of the dense one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from prunus.axes import Graph
from prunus.costs import energy_of_structure
from prunus.errors import InputError

_STRUCTURAL = ("macs", "params", "bytes", "energy")


def check_quantities(quantities: Sequence[str], graph: Graph | None) -> None:
    """Raise InputError where a structural quantity is asked for without a graph."""
    for quantity in quantities:
        if quantity in _STRUCTURAL and graph is None:
            raise InputError(
                f"stop at {quantity} needs the model's structure; give graph=prunus.trace(model, inputs), "
                "or stop at nnz or sparsity"
            )


def figure(
    quantity: str,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    graph: Graph | None,
    pruned_units: Callable[[], Mapping[str, Tensor]],
) -> tuple[float, float]:
    """Return a quantity of the pruned and of the dense model.

    sparsity, nnz: zeros are what the masks hold, over all parameters, ties once. macs, params, bytes, energy:
    once pruned units are removed, on the inputs that the graph was traced with.
    """
    if quantity in _STRUCTURAL:
        assert graph is not None, "check_quantities has seen to it"
        sizes = {name: int((~units).sum()) for name, units in pruned_units().items()}
        if quantity == "energy":
            return energy_of_structure(graph, sizes), energy_of_structure(graph)
        return getattr(graph.size(sizes), quantity), getattr(graph.size(), quantity)
    parameters = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in parameters.values())
    zeros = sum(int((~mask).sum()) for name, mask in masks.items() if name in parameters)
    return (zeros / max(1, total), 0.0) if quantity == "sparsity" else (total - zeros, total)
