"""Sub-block reconstruction: what is left of a block is trained until the block computes what it did before pruning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.plans import named_state
from prunus.solvers.base import check_counts, check_numbers
from prunus.solvers.blocks import Block, find_blocks, named_blocks
from prunus.solvers.problem import ratio
from prunus.statistics import Batch, Calibration, Stop, device_of, undisturbed, until_stopped

T = TypeVar("T")


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct_` did.

    errors: block -> ‖f(x) − f_dense(x)‖² / ‖f_dense(x)‖² on the calibration data before and after.
    held_out: the same on data that was not trained on, where it was given.
    left: pruned weight or named block -> why it was left as it was.
    """

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    held_out: dict[str, tuple[float, float]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The mean output error before and after, on held-out data where there is some."""
        pairs = (self.held_out or self.errors).values()
        before, after = (sum(pair[i] for pair in pairs) / max(1, len(pairs)) for i in (0, 1))
        where = " on held-out data" if self.held_out else ""
        return f"mean output error{where} {before:.4f} -> {after:.4f}"

    def __str__(self) -> str:
        lines = [f"{name}: output error {a:.4f} -> {b:.4f}" for name, (a, b) in self.errors.items()]
        lines += [f"{name}: held out {a:.4f} -> {b:.4f}" for name, (a, b) in self.held_out.items()]
        return "\n".join([*lines, *(f"{name}: left, {why}" for name, why in self.left.items())])


def reconstruct_(
    model: nn.Module,
    reference: nn.Module,
    masks: Mapping[str, Tensor],
    calibration: Calibration,
    *,
    blocks: Sequence[str] | None = None,
    steps: int = 200,
    lr: float = 1e-3,
    held_out: Calibration | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Reconstruction:
    """Train each block in turn, by Adam, to give on the pruned model's inputs what it gives in the dense model.

    model: the pruned model in the dense shapes, changed in place; what the masks prune is, and stays, exactly zero.
    reference: the dense one, unchanged. masks: parameter name -> what is kept, bool.
    blocks: names or patterns of modules; None: those of `find_blocks` over the pruned weights.
    steps: of Adam per block, on one batch each, in random order from `seed`; the rate falls from `lr` to zero.
    All parameters of a block are trained, but those that modules outside share. The model runs in eval mode. A block
    that got no better on the calibration data is put back.
    Two passes over the data per block, stopped where the block ends. Memory beside the two models: the inputs and
    outputs of one block on all the data; its parameters four times over; and what one batch leaves for the backward
    pass.
    Raises InputError where no block is found or a setting is wrong, TrainingError where model or data fail.
    """
    check_counts("reconstruction", steps=steps)
    check_numbers("reconstruction", lr=lr)
    zeros = _zeros(model, masks)
    pruned = [name for name, mask in masks.items() if mask.dim() > 1 and not bool(mask.all())]
    done = Reconstruction()
    found = _blocks(model, blocks, pruned, calibration, done)
    trainer = _Trainer(steps, lr, zeros, torch.Generator().manual_seed(seed))
    with undisturbed(model, gradients=True), undisturbed(reference):
        for number, block in enumerate(found, start=1):
            examples = _Examples.of(block, model, reference, calibration)
            unseen = None if held_out is None else _Examples.of(block, model, reference, held_out)
            before = None if unseen is None else unseen.error(model)
            done.errors[block.name] = trainer.run_(model, examples)
            if unseen is not None and before is not None:
                done.held_out[block.name] = (before, unseen.error(model))
            if progress is not None:
                progress(number, len(found), block.name)
    return done


def _zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Set what is pruned to zero; return it, bool, by the id of its parameter."""
    tensors, zeros = named_state(model), dict[int, Tensor]()
    for name, mask in masks.items():
        if name not in tensors:
            raise NameNotFound.of("parameter", name, tensors)
        tensor = tensors[name]
        if mask.shape != tensor.shape or mask.dtype != torch.bool:
            raise InputError(
                f"mask of {name} is {mask.dtype} {tuple(mask.shape)}; bool {tuple(tensor.shape)} is wanted"
            )
        if isinstance(tensor, nn.Parameter):
            zeros[id(tensor)] = ~mask.to(tensor.device)
            with torch.no_grad():
                tensor.masked_fill_(zeros[id(tensor)], 0)
    return zeros


def _blocks(
    model: nn.Module,
    patterns: Sequence[str] | None,
    pruned: Sequence[str],
    calibration: Calibration,
    done: Reconstruction,
) -> list[Block]:
    """Return what is to be trained, and note in `done` what is not."""
    batch = next(calibration.read(device_of(model)))
    if patterns is None:
        blocks = find_blocks(model, pruned, batch)
        why = "it is in no module that runs once and can be trained"
    else:
        blocks, why = named_blocks(model, patterns, batch), "no named block holds it"
    done.left.update({name: why for name in pruned if not any(block.holds(name) for block in blocks)})
    whole = [block for block in blocks if not any(block.holds(name) for name in pruned)]
    done.left.update({block.name: "nothing in it is pruned" for block in whole})
    if patterns is None and pruned and not blocks:
        raise InputError(
            f"no block of {type(model).__name__} to reconstruct: no module inside that holds a pruned weight runs "
            "exactly once; name modules in blocks="
        )
    return [block for block in blocks if block not in whole]


@dataclass
class _Examples:
    """What a block reads in the pruned model and returns in the dense one, a batch at a time.

    inputs: its arguments, verbatim. goals: the floating-point tensors of its output. real: which tokens are no
    padding, (B, T) bool, where something says so. energy: the squares of all goals.
    """

    block: Block
    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    goals: list[list[Tensor]] = field(default_factory=list)
    real: list[Tensor | None] = field(default_factory=list)
    energy: float = 0.0

    @classmethod
    def of(cls, block: Block, model: nn.Module, reference: nn.Module, calibration: Calibration) -> _Examples:
        """Run both models as far as the block."""
        found = cls(block)
        for batch in calibration.read(device_of(model)):
            found.inputs.append(_arguments(block.modules(model)[0], model, batch))
            found.goals.append(_floats(_output(block.modules(reference)[-1], reference, batch), block))
            found.real.append(batch.is_real)
            found.energy += sum(_squares(goal, batch.is_real) for goal in found.goals[-1])
        return found

    def change(self, model: nn.Module, number: int) -> Tensor:
        """Return ‖f(x) − f_dense(x)‖² of one batch, a number."""
        args, kwargs = _copied(self.inputs[number])
        outputs = _floats(self.block.run(model, args, kwargs), self.block)
        pairs = zip(outputs, self.goals[number], strict=True)
        return torch.stack([_real(new - goal, self.real[number]).square().sum() for new, goal in pairs]).sum()

    @torch.no_grad()
    def error(self, model: nn.Module) -> float:
        """Return the error on all batches, relative to the dense outputs."""
        return ratio(sum(float(self.change(model, i)) for i in range(len(self.inputs))), self.energy)


@dataclass
class _Trainer:
    """How blocks are trained. zeros: what is pruned, bool, by the id of its parameter."""

    steps: int
    lr: float
    zeros: Mapping[int, Tensor]
    generator: torch.Generator

    def run_(self, model: nn.Module, examples: _Examples) -> tuple[float, float]:
        """Train a block; return its error before and after, which is no larger."""
        parameters = _own_parameters(model, examples.block)
        before, saved = examples.error(model), [parameter.detach().clone() for parameter in parameters]
        with _borrowed_gradients(parameters), torch.enable_grad():
            self._descend_(model, examples, parameters)
        after = examples.error(model)
        if after < before:
            return before, after
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)
        return before, before

    def _descend_(self, model: nn.Module, examples: _Examples, parameters: Sequence[nn.Parameter]) -> None:
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        scale = len(examples.inputs) / max(examples.energy, torch.finfo(torch.float32).tiny)
        order: list[int] = []
        for step in range(self.steps):
            order = order or torch.randperm(len(examples.inputs), generator=self.generator).tolist()
            loss = examples.change(model, order.pop()) * scale
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                gone = self.zeros.get(id(parameter))
                if gradient is not None and gone is not None:
                    # Not a product: a gradient that overflowed would make NaN of a pruned weight.
                    gradient = gradient.masked_fill(gone, 0)
                parameter.grad = gradient
            optimizer.param_groups[0]["lr"] = self.lr * (1 - step / self.steps)
            optimizer.step()


@contextmanager
def _borrowed_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Put the gradients that parameters have back afterwards."""
    before = [parameter.grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient


def _own_parameters(model: nn.Module, block: Block) -> list[nn.Parameter]:
    """Return the block's floating-point parameters that no module outside shares."""
    named = list(model.named_parameters(remove_duplicate=False))
    outside = {id(parameter) for name, parameter in named if not block.holds(name)}
    own = {id(p): p for name, p in named if block.holds(name) and id(p) not in outside and p.is_floating_point()}
    for parameter in own.values():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise InputError(f"block {block.name} holds {parameter.dtype}; float32 is wanted for Adam: model.float()")
    if not own:
        raise InputError(f"block {block.name} has no parameter of its own; name another in blocks=")
    return list(own.values())


def _arguments(module: nn.Module, model: nn.Module, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a module is called with, all of it."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_copied((args, kwargs)))
        raise Stop

    # Before the module's own hooks, which run again with the block.
    with module.register_forward_pre_hook(keep, with_kwargs=True, prepend=True), until_stopped():
        batch.run(model)
    return _last(seen, module)


def _output(module: nn.Module, model: nn.Module, batch: Batch) -> Any:
    """Return what a module returns."""
    seen: list[Any] = []

    def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.append(_copied(output))
        raise Stop

    with module.register_forward_hook(keep), until_stopped():
        batch.run(model)
    return _last(seen, module)


def _last(seen: list[T], module: nn.Module) -> T:
    if not seen:
        raise TrainingError(f"reconstruction: {type(module).__name__} ran on the first batch and not on every other")
    return seen[-1]


def _copied(item: T) -> T:
    """Copy all that a block might change in place: tensors, containers, caches; modules and functions stay.

    What is one tensor stays one: attention that gets the same tensor as query and key takes another way.
    """
    copies: dict[int, Any] = {}

    def copied(leaf: Any) -> Any:
        if callable(leaf):
            return leaf
        if id(leaf) not in copies:
            copies[id(leaf)] = leaf.detach().clone() if isinstance(leaf, Tensor) else copy.deepcopy(leaf)
        return copies[id(leaf)]

    found: T = pytree.tree_map(copied, item)
    return found


def _floats(output: Any, block: Block) -> list[Tensor]:
    found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise TrainingError(f"block {block.name} returns no floating-point tensor to compare; name another in blocks=")
    return found


def _real(x: Tensor, is_real: Tensor | None) -> Tensor:
    """Leave out padding where the tensor has a row per token."""
    return x[is_real] if is_real is not None and x.shape[:2] == is_real.shape else x


def _squares(x: Tensor, is_real: Tensor | None) -> float:
    return float(_real(x, is_real).square().sum(dtype=torch.float64))
