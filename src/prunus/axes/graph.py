"""The face of the axes: a traced model with its groups, frozen dimensions and costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunus.axes.algebra import Axis
from prunus.axes.blocks import Block, find_blocks
from prunus.axes.capture import capture
from prunus.axes.constraints import settle
from prunus.axes.context import Context, Inexact, Stretched, Value
from prunus.axes.describe import describe
from prunus.axes.following import Claim, claims, expert_counts, matches, solve
from prunus.axes.groups import (
    Frozen,
    Group,
    equal_sets,
    find_frozen,
    find_groups,
    first_reason,
)
from prunus.axes.head_scale import absorb_scales, spelled_scale
from prunus.axes.positions import Kept, kept_positions, size_after
from prunus.axes.propagate import propagate
from prunus.axes.trace import Trace
from prunus.axes.unwrap import unwrapped
from prunus.errors import CaptureError, InputError, NameNotFound


@dataclass(frozen=True)
class Size:
    """What a model costs: parameters (tied ones once), their bytes, MACs of one forward on the example inputs."""

    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Graph:
    """A model's structure: `print(graph)` shows its groups and what is frozen, with reasons.

    groups: what can be removed together, in the order of the parameters.
    frozen: dimensions of weights that keep all their positions, and why.
    unknown: operations without a rule -> the source lines where they occur.
    equal: names of groups that must lose equally many units.
    model: the traced model itself, no copy: criteria read its weights.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    unknown: Mapping[str, tuple[str, ...]]
    equal: tuple[tuple[str, ...], ...]
    trace: Trace = field(repr=False)
    context: Context = field(repr=False)
    model: nn.Module = field(repr=False)

    def __getitem__(self, name: str) -> Group:
        """Return a group by name; raises NameNotFound with near names."""
        if name not in self._by_name:
            raise NameNotFound.of("group", name, self._by_name)
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def _claims(self) -> list[Claim]:
        return [*claims(self.context, self.model), *matches(self.context)]

    @cached_property
    def _full(self) -> Size:
        return self.size({}, ())

    @property
    def dtype(self) -> torch.dtype:
        """The widest floating dtype of the model's tensors, float32 where it has none."""
        found = [meta.dtype for meta in self.trace.state.values() if meta.dtype.is_floating_point]
        return max(found, key=lambda dtype: dtype.itemsize, default=torch.float32)

    def why(self, param: str, dim: int) -> str:
        """Say what a dimension of a parameter belongs to, or why it keeps all its positions."""
        if param not in self.context.state:
            raise NameNotFound.of("parameter", param, self.context.state)
        dims = self.context.state[param].dims
        if not -len(dims) <= dim < len(dims):
            raise InputError(f"{param} has {len(dims)} dimensions, so dim {dim} does not exist")
        by_leaf = {group.leaf: group for group in self.groups}
        groups = [by_leaf[leaf] for leaf in dict.fromkeys(dims[dim].leaves()) if leaf in by_leaf]
        if not groups:
            return f"{param} dim {dim} is frozen: {first_reason(dims[dim])}"
        parts = ", ".join(f"{group.name} ({group.size} units, {len(group.members)} members)" for group in groups)
        return f"{param} dim {dim} belongs to {parts}"

    def kept(self, kept: Mapping[str, Tensor]) -> dict[Axis, NDArray[np.int64]]:
        """Translate kept positions by group name into kept positions by axis."""
        return {self[name].leaf: np.asarray(positions.cpu(), dtype=np.int64) for name, positions in kept.items()}

    def kept_by(self, edits: Mapping[str, Mapping[int, NDArray[np.int64]]]) -> dict[str, Tensor]:
        """Return the kept positions, by group name, of which `edits` are the consequence: the way back from `surgery`.

        Raises InputError, naming the tensor, where no plan of this graph comes to these edits.
        """
        kept: dict[str, Tensor] = {}
        for group in self.groups:
            first = group.members[0]
            positions = edits.get(first.param, {}).get(first.dim)
            if positions is not None:
                left = np.isin(first.index.numpy(), positions).any(1)
                kept.update({} if left.all() else {group.name: torch.from_numpy(np.flatnonzero(left))})
        own = self.surgery(kept).edits
        for name, dim in sorted({(name, dim) for cut in (own, edits) for name, edit in cut.items() for dim in edit}):
            if not np.array_equal(own.get(name, {}).get(dim, ()), edits.get(name, {}).get(dim, ())):
                raise InputError(f"{name} cannot lose these positions of dim {dim} as a consequence of any plan")
        return kept

    def size(self, sizes: Mapping[str, int] | None = None, dropped: Sequence[str] = ()) -> Size:
        """Return what the model costs with `sizes` units left in the groups named (all by default), blocks left out."""
        if sizes is None and not dropped:
            return self._full
        gone = [range(self.block(name).first, self.block(name).result + 1) for name in dropped]
        lost = tuple(f"{name}." for name in dropped)
        kept = {self[name].leaf: np.arange(count) for name, count in (sizes or {}).items()}
        params = num_bytes = 0
        for name, value in self.context.state.items():
            if name in self.trace.parameters and name not in self.trace.ties and not name.startswith(lost):
                count = math.prod(size_after(axis, kept) for axis in value.dims)
                params += count
                num_bytes += count * self.trace.state[name].dtype.itemsize
        macs = sum(
            math.prod(size_after(axis, kept) for axis in term)
            for term, node in zip(self.context.macs, self.context.mac_nodes, strict=True)
            if not any(node in span for span in gone)
        )
        return Size(params, macs, num_bytes)

    def unit_cost(self, group: str) -> Size:
        """Return what one unit of a group takes along."""
        full, less = self.size(), self.size({group: self[group].size - 1})
        return Size(full.params - less.params, full.macs - less.macs, full.bytes - less.bytes)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Residual blocks that can be left out as a whole, in the order in which they run."""
        return find_blocks(self.trace, self.model)

    def block(self, name: str) -> Block:
        """Return a residual block by its module path; raises NameNotFound with near names."""
        by_name = {block.name: block for block in self.blocks}
        if name not in by_name:
            raise NameNotFound.of("residual block", name, by_name)
        return by_name[name]

    def feature_dim(self, block: str) -> int:
        """Return the dimension of a residual block's output along which its parameters run; of several the last."""
        value = self.context.values[self.block(block).result]
        assert isinstance(value, Value)
        state = [own for name, own in self.context.state.items() if name.startswith(f"{block}.")]
        leaves = {leaf for own in state for axis in own.dims for leaf in axis.leaves()}
        along = [dim for dim, axis in enumerate(value.dims) if leaves & set(axis.leaves())]
        return along[-1] if along else len(value.dims) - 1

    def surgery(
        self, kept: Mapping[str, Tensor], dropped: Iterable[str] = (), *, follows: Iterable[int] = ()
    ) -> Surgery:
        """Return what removing all but the `kept` positions of each group means, and leaving blocks out.

        follows: attentions that are spelled out, by node, whose scale follows the size of a head, so that queries or
            keys make up for it; see `followers`.
        """
        by_axis = self.kept(kept)
        edits: dict[str, dict[int, NDArray[np.int64]]] = {}
        for name, value in self.context.state.items():
            for dim, axis in enumerate(value.dims):
                if size_after(axis, by_axis) != axis.root().size:
                    edits.setdefault(name, {})[dim] = kept_positions(axis, by_axis)
        numbers: dict[str, tuple[float, float]] = dict(expert_counts(self.context, self.model, by_axis))
        numbers.update(solve(self._claims, by_axis))
        for norm in self.context.rescaled.values():
            growth = _growth(norm.axis, by_axis)
            if growth != 1 and norm.attribute is not None:
                numbers[norm.attribute] = (norm.eps, norm.eps * growth)
        skips = {name: (self.block(name).takes, self.block(name).wraps) for name in dropped}
        return Surgery(edits, numbers, self._scales(by_axis, follows), skips, by_axis, self._spared(edits))

    def followers(self, kept: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
        """Return attentions that are spelled out, whose heads get narrower, and whose scale could be made up for.

        They are given by node; those of one class of modules, whose code is the same, together.
        """
        by_axis, found = self.kept(kept), dict[type, list[int]]()
        for node, axis in self.context.spelled.items():
            if _growth(axis, by_axis) != 1 and self._spelled[node]:
                module = self.model.get_submodule(self.trace.nodes[node].module)
                found.setdefault(type(module), []).append(node)
        return [tuple(nodes) for nodes in found.values()]

    @cached_property
    def _spelled(self) -> dict[int, tuple[Stretched, ...]]:
        """What could make up for the scale of each attention that is spelled out."""
        return {node: spelled_scale(self.context, node) for node in self.context.spelled}

    def _scales(self, kept: Kept, follows: Iterable[int]) -> dict[str, Scale]:
        scales: dict[str, Scale] = {}
        for norm in self.context.rescaled.values():
            growth = _growth(norm.axis, kept)
            if growth != 1:
                scales.update(dict.fromkeys(norm.weights, Scale(growth**norm.power, norm.offset)))
        context = self.context
        pinned = [(context.pinned[node], stretched) for node, stretched in context.absorbed.items()]
        spelled = [(context.spelled[node], self._spelled[node]) for node in follows]
        for axis, stretched in (*pinned, *spelled):
            growth = _growth(axis, kept)
            for own in stretched if growth != 1 else ():
                before = scales.get(own.param, Scale(1.0)).factor
                scales[own.param] = Scale(before * growth**-0.5, own.offset, own.dim, own.rows)
        return scales

    def _spared(self, edits: Mapping[str, Mapping[int, NDArray[np.int64]]]) -> frozenset[tuple[str, int]]:
        roles, ties = self.context.roles, self.trace.ties
        cut = ((name, dim) for name, edit in edits.items() for dim in edit)
        return frozenset((name, dim) for name, dim in cut if roles.get((ties.get(name, name), dim)) == "spared")

    def __str__(self) -> str:
        return describe(self)


def _growth(axis: Axis, kept: Kept) -> float:
    return axis.root().size / size_after(axis, kept)


@dataclass(frozen=True)
class Scale:
    """What multiplies a parameter once it is cut: w becomes (w + offset) * factor - offset.

    rows: positions along `dim`, of the dense parameter, that are multiplied; None for all of them.
    """

    factor: float
    offset: float = 0.0
    dim: int = 0
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Surgery:
    """The consequences of a plan, by name.

    edits: parameter or buffer -> dimension -> kept positions, ascending.
    attributes: `path.attribute` -> (value now, value then), for numbers that operations read from modules.
    scales: parameter -> what multiplies what is left of it.
    dropped: residual block -> (which argument it hands on instead, whether in a tuple of one).
    kept: axis -> kept positions, to translate any tensor of the trace.
    spared: (parameter, dimension) of edits that the masked model leaves as they are: rows that are divided by their
        norm, 0/0 if they were zero, and silent as soon as their scale is.
    """

    edits: Mapping[str, Mapping[int, NDArray[np.int64]]]
    attributes: Mapping[str, tuple[float, float]]
    scales: Mapping[str, Scale] = field(default_factory=dict)
    dropped: Mapping[str, tuple[int | str, bool]] = field(default_factory=dict)
    kept: Mapping[Axis, NDArray[np.int64]] = field(default_factory=dict, repr=False)
    spared: frozenset[tuple[str, int]] = frozenset()

    @property
    def zeroed(self) -> dict[str, dict[int, NDArray[np.int64]]]:
        """The edits as the masked model has them: positions that are not kept are 0, spared dimensions left out."""
        return {
            name: {dim: kept for dim, kept in edit.items() if (name, dim) not in self.spared}
            for name, edit in self.edits.items()
        }


def trace(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, inexact: Inexact = "forbid"
) -> Graph:
    """Capture a model on example inputs and find out what hangs together.

    model: any module that `torch.export` captures; it is left as it was. `torch.compile`, `nn.DataParallel` and
        `DistributedDataParallel` are looked into: names are those of the plain module inside.
    args: a tensor, or a tuple of positional arguments. kwargs: keyword arguments of forward.
    inexact: what may happen where a statistic counts the units of an axis. `forbid` keeps the axis whole. `compensate`
        lets it go where numbers make up for it exactly: RMSNorm's weight and epsilon grow, attention's scale stays.
        `allow` also runs LayerNorm and other means and variances over what is left, which is another function.
    Raises CaptureError, with the cause in one sentence, where the model cannot be run or captured.
    """
    model = unwrapped(model)
    if inexact not in get_args(Inexact):
        raise InputError(f"inexact is {inexact!r}; choose one of {', '.join(get_args(Inexact))}")
    evaluated = capture(model, args, kwargs)
    try:
        ctx = propagate(evaluated, capture(model, args, kwargs, training=True), inexact)
    except CaptureError:  # a batch of one under batch norm, say: what is evaluated is still known
        ctx = propagate(evaluated, inexact=inexact)
    absorb_scales(ctx, model)
    pairs = settle(ctx, claims(ctx, model))
    groups = find_groups(ctx)
    unknown = {op: tuple(places) for op, places in ctx.unknown.items()}
    return Graph(groups, find_frozen(ctx), unknown, equal_sets(pairs, groups), ctx.trace, ctx, model)


__all__ = ["Graph", "Scale", "Size", "Surgery", "trace"]
