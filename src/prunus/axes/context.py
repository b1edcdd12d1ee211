"""What the rules write down while they walk over a trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prunus.axes.algebra import Axis, AxisConflictError, unify
from prunus.axes.trace import Meta, Node, Ref, Trace

Role = Literal["out", "in", "scale", "spared"]
Inexact = Literal["forbid", "compensate", "allow"]
"""What may happen where removing a unit changes a statistic: nothing, only what can be made exact, or all."""


@dataclass(frozen=True)
class Value:
    """A tensor as the algebra sees it.

    dims: an axis per dimension.
    zero: per dimension, whether the tensor is exactly 0 at removed positions once every parameter is zeroed there.
        A sum over a dimension loses nothing by removal only where this holds (relu keeps it, sigmoid does not).
    points: the axis whose positions the elements are, where a router chose among them; see `rules.routing`.
    """

    dims: tuple[Axis, ...]
    zero: tuple[bool, ...]
    points: Axis | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(d.root() for d in self.dims))
        assert len(self.dims) == len(self.zero), self

    def with_zero(self, flag: bool) -> Value:
        """Return the same dimensions with every zero flag and-ed with `flag`."""
        return Value(self.dims, tuple(z and flag for z in self.zero))


@dataclass(frozen=True)
class Rescaled:
    """A norm by a power of a mean, over `axis` of N units; N' are left.

    sum / N' takes the place of sum / N, so epsilon becomes eps * N / N' and weights w * (N / N') ** power: exact.
    power: 0.5 where a root is taken (RMSNorm), 1 where the mean itself divides (global response normalisation).
    weights: state names, of the norm's own or of those that multiply its result; offset: 1.0 where the weight is stored
        less one. eps: its value in the dense model.
    node, position: the operation that takes epsilon, and where; attribute: its place in the user's class.
    """

    axis: Axis
    weights: tuple[str, ...]
    offset: float
    power: float
    eps: float
    node: int
    position: int
    attribute: str | None


@dataclass(frozen=True)
class Stretched:
    """A parameter that makes up for an attention's scale, which grows as the heads get narrower.

    offset: as in `Rescaled`. rows: positions along `dim` that are multiplied, ascending; None for all of them.
    """

    param: str
    dim: int
    offset: float
    rows: NDArray[np.int64] | None


@dataclass
class Context:
    """The state of one propagation.

    values: what each node's result is, by node index.
    macs: one entry per contraction: the axes whose sizes multiply to its multiply-accumulates.
    mac_nodes: the node of each entry of `macs`.
    attributes: (module path, attribute) -> the axis whose size that attribute must hold.
    numbers: node index -> argument position -> the axis whose size that argument must hold.
    pieces: node index -> the consecutive pieces into which the node cuts a dimension.
    roles: (state name, the first of tied ones; dim) -> what the dimension is to the operation that first uses it.
    equal: axes that must keep equally many positions.
    unknown: operations without a rule -> where they occur.
    inexact: the policy for statistics that count the units.
    rescaled: node index -> the norm for whose mean, which counts fewer units, weights and its epsilon (there) make up.
    approximate: node index -> axes over which the operation runs with fewer units than the masked model has.
    pinned: attentions whose scale stays what the dense width of a head makes it, by node index.
    absorbed: of the pinned ones, those whose scale may follow the shape, since parameters make up for it.
    spelled: products that may be those of queries by keys -> the axis they sum over; a class's scale may follow it.
    kinds: what an axis is to the operation that names it, such as `head`.
    computed: weights made of parameters, by node index -> per dimension, the parameter that decides over it.
    routed: softmax and top-k, by node index -> the axis of which removed positions can never be chosen.
    floors: (axis, how many of its positions a router chooses), so that as many have to stay.
    stacks: axes along which a parameter holds one matrix per position: what a router may choose among.
    """

    trace: Trace
    inexact: Inexact = "forbid"
    values: list[Value | tuple[Value | None, ...] | None] = field(default_factory=list)
    state: dict[str, Value] = field(default_factory=dict)
    macs: list[tuple[Axis, ...]] = field(default_factory=list)
    mac_nodes: list[int] = field(default_factory=list)
    attributes: dict[tuple[str, str], Axis] = field(default_factory=dict)
    numbers: dict[int, dict[int, Axis]] = field(default_factory=dict)
    pieces: dict[int, list[Axis]] = field(default_factory=dict)
    roles: dict[tuple[str, int], Role] = field(default_factory=dict)
    equal: list[tuple[Axis, ...]] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)
    rescaled: dict[int, Rescaled] = field(default_factory=dict)
    approximate: dict[int, list[Axis]] = field(default_factory=dict)
    pinned: dict[int, Axis] = field(default_factory=dict)
    absorbed: dict[int, tuple[Stretched, ...]] = field(default_factory=dict)
    spelled: dict[int, Axis] = field(default_factory=dict)
    kinds: list[tuple[Axis, str]] = field(default_factory=list)
    computed: dict[int, tuple[Ref, ...]] = field(default_factory=dict)
    routed: dict[int, Axis] = field(default_factory=dict)
    floors: list[tuple[Axis, int]] = field(default_factory=list)
    stacks: list[Axis] = field(default_factory=list)

    def value(self, ref: Ref | None) -> Value:
        """Return the single value that a tensor argument refers to."""
        assert isinstance(ref, Ref), ref
        found = self.values[ref.index]
        assert isinstance(found, Value), (ref, found)
        return found

    def optional(self, arg: object) -> Value | None:
        """Return the value of an argument that may be None."""
        return self.value(arg) if isinstance(arg, Ref) else None

    def unify(self, a: Axis, b: Axis, node: Node) -> None:
        """Couple two axes, or freeze both where they have no common refinement."""
        try:
            unify(a, b)
        except AxisConflictError as conflict:
            reason = because(f"its positions cannot be matched: {conflict}", node)
            a.freeze(reason)
            b.freeze(reason)

    def freeze(self, axes: Axis | Iterable[Axis], why: str, node: Node) -> None:
        """Freeze axes, naming the operation and the source line."""
        for axis in [axes] if isinstance(axes, Axis) else axes:
            axis.freeze(because(why, node))

    def count(self, axes: Axis | Iterable[Axis], why: str, node: Node) -> None:
        """A statistic counts positions that may be removed: freeze them, unless the policy allows another function."""
        for axis in [axes] if isinstance(axes, Axis) else axes:
            if self.inexact == "allow":
                self.approximate.setdefault(node.index, []).append(axis)
            else:
                self.freeze(axis, why, node)

    def contract(self, a: Axis, a_zero: bool, b: Axis, b_zero: bool, node: Node) -> None:
        """Couple the two sides of a sum of products; freeze them where removal would drop something that is not 0."""
        self.unify(a, b, node)
        if not (a_zero or b_zero):
            self.freeze(a, "a sum over it would lose terms that are not zero", node)

    def number(self, node: Node, position: int, attribute: str, axis: Axis) -> None:
        """Remember that an argument, and the module attribute it is read from, hold the size of an axis."""
        self.numbers.setdefault(node.index, {})[position] = axis
        self.attributes[node.module, attribute] = axis

    def role(self, arg: object, *roles: Role) -> None:
        """Remember what a parameter's dimensions are to the operation that takes it as `arg`; the rest are `scale`."""
        if not isinstance(arg, Ref) or not isinstance(self.trace.nodes[arg.index].value, Meta):
            return
        for dim in range(len(self.trace.nodes[arg.index].shape)):
            source = self.trace.nodes[self.decisive(arg, dim).index]
            while source.op.startswith(("aten.to.", "aten._to_copy")):  # a router's weight is often cast first
                source = self.trace.nodes[source.args[0].index]
            if source.kind in ("parameter", "buffer"):
                name = self.trace.ties.get(source.target, source.target)
                self.roles.setdefault((name, dim), roles[dim] if dim < len(roles) else "scale")

    def decisive(self, arg: Ref, dim: int) -> Ref:
        """Return what decides over a dimension of a weight: itself, or a parameter that it is computed from."""
        return self.computed[arg.index][dim] if arg.index in self.computed else arg


def because(why: str, node: Node) -> str:
    """Return a reason with its operation and source line."""
    return f"{why} ({node.op}{' at ' + node.location if node.location else ''})"


def fresh(shape: Sequence[int], zero: bool = True) -> Value:
    """Return a value over new, free axes."""
    return Value(tuple(Axis(n) for n in shape), (zero,) * len(shape))


def frozen(shape: Sequence[int], reason: str) -> Value:
    """Return a value over new axes that keep all their positions."""
    value = fresh(shape)
    for axis in value.dims:
        axis.freeze(reason)
    return value


def frozen_result(node: Node, why: str) -> Value | tuple[Value | None, ...]:
    """Return frozen values in the shape of a node's result or results."""
    reason = because(why, node)
    if isinstance(node.value, Meta):
        return frozen(node.value.shape, reason)
    assert isinstance(node.value, tuple), node
    return tuple(None if meta is None else frozen(meta.shape, reason) for meta in node.value)
