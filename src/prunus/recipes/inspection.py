"""A model looked at before anything is done to it: `prunus inspect`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from prunus.axes import Graph, Inexact, exactness_of, trace
from prunus.costs import Costs, measure
from prunus.errors import InputError
from prunus.recipes.resolve import call, resolve
from prunus.zeros import summary

DTYPES = {"float32": torch.float32, "int64": torch.int64}


@dataclass(frozen=True)
class Inspection:
    """A model's graph, and its groups, frozen axes with reasons, costs and zeros ready to print."""

    graph: Graph
    tables: tuple[RenderableType, ...]


def inspect_model(name: str, shapes: Sequence[str], inexact: str = "forbid") -> Inspection:
    """Look at a model before anything is done to it.

    name: `module:function` or `file.py:function`. shapes: one per input, such as `1,3,32,32` or `1,16:int64`.
    inexact: as in `trace`.
    Raises InputError for a wrong name, shape or policy, CaptureError where the model cannot be traced.
    """
    model, args = build(name), examples(shapes)
    graph = trace(model.eval(), args, inexact=cast(Inexact, inexact))
    equal = [_equal(graph)] if graph.equal else []
    return Inspection(graph, (_groups(graph), *equal, _frozen(graph), _costs(measure(model, args)), summary(model)))


def build(name: str) -> nn.Module:
    """The model that `module:function` or `file.py:function` returns, files looked for in the current folder."""
    model = call(resolve(name, [Path.cwd()]), name, {})
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned a {type(model).__name__}; want a torch.nn.Module")
    return model


def examples(shapes: Sequence[str]) -> tuple[Tensor, ...]:
    """One tensor per shape; raises InputError where there is none."""
    if not shapes:
        raise InputError("no input shape; give one, such as --input 1,3,32,32")
    return tuple(example(shape) for shape in shapes)


def example(shape: str) -> Tensor:
    """A tensor for `1,3,32,32` (normal numbers) or `1,16:int64` (0 and 1 in turn, which nearly every table has)."""
    sizes, _, dtype = shape.partition(":")
    try:
        wanted = [int(size) for size in sizes.split(",")]
    except ValueError as error:
        raise InputError(f"--input {shape}: want sizes with commas, such as 1,3,32,32") from error
    if min(wanted) < 1:
        raise InputError(f"--input {shape}: every size must be at least 1")
    if (dtype or "float32") not in DTYPES:
        raise InputError(f"--input {shape}: want float32 or int64 after the colon, got {dtype}")
    if dtype == "int64":
        return (torch.arange(math.prod(wanted)) % 2).view(wanted)
    return torch.randn(wanted, generator=torch.Generator().manual_seed(0))


def _groups(graph: Graph) -> Table:
    count = "1 group" if len(graph.groups) == 1 else f"{len(graph.groups)} groups"
    table = Table(title=f"{count}: what is removed together", title_justify="left")
    for heading in ("group", "units", "kind", "members", "parameters each", "MACs each", "removal is"):
        words = heading in ("group", "kind", "removal is")
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    for group in graph.groups:
        cost = graph.unit_cost(group.name)
        numbers = (str(len(group.members)), f"{cost.params:,}", f"{cost.macs:,}")
        exactness = Text(exactness_of(graph.context, group))
        table.add_row(Text(group.name), str(group.size), group.kind, *numbers, exactness)
    return table


def _equal(graph: Graph) -> Table:
    table = Table(title="must keep equally many units", title_justify="left")
    table.add_column("groups", overflow="fold")
    for names in graph.equal:
        table.add_row(Text(", ".join(names)))
    return table


def _frozen(graph: Graph) -> RenderableType:
    table = Table(title="frozen: what keeps its size", title_justify="left")
    for heading in ("parameter", "dim", "size", "reason"):
        table.add_column(heading, overflow="fold")
    for item in graph.frozen:
        table.add_row(Text(item.param), str(item.dim), str(item.size), Text(item.reason))
    for operation, places in graph.unknown.items():
        table.add_row("", "", "", Text(f"no rule for {operation} at {', '.join(sorted(set(places)))}"))
    return table


def _costs(costs: Costs) -> Table:
    table = Table("cost", title="costs of one forward pass", title_justify="left")
    table.add_column("", justify="right")
    for key in ("parameters", "nonzeros", "macs", "weight_bytes", "file_bytes", "peak_activation_bytes"):
        table.add_row(key.replace("_", " "), f"{getattr(costs, key):,}")
    table.add_row("energy", f"{costs.energy_joules:.3g} J")
    return table
