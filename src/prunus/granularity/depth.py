"""Depth: which residual blocks may be left out."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from prunus.axes import Graph
from prunus.errors import InputError, NameNotFound
from prunus.granularity.joined import JoinedUnits, WholeBlock
from prunus.granularity.names import TargetSpec, is_inside, read
from prunus.granularity.targets import Part, Target

LAYERS = "layers"
"""The name of the one target whose units are the residual blocks."""


def block_target(graph: Graph, targets: TargetSpec = "*") -> Target:
    """Return the target whose units are the residual blocks of a traced model; one of them has to stay.

    targets: patterns over the blocks' module paths, or those of modules around them; a mapping has `name`, `exclude`.
    Raises InputError where the model has no such block or none is left, NameNotFound where a pattern matches none.
    """
    given = read(targets)
    if given.types is not None or given.speaks_of_groups:
        raise InputError(f"targets {targets!r} choose by type or kind; residual blocks are chosen by name")
    known = [block.name for block in graph.blocks]
    if not known:
        raise InputError(
            f"{type(graph.model).__name__} has no residual block that could be left out: no module hands on its input "
            "plus something; choose another granularity than layer"
        )
    wanted = _matching(known, given.names) - _matching(known, given.exclude)
    if not wanted:
        raise InputError(f"targets {targets!r} exclude every residual block that they name; exclude less")
    blocks = [
        WholeBlock(b.name, _weights(graph.model, b.name), b.takes, b.wraps, graph.feature_dim(b.name))
        for b in graph.blocks
        if b.name in wanted
    ]
    sizes = [sum(graph.model.get_parameter(name).numel() for name in block.params) for block in blocks]
    return Target(LAYERS, (Part(LAYERS, JoinedUnits(blocks, sizes), True, "block"),), LAYERS)


def _matching(known: Iterable[str], patterns: Iterable[str]) -> set[str]:
    found = set()
    for pattern in patterns:
        hits = {name for name in known if is_inside(name, pattern)}
        if not hits:
            raise NameNotFound.of("residual block", pattern, known)
        found |= hits
    return found


def _weights(model: nn.Module, name: str) -> tuple[str, ...]:
    """Name a block's weights: its parameters of two dims or more, all where it has none."""
    own = [(f"{name}.{key}", p) for key, p in model.get_submodule(name).named_parameters() if p.is_floating_point()]
    return tuple(key for key, p in own if p.dim() > 1) or tuple(key for key, _ in own)
