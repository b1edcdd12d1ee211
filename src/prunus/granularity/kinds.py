"""What is removed together: one small class per granularity, each turning a shape into units."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch

from prunus.errors import InputError
from prunus.granularity.checks import check_size, need_dims
from prunus.granularity.patterns import Pattern, Tetris
from prunus.granularity.spelling import build
from prunus.granularity.units import NMUnits, TileUnits, Units

_ALONG = {"out": 0, "in": 1}


@runtime_checkable
class Granularity(Protocol):
    """What is removed together; `units` raises InputError for a shape that has no such units."""

    @property
    def name(self) -> str:
        """The spelling that `granularity()` reads back."""

    def units(self, shape: torch.Size) -> Units:
        """See a tensor of this shape as units."""


@dataclass(frozen=True)
class Element:
    """Single weights: fine-grained, unstructured."""

    name: ClassVar[str] = "element"

    def units(self, shape: torch.Size) -> Units:
        """One unit per element."""
        return TileUnits(shape, [1] * len(shape))


@dataclass(frozen=True)
class Vector:
    """Runs of `length` neighbours along `dim` (0: outputs, 1: inputs); the last may be short."""

    length: int
    dim: int = 1

    def __post_init__(self) -> None:
        check_size("vector length", self.length)
        if not isinstance(self.dim, int) or isinstance(self.dim, bool):
            raise InputError(f"vector dim is {self.dim!r}; a whole number is wanted, or along=out, along=in")

    @property
    def name(self) -> str:
        """`vector(length, dim=dim)`."""
        return f"vector({self.length}, dim={self.dim})"

    def units(self, shape: torch.Size) -> Units:
        """ceil(size / length) units along `dim`, at every position of the other dims."""
        if not -len(shape) <= self.dim < len(shape):
            raise InputError(f"{self.name} on shape {tuple(shape)}: there is no dim {self.dim}; name another dim")
        tile = [1] * len(shape)
        tile[self.dim] = self.length
        return TileUnits(shape, tile)


@dataclass(frozen=True)
class Block:
    """Tiles of rows × cols of the matrix [outputs, inputs · kernel]; the last ones may be short."""

    rows: int
    cols: int

    def __post_init__(self) -> None:
        check_size("block rows", self.rows)
        check_size("block cols", self.cols)

    @property
    def name(self) -> str:
        """`block(rows, cols)`."""
        return f"block({self.rows}, {self.cols})"

    def units(self, shape: torch.Size) -> Units:
        """ceil(R / rows) · ceil(C / cols) units."""
        need_dims(self.name, shape, 2)
        matrix = (shape[0], shape[1:].numel())
        return TileUnits(shape, (self.rows, self.cols), matrix)


@dataclass(frozen=True)
class NM:
    """n *kept* of every m along the input axis (dim 1): `2:4`, `1:4`, `4:8`; per row and kernel position.

    permute: whether channels are put in a better order first, which `prunus.prune` and recipes do.
    """

    n: int
    m: int
    permute: bool = False

    def __post_init__(self) -> None:
        check_size("n", self.n)
        check_size("m", self.m)
        if self.n >= self.m:
            raise InputError(
                f"{self.n}:{self.m} prunes nothing: n is the number kept of every m; write n < m, as in 2:4"
            )

    @property
    def name(self) -> str:
        """`n:m`, or `n:m(permute=yes)`."""
        return f"{self.n}:{self.m}{'(permute=yes)' * self.permute}"

    @property
    def plain(self) -> NM:
        """The same of channels as they stand."""
        return NM(self.n, self.m)

    def units(self, shape: torch.Size) -> Units:
        """One unit per element, chosen within groups of m; a last short group of r keeps ceil(r·n/m)."""
        if self.permute:
            raise InputError(
                f"{self.name} puts channels in order first, which `prunus.prune` and recipes do; elsewhere take the "
                f"model that `prunus.permuting.permuted` returns, and write {self.plain.name}"
            )
        need_dims(self.name, shape, 2)
        if 0 < shape[1] < self.m:
            raise InputError(
                f"{self.name} on a {shape[1]}-column weight of shape {tuple(shape)}: a group of {self.m} "
                "inputs does not fit, there is nothing to gain; exclude this weight"
            )
        if not shape[1]:
            return TileUnits(shape, [1] * len(shape))
        return NMUnits(shape, self.n, self.m)


@dataclass(frozen=True)
class Kernel:
    """The kh × kw slice of one (output, input) pair of a convolution."""

    name: ClassVar[str] = "kernel"

    def units(self, shape: torch.Size) -> Units:
        """out · in units of kh·kw elements."""
        need_dims(self.name, shape, 3)
        return TileUnits(shape, (1, 1, *shape[2:]))


@dataclass(frozen=True)
class Filter:
    """Everything that makes one output: a slice of dim 0, a row of a linear layer."""

    name: ClassVar[str] = "filter"

    def units(self, shape: torch.Size) -> Units:
        """One unit per position of dim 0."""
        need_dims(self.name, shape, 1)
        return TileUnits(shape, (1, *shape[1:]), is_slice=True)


@dataclass(frozen=True)
class Channel:
    """Everything that reads one input: a slice of dim 1, a column of a linear layer."""

    name: ClassVar[str] = "channel"

    def units(self, shape: torch.Size) -> Units:
        """One unit per position of dim 1."""
        need_dims(self.name, shape, 2)
        return TileUnits(shape, (shape[0], 1, *shape[2:]), is_slice=True)


@dataclass(frozen=True)
class Shape:
    """The same position (input, i, j) of all filters: a column of the unfolded convolution.

    Source: Wen et al. 2016, SSL, arXiv:1608.03665, section 3.1: shape-wise sparsity.
    """

    name: ClassVar[str] = "shape"

    def units(self, shape: torch.Size) -> Units:
        """in · kh · kw units of as many elements as there are outputs; in a linear layer, its columns."""
        need_dims(self.name, shape, 2)
        return TileUnits(shape, (shape[0], *[1] * (len(shape) - 1)))


@dataclass(frozen=True)
class Depth:
    """Whole residual blocks of a traced model, see `block_target`; single weights have no such units."""

    name: ClassVar[str] = "layer"

    def units(self, shape: torch.Size) -> Units:
        """Raise InputError: a block is more than one weight."""
        raise InputError(
            "granularity layer leaves out whole residual blocks, at once, which `prunus.plan` and `prunus.prune` do; "
            "choose another one for single weights and schedules"
        )


FIXED = (NM, Pattern, Tetris)
"""The granularities that say themselves how much is pruned, so that no ratio is asked for."""


GROUP_KINDS = ("head", "head dim", "hidden", "ffn", "expert", "feature")
"""What the units of a group may be, where they are more than channels."""


def granularity(spec: str | Granularity) -> Granularity:
    """Read a granularity by its name.

    spec: `element`, `vector(4, dim=1)`, `vector(16, along=out)`, `block(4, 4)`, `2:4`, `2:4(permute=yes)`,
        `pattern(4, 8)`, `tetris(…)`, `shape`, `kernel`, `filter`, `channel`, `layer`, or an object with `name` and
        `units`.
    Raises NameNotFound for an unknown name, InputError for wrong arguments.
    """
    if not isinstance(spec, str):
        if isinstance(spec, type) or not isinstance(spec, Granularity):
            raise InputError(f"granularity is {spec!r}; a name such as 'filter' or an object with units() is wanted")
        return spec
    ratio = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*(?:\(\s*permute\s*=\s*(yes|no)\s*\))?\s*", spec)
    if ratio:
        return NM(int(ratio[1]), int(ratio[2]), ratio[3] == "yes")
    if spec in GROUP_KINDS:
        raise InputError(f"{spec} is a kind of group: say granularity='filter' and targets={{'kind': '{spec}'}}")
    if re.match(r"\s*\d+\s*:", spec):
        raise InputError(f"granularity {spec!r} cannot be read; write n:m, such as 2:4, or 2:4(permute=yes)")
    return build("granularity", spec, _KNOWN)


def unpermuted(spec: str | Granularity) -> str | Granularity:
    """Return a granularity without the wish that channels be put in order: what is pruned once that is done."""
    kind = granularity(spec)
    return kind.plain.name if isinstance(kind, NM) and kind.permute else spec


def _vector(length: int, dim: int | None = None, along: str | None = None) -> Vector:
    if along is None:
        return Vector(length, 1 if dim is None else dim)
    if dim is not None or along not in _ALONG:
        raise InputError(f"vector(dim={dim}, along={along}): give either dim=0 or 1, or along=out or along=in")
    return Vector(length, _ALONG[along])


def _pattern(k: int, m: int = 8, centre: str = "free") -> Pattern:
    if centre not in ("kept", "free"):
        raise InputError(f"pattern(centre={centre}): write centre=kept, or leave it out")
    return Pattern(k, m, centre == "kept")


def _tetris(*shapes: str) -> Tetris:
    return Tetris(shapes)


_KNOWN: dict[str, Callable[..., Granularity]] = {
    "element": Element,
    "vector": _vector,
    "block": Block,
    "pattern": _pattern,
    "tetris": _tetris,
    "shape": Shape,
    "kernel": Kernel,
    "filter": Filter,
    "channel": Channel,
    "layer": Depth,
    "n:m": NM,
}
