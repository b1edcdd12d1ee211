"""What units carry when they are pruned, handed to the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from prunus.axes import Graph
from prunus.plans import find_folding


def fold_constants_(model: nn.Module, graph: Graph, pruned: Mapping[str, Tensor]) -> None:
    """Add to biases what pruned units would still contribute as constants, before masks zero it; see `Plan.folding`.

    pruned: group -> (size,) bool. Units that are zero already contribute nothing.
    """
    kept = {name: (~units).nonzero().flatten().cpu() for name, units in pruned.items() if bool(units.any())}
    if kept:
        find_folding(graph, kept, model).fold_(model)
