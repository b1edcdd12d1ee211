"""Which parts of a model are reconstructed at a time: attentions, MLPs, residual blocks, runs of layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError, NameNotFound
from prunus.statistics import Batch, undisturbed

PER_RUN = 2


@dataclass(frozen=True)
class Block:
    """Modules that run once per forward, one after the other; the first takes any arguments, each other one tensor.

    parts: their names in the model, one but for runs of layers.
    """

    name: str
    parts: tuple[str, ...]

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """Return the parts in a model."""
        return [model.get_submodule(part) for part in self.parts]

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return its output."""
        first, *others = self.modules(model)
        output = first(*args, **kwargs)
        for module in others:
            output = module(output)
        return output

    def holds(self, name: str) -> bool:
        """Whether a tensor is inside."""
        return any(name.startswith(f"{part}.") for part in self.parts)


def find_blocks(model: nn.Module, weights: Collection[str], batch: Batch) -> list[Block]:
    """Return the smallest modules that run once and hold at least two of the weights, in order of execution.

    A module takes in weights that lie beside the only block inside it, so that no projection is left out. An
    `nn.Sequential` of more than three single layers is cut into runs of two weights each, the last of two or three.
    Layers outside, such as a first convolution or a classifier, are blocks of their own, but for embeddings: what is
    left of a table is right as it is.
    """
    calls = _calls(model, batch)
    finder = _Finder(frozenset(weights), frozenset(name for name, times in calls.items() if len(times) == 1))
    seen = finder.visit("", model)
    blocks = seen.blocks + [Block(name, (name,)) for name in finder.layers(model, seen)]
    return sorted(blocks, key=lambda block: calls[block.parts[0]][0])


def named_blocks(model: nn.Module, patterns: Sequence[str], batch: Batch) -> list[Block]:
    """Return the outermost modules whose names match, in order of execution.

    Raises NameNotFound for a pattern that matches none, InputError for a module that does not run exactly once.
    """
    known, found = [name for name, _ in model.named_modules() if name], list[str]()
    for pattern in patterns:
        matched = [name for name in known if fnmatchcase(name, pattern)]
        if not matched:
            raise NameNotFound.of("module", pattern, known)
        found += matched
    outermost = [name for name in dict.fromkeys(found) if not any(name.startswith(f"{other}.") for other in found)]
    calls = _calls(model, batch)
    for name in outermost:
        if (times := len(calls.get(name, ()))) != 1:
            raise InputError(f"block {name} runs {times} times in a forward pass; one that runs once is wanted")
    return [Block(name, (name,)) for name in sorted(outermost, key=lambda name: calls[name][0])]


@dataclass(frozen=True)
class _Seen:
    """What was found in a module: blocks, and weights that are in none."""

    blocks: list[Block] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Finder:
    """weights: that count; once: modules that run once."""

    weights: frozenset[str]
    once: frozenset[str]

    def visit(self, name: str, module: nn.Module) -> _Seen:
        """Look into a module, its children first."""
        prefix = f"{name}." if name else ""
        inner = {f"{prefix}{key}": self.visit(f"{prefix}{key}", child) for key, child in module.named_children()}
        own = [prefix + key for key, _ in module.named_parameters(recurse=False) if prefix + key in self.weights]
        seen = _Seen([b for each in inner.values() for b in each.blocks], own)
        for each in inner.values():
            seen.loose.extend(each.loose)
        if not seen.blocks and type(module).forward is nn.Sequential.forward:
            counts = {child: len(each.loose) for child, each in inner.items()}
            if runs := self._runs(name, counts, is_root=not name):
                return _Seen(runs)
        if name in self.once and name and seen.loose and len(seen.blocks) + len(seen.loose) >= 2 > len(seen.blocks):
            return _Seen([Block(name, (name,))])
        return seen

    def layers(self, model: nn.Module, seen: _Seen) -> list[str]:
        """Return the modules of loose weights that can be trained by themselves."""
        owners = dict.fromkeys(name.rpartition(".")[0] for name in seen.loose)
        taken = {part for block in seen.blocks for part in block.parts}
        return [
            owner
            for owner in owners
            if owner in self.once - {""}
            and not any(part.startswith(f"{owner}.") for part in taken)
            and not isinstance(model.get_submodule(owner), nn.Embedding)
        ]

    def _runs(self, name: str, counts: Mapping[str, int], *, is_root: bool) -> list[Block]:
        """Cut a Sequential before every other layer that holds weights; none where it is a block itself."""
        children = list(counts)
        starts = [i for i, child in enumerate(children) if counts[child]]
        if len(starts) < (PER_RUN if is_root else 2 * PER_RUN) or not self.once.issuperset(children):
            return []
        cuts = [*starts[: len(starts) // PER_RUN * PER_RUN : PER_RUN], len(children)]
        runs = [tuple(children[start:end]) for start, end in pairwise(cuts)]
        prefix = f"{name}." if name else ""
        return [Block(f"{run[0]}-{run[-1].removeprefix(prefix)}", run) for run in runs]


def _calls(model: nn.Module, batch: Batch) -> dict[str, list[int]]:
    """When each module runs on a batch, as numbers in the order of execution."""
    found: dict[str, list[int]] = {}
    clock = iter(range(1 << 62))

    def note(name: str, *_: object) -> None:
        found.setdefault(name, []).append(next(clock))

    with undisturbed(model), torch.no_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(note, name)))
        batch.run(model)
    return found
