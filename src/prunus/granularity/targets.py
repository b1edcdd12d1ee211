"""Which tensors a policy prunes: weights by name or type, or coupled groups by their members' names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from prunus.errors import InputError, NameNotFound, naming
from prunus.granularity.joined import JoinedUnits
from prunus.granularity.kinds import Granularity
from prunus.granularity.kinds import granularity as read_granularity
from prunus.granularity.names import Entry, Selection, Spec, TargetSpec, catalogue, read, resolve
from prunus.granularity.turned import TurnedUnits
from prunus.granularity.units import MemberUnits, Units

COUPLED = ("filter", "channel")
"""The granularities whose units hang together across tensors, so that removing them shrinks the model."""

_ROLES = {"filter": "out", "channel": "in"}

ASKED = ("expert",)
"""Kinds of groups that are pruned only where a kind or a full name asks for them."""


@dataclass(frozen=True)
class Part:
    """One tensor of a target: its name in the state dict, its units, whether the score reads it.

    role: what the tensor is to the units: `out` makes them, `in` reads them, `norm` is a batch norm's scale of them,
        `expert` a stack of weights, one slice for each expert that is a unit, `scale` any other number per unit; `own`
        where the units are pieces of the weight itself; `block` where they are residual blocks, whose weights are
        joined to one tensor of no name in the state dict.
    """

    param: str
    units: Units
    scored: bool
    role: str = "own"

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it consists of, by their names in the state dict."""
        joined = self.units.blocks if isinstance(self.units, JoinedUnits) else ()
        return tuple(name for block in joined for name in block.params) or (self.param,)

    def read(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor of the shape that the units see, out of tensors by name."""
        return self.units.join(tensors) if isinstance(self.units, JoinedUnits) else tensors[self.param].detach()


@dataclass(frozen=True)
class Target:
    """What one decision prunes: one weight, or all members of a coupled group.

    name: the parameter's or the group's name; group: the group's name when coupled, else None.
    minimum: units of a group that have to stay.
    """

    name: str
    parts: tuple[Part, ...]
    group: str | None = None
    minimum: int = 1

    @property
    def num_units(self) -> int:
        """How many units there are to choose from."""
        return self.parts[0].units.num_units

    @property
    def scored(self) -> tuple[Part, ...]:
        """The parts that take part in the score."""
        return tuple(part for part in self.parts if part.scored)


@dataclass(frozen=True, eq=False)
class Piece:
    """What is scored at a time: one tensor of one target, as it is now.

    target: the target's name. tensor: detached, of the shape that its units see.
    """

    target: str
    part: Part
    tensor: Tensor

    @property
    def param(self) -> str:
        """The tensor's name in the state dict."""
        return self.part.param

    @property
    def counts(self) -> Tensor:
        """Real elements of each unit, (U,) int64, on the tensor's device."""
        return self.part.units.counts.to(self.tensor.device)

    @classmethod
    def of(cls, param: str, tensor: Tensor, units: Units) -> Piece:
        """Return a tensor that is a target by itself."""
        return cls(param, Part(param, units, True), tensor.detach())

    def table(self, values: Tensor | None = None) -> Tensor:
        """Return the tensor's elements, or others of its shape, as (U, E); short units are padded with 0."""
        return self.part.units.gather(self.tensor if values is None else values)


class MemberLike(Protocol):
    """What `group_targets` reads of a group's member; see `prunus.axes`."""

    @property
    def param(self) -> str:
        """Name in the state dict."""

    @property
    def dim(self) -> int:
        """The dim that is cut."""

    @property
    def role(self) -> str:
        """`out`, `in`, `scale`, or `spared`, which no mask may zero."""

    @property
    def index(self) -> Tensor:
        """(size, k) int64 positions in `dim` of each unit."""

    @property
    def is_parameter(self) -> bool:
        """Whether it is a parameter, not a buffer."""


class GroupLike(Protocol):
    """What `group_targets` reads of a prunable group."""

    @property
    def name(self) -> str:
        """The group's name."""

    @property
    def kind(self) -> str:
        """What its units are: channels, heads, …"""

    @property
    def minimum(self) -> int:
        """How many units have to stay."""

    @property
    def members(self) -> Sequence[MemberLike]:
        """Every tensor that loses positions with it."""


class GraphLike(Protocol):
    """What `group_targets` reads of a traced graph."""

    @property
    def groups(self) -> Sequence[GroupLike]:
        """The prunable groups."""


def find_targets(
    model: nn.Module, granularity: str | Granularity, targets: TargetSpec = "*", graph: GraphLike | None = None
) -> list[Target]:
    """Resolve the targets: coupled groups for filters and channels where the structure is known, else weights.

    Raises NameNotFound or InputError when they match nothing.
    """
    if graph is not None and read_granularity(granularity).name in COUPLED:
        return group_targets(graph, granularity, targets, model=model)
    return weight_targets(model, granularity, targets)


def check_targets(targets: TargetSpec, granularity: str | Granularity) -> None:
    """Check what can be told of targets without a model; raises InputError or NameNotFound."""
    kind = read_granularity(granularity).name
    if read(targets).speaks_of_groups and kind not in COUPLED:
        raise InputError(
            f"{targets!r} chooses groups, but {kind} prunes weights by themselves; only filter and channel prune groups"
        )


def weight_targets(model: nn.Module, granularity: str | Granularity, targets: TargetSpec = "*") -> list[Target]:
    """Resolve the targets to one `Target` per matching parameter, in the model's order, ties once.

    Outputs and inputs are the layer's: weights of transposed convolutions and of transformers' Conv1D lie inputs first.
    targets: `*` is every weight of at least two dims, but embeddings (also when tied), biases and norms; a
        pattern (fnmatch) names parameters or modules (then the weights inside); a pattern that matches
        weights means only those, so `fc1.*` leaves the bias alone and `*.bias` prunes biases. A list unites
        patterns. A mapping has `type` (module class names, subclasses count), `name` and `exclude`
        (patterns or lists); its `kind` and `group` are for coupled groups alone.
    Raises NameNotFound when a pattern or type matches nothing, InputError when a shape has no such units.
    """
    kind = read_granularity(granularity)
    if read(targets).speaks_of_groups:
        check_targets(targets, kind)
        raise InputError(f"targets {targets!r} choose groups, which only a traced model has; give its graph")
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    entries = catalogue(model)
    wanted = resolve(entries, targets).wanted
    return [_weight_target(kind, entry, shapes[entry.name]) for entry in entries if entry.name in wanted]


def group_targets(
    graph: GraphLike,
    granularity: str | Granularity,
    targets: TargetSpec = "*",
    *,
    model: nn.Module | None = None,
) -> list[Target]:
    """Resolve the targets to one coupled `Target` per prunable group whose scored members match.

    granularity: `filter` scores the weights that make the unit (role `out`), `channel` those that read it
        (role `in`); where there is none, every parameter of the group. All members become parts, buffers too.
    targets: as in `weight_targets`; a group matches when one of its scored parameters does and none is
        excluded. `kind` takes only groups of these kinds, `group` those of these names as `print(graph)` shows them;
        `exclude` may hold `{"kind": …}` and `{"group": …}`. Whole experts are chosen by `{"kind": "expert"}` or by
        their router's full name, never by a wider pattern.
    model: the traced model, whose shapes and names are read; `graph.model` by default.
    Raises NameNotFound when a pattern or a kind matches nothing, InputError when no prunable group is left, or
    for another granularity.
    """
    kind = read_granularity(granularity).name
    if kind not in COUPLED:
        raise InputError(f"granularity is {kind!r}; coupled groups are pruned by 'filter' or 'channel'")
    model = _model_of(graph) if model is None else model
    shapes = _shapes(model)
    groups = _meant(graph.groups, read(targets))
    norms = _norm_scales(model)
    coupled = [_group_target(group, "out" if kind == "filter" else "in", shapes, norms) for group in groups]
    if targets == "*":
        return coupled
    selected = _select(model, coupled, targets)
    if not selected:
        raise InputError(f"targets {targets!r} match no prunable group; see graph.frozen for what is frozen, and why")
    return selected


def _meant(groups: Sequence[GroupLike], spec: Spec) -> list[GroupLike]:
    """Keep the groups that are meant by their names or kinds."""
    names = [group.name for group in groups]
    for name in (*(spec.groups or ()), *spec.exclude_groups):
        if name not in names:
            raise NameNotFound.of("group", name, names)
    left = set(names if spec.groups is None else spec.groups) - set(spec.exclude_groups)
    return [group for group in _of_kinds(groups, spec) if group.name in left]


def _of_kinds(groups: Sequence[GroupLike], spec: Spec) -> list[GroupLike]:
    known = dict.fromkeys(group.kind for group in groups)
    for kind in (*(spec.kinds or ()), *spec.exclude_kinds):
        if kind not in known:
            raise NameNotFound.of("kind of group", kind, known)
    wanted = set(spec.kinds or known) - set(spec.exclude_kinds)
    asked = ASKED if spec.kinds is None else ()
    return [g for g in groups if g.kind in wanted and (g.kind not in asked or _is_spelled(g, spec))]


def _is_spelled(group: GroupLike, spec: Spec) -> bool:
    """Tell whether a name, and no pattern, says this group or a parameter that makes its units."""
    makers = (member.param for member in group.members if member.role == "out")
    return bool({group.name, *makers} & {*spec.names, *(spec.groups or ())})


def _weight_target(kind: Granularity, entry: Entry, shape: torch.Size) -> Target:
    with naming(entry.name):
        # Single weights are the same whichever way they lie.
        lies = not entry.turned or kind.name == "element"
        units = kind.units(shape) if lies else TurnedUnits(shape, entry.turned, kind)
        return Target(entry.name, (Part(entry.name, units, True, _ROLES.get(kind.name, "own")),))


def _model_of(graph: GraphLike) -> nn.Module:
    model = getattr(graph, "model", None)
    if not isinstance(model, nn.Module):
        raise InputError("the graph does not carry its model; pass model=, whose shapes and names are read")
    return model


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    shapes = {name: tensor.shape for name, tensor in model.named_buffers(remove_duplicate=False)}
    return shapes | {name: tensor.shape for name, tensor in model.named_parameters(remove_duplicate=False)}


def _norm_scales(model: nn.Module) -> frozenset[str]:
    """Names of the weights of batch norms; wrapped and synchronised ones count."""
    norms = [(path, module) for path, module in model.named_modules() if isinstance(module, BatchNorm)]
    return frozenset(f"{path}.weight".lstrip(".") for path, _ in norms)


def _group_target(group: GroupLike, role: str, shapes: Mapping[str, torch.Size], norms: frozenset[str]) -> Target:
    members = [member for member in group.members if member.role != "spared"]
    parameters = [member for member in members if member.is_parameter]
    scored = [m for m in parameters if m.role == role and len(shapes[m.param]) >= 2] or parameters
    roles = {m.param: "norm" for m in members if m.param in norms}
    if group.kind == "expert":
        roles |= {m.param: "expert" for m in parameters if m.role != "out" and len(shapes[m.param]) >= 2}
    parts = [
        Part(
            m.param,
            MemberUnits(shapes[m.param], m.dim, m.index),
            any(m is s for s in scored),
            roles.get(m.param, m.role),
        )
        for m in members
    ]
    return Target(group.name, tuple(parts), group.name, group.minimum)


def _select(model: nn.Module, coupled: Sequence[Target], targets: TargetSpec) -> list[Target]:
    """Keep the groups that the spec means; a group's scored tensors all count as weights, embeddings too."""
    scored = {part.param for target in coupled for part in target.scored}
    entries = [replace(e, is_weight=e.is_weight or bool(scored & set(e.aliases))) for e in catalogue(model)]
    canonical = {alias: entry.name for entry in entries for alias in entry.aliases}
    chosen = resolve(entries, targets)
    return [target for target in coupled if _is_chosen(target, canonical, chosen)]


def _is_chosen(target: Target, canonical: Mapping[str, Any], chosen: Selection) -> bool:
    names = {canonical.get(part.param, part.param) for part in target.scored}
    return bool(names & chosen.wanted) and not names & chosen.excluded
