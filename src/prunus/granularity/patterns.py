"""Patterns: every kernel of a convolution keeps one of a few shapes, so that a compiler can unroll each of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from prunus.errors import InputError
from prunus.granularity.checks import check_size, need_dims
from prunus.granularity.units import TileUnits, Units
from prunus.selection import lowest_k_per_row

_Votes: TypeAlias = tuple[Tensor, Tensor]
_ROWS = re.compile(r"[x.]+(-[x.]+)*")


class PatternUnits(TileUnits):
    """Single elements of which each kernel keeps the k of one shape: the one whose scores sum to the most.

    library: makes the shapes, (S, E) bool, out of the kernels' scores, (kernels, E), E elements per kernel.
    """

    def __init__(self, shape: Sequence[int], k: int, library: Callable[[Tensor], Tensor]) -> None:
        super().__init__(shape, [1] * len(shape))
        self._area = self.shape[2:].numel()
        self._library = library
        self.fixed = self.num_units - self.num_units // self._area * k

    def pick(self, scores: Tensor, num_pruned: int) -> Tensor:
        """Mark all but the best shape's entries in every kernel, whatever `num_pruned` says; ties: the first shape."""
        kernels = _finite(scores).reshape(-1, self._area).double()
        shapes = self._library(kernels)
        sums = kernels @ shapes.to(kernels).T
        is_best = sums == sums.amax(dim=1, keepdim=True)
        return ~shapes[is_best.int().argmax(dim=1)].reshape(-1)


@dataclass(frozen=True)
class Pattern:
    """k entries of every kernel are kept, in one of m shapes that are chosen for each tensor.

    Every kernel votes for the shape of its own k best entries; the m shapes with the most votes are the library.
    keep_centre: the middle entry belongs to every shape, as in PatDNN; written `centre=kept`.
    Source: Niu et al. 2020, PatDNN, arXiv:2001.00138 (k = 4, m = 6 to 8).
    """

    k: int
    m: int = 8
    keep_centre: bool = False

    def __post_init__(self) -> None:
        check_size("k of a pattern", self.k)
        check_size("m of a pattern", self.m)

    @property
    def name(self) -> str:
        """`pattern(k, m)` or `pattern(k, m, centre=kept)`."""
        return f"pattern({self.k}, {self.m}{', centre=kept' if self.keep_centre else ''})"

    def units(self, shape: torch.Size) -> Units:
        """One unit per element, of which every kernel keeps k."""
        _check_kernel(self.name, shape, self.k)
        if self.keep_centre and any(size % 2 == 0 for size in shape[2:]):
            raise InputError(f"{self.name} on shape {tuple(shape)}: a kernel of even size has no centre; leave it out")
        if not shape.numel():
            return TileUnits(shape, [1] * len(shape))
        return PatternUnits(shape, self.k, lambda kernels: _elected([self._votes(kernels)], self.m))

    def _votes(self, kernels: Tensor) -> _Votes:
        """Return the shapes that kernels, (N, E), would choose, (S, E) bool with True for pruned, and their votes."""
        area = kernels.shape[1]
        if self.keep_centre:
            kernels = kernels.clone()
            kernels[:, area // 2] = torch.inf
        pruned = lowest_k_per_row(kernels, area - self.k)
        shapes, votes = torch.unique(pruned, dim=0, return_counts=True)
        return shapes, votes


@dataclass(frozen=True)
class Tetris:
    """Every kernel keeps one of the given shapes: `tetris(.x.-xxx-..., xx.-xx.-...)`, rows joined by `-`, x kept.

    shapes: of one kernel size and with equally many entries; with equal sums the first is taken.
    """

    shapes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.shapes:
            raise InputError("tetris has no shapes; write them as tetris(.x.-xxx-..., xx.-xx.-...)")
        first = self.shapes[0]
        for shape in self.shapes:
            if not isinstance(shape, str) or not _ROWS.fullmatch(shape) or len(set(map(len, shape.split("-")))) > 1:
                raise InputError(f"tetris shape {shape!r} cannot be read; write rows of one length, as in .x.-xxx-...")
            if (_size(shape), shape.count("x")) != (_size(first), first.count("x")):
                raise InputError(f"tetris shapes {first} and {shape} differ in size or in their number of x")
        if len(set(first.replace("-", ""))) < 2:
            raise InputError(f"tetris shape {first} keeps all or nothing; use both x and .")

    @property
    def name(self) -> str:
        """`tetris(shape, shape, …)`."""
        return f"tetris({', '.join(self.shapes)})"

    def units(self, shape: torch.Size) -> Units:
        """One unit per element, of which every kernel keeps those of one shape."""
        k, size = self.shapes[0].count("x"), _size(self.shapes[0])
        _check_kernel(self.name, shape, k)
        if (1,) * (4 - len(shape)) + tuple(shape[2:]) != size:
            raise InputError(f"{self.name} on shape {tuple(shape)}: kernels of {size} are wanted; choose other targets")
        if not shape.numel():
            return TileUnits(shape, [1] * len(shape))
        library = torch.tensor([[entry == "x" for entry in text.replace("-", "")] for text in self.shapes])
        return PatternUnits(shape, k, lambda kernels: library.to(kernels.device))


def pattern_library(scores: Iterable[Tensor], k: int, m: int = 8, *, keep_centre: bool = False) -> Tetris:
    """Choose one library for all tensors, by the votes of all their kernels; see `Pattern`.

    scores: tensors (O, I, kh, kw) of one kernel size, low = prune.
    Returns the granularity that prunes to these m shapes, or to fewer where fewer got a vote.
    Raises InputError for other kernels and for NaN.
    """
    kind, votes, sizes = Pattern(k, m, keep_centre), [], set()
    for each in scores:
        kind.units(each.shape)
        sizes.add(tuple(each.shape[2:]))
        votes.append(kind._votes(_finite(each).reshape(-1, each.shape[2:].numel())))
    if len(sizes) != 1 or len(size := next(iter(sizes))) != 2:
        raise InputError(f"one library fits one kernel size (kh, kw), not {sorted(sizes)}; make one for each")
    texts = ("".join("x" if kept else "." for kept in row) for row in _elected(votes, m).tolist())
    return Tetris(tuple("-".join(text[i : i + size[1]] for i in range(0, len(text), size[1])) for text in texts))


def _elected(votes: Sequence[_Votes], m: int) -> Tensor:
    """Return the m shapes with the most votes, (S, E) bool with True for kept; ties: those of earlier entries first."""
    shapes, which = torch.unique(torch.cat([shapes for shapes, _ in votes]), dim=0, return_inverse=True)
    cast = torch.cat([counts for _, counts in votes])
    totals = torch.zeros(len(shapes), dtype=cast.dtype, device=cast.device).index_add(0, which, cast)
    elected = totals.argsort(descending=True, stable=True)[:m]
    return torch.logical_not(shapes[elected])


def _finite(scores: Tensor) -> Tensor:
    if not bool(scores.isfinite().all()):
        raise InputError("scores contain NaN or inf, which no sum over a shape can rank; mend the scores first")
    return scores


def _check_kernel(name: str, shape: torch.Size, k: int) -> None:
    need_dims(name, shape, 3)
    area = shape[2:].numel()
    if k >= area:
        raise InputError(
            f"{name} on shape {tuple(shape)}: a kernel of {area} has no {k} entries to keep and others to prune; "
            "exclude this weight"
        )


def _size(shape: str) -> tuple[int, ...]:
    rows = shape.split("-")
    return len(rows), len(rows[0])
