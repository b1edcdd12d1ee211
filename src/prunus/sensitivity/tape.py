"""A tape of the operations that depend on prunable weights, taken while the model runs.

Memory is followed by storage: a tensor is a storage and a way to lie in it, so views need no operation of their own
and writes through views are seen. Every storage carries a set of targets, one bit each: those that its content depends
on. An operation that reads something of a target is taped, with views of all that it reads; what it reads that does not
depend on the target is kept, as it was at that time, for replays. Nothing else is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.sensitivity.contents import Content, Keeper, View, place_of

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_RESHAPES_STORAGE = ("aten::set_", "aten::resize_", "aten::resize_as_")
_TRAINS = ("training", "train")
_SHARES = ("dropout_p", "p")  # of what random operations drop: at 0 they are none


class Refused(BaseException):
    """The tape cannot say what a pruned model would do, and why. No Exception, so that `evaluate` does not catch it."""


@dataclass
class _Place:
    """A storage: a reference that keeps its number from being used again, its targets, its present content."""

    alive: StorageWeakRef
    taint: int = 0
    content: Content = field(default_factory=Content)


@dataclass(frozen=True)
class Op:
    """One operation: what it calls, with views in place of tensors.

    changed: places that it writes to. outputs: the tensors that it returns. taint: the targets that it depends on.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    changed: frozenset[int]
    outputs: tuple[View, ...]
    taint: int


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tape the operations that run while it is entered; one per call of the model.

    taints: place of a weight to its targets. guarded: places that may not be written to, with their names.
    stale: what earlier calls left alive, by place. keeper: keeps what replays need; None for a survey, which
    only asks what depends on what. Afterwards `refused` says of which targets nothing is known, by reason;
    `seconds` how long the operations of each set of targets took.
    """

    def __init__(
        self,
        taints: Mapping[int, int],
        guarded: Mapping[int, str],
        stale: Mapping[int, tuple[StorageWeakRef, int]],
        keeper: Keeper | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.refused: dict[str, int] = {}
        self.seconds: dict[int, float] = {}
        self._taints, self._guarded, self._stale, self._keeper = taints, guarded, stale, keeper
        self._places: dict[int, _Place] = {}
        self._every = 0
        for taint in taints.values():
            self._every |= taint

    def refuse(self, reason: str, taint: int | None = None) -> None:
        """Note that these targets, all by default, cannot be replayed."""
        self.refused[reason] = self.refused.get(reason, 0) | (self._every if taint is None else taint)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and tape it if it depends on a target."""
        named, traits = dict(kwargs or {}), _traits(func)
        if traits.is_composite and torch.is_inference_mode_enabled():
            with self:  # inference mode hands over `linear` and the like whole
                return func._op_dk(_COMPOSITE, *args, **named)
        operands = list(tensors_in((args, named)))
        if any(_is_strange(tensor) for tensor in operands):
            self.refuse(f"{func} reads tensors of a kind that is not followed")
            return func(*args, **named)
        taint = 0
        for tensor in operands:
            taint |= self._place(tensor).taint
        changed = [tensor for argument in traits.written for tensor in tensors_in(argument.value(args, named))]
        self._check(func, traits, args, named, changed, taint)
        for tensor in operands:
            self._hold(tensor, taint)
        views = self._views((args, named)) if taint and self._keeper is not None else ((), {})
        for tensor in changed:
            self._freeze(tensor)
        begin = time.perf_counter()
        result = func(*args, **named)
        if taint:
            self.seconds[taint] = self.seconds.get(taint, 0.0) + time.perf_counter() - begin
            self._note(func, views, changed, result, taint)
        return result

    def taint_of(self, tensor: Tensor) -> int:
        """Return the targets that a tensor depends on."""
        return self._place(tensor).taint

    def output(self, tensor: Tensor) -> View:
        """Return a view of what the call returned."""
        return self._view(tensor)

    def read(self) -> set[int]:
        """Return the places of weights that were read."""
        return self._places.keys() & self._taints.keys()

    def left(self) -> dict[int, tuple[StorageWeakRef, int]]:
        """Return what depends on targets and is still there, by place."""
        places = {place: (each.alive, each.taint) for place, each in self._places.items() if each.taint}
        return {k: v for k, v in places.items() if k not in self._taints and is_alive(v[0])}

    def _place(self, tensor: Tensor) -> _Place:
        storage = tensor.untyped_storage()
        number = int(storage._cdata)
        found = self._places.get(number)
        if found is None:
            found = _Place(_reference(storage), self._taints.get(number, 0))
            self._places[number] = found
            if number in self._stale:
                self.refuse("a tensor of an earlier call is read again (a cache of the model's, or autocast's)",
                            self._stale[number][1])  # fmt: skip
        return found

    def _check(self, func: Any, traits: _Traits, args: Any, named: Any, changed: list[Tensor], taint: int) -> None:
        if traits.is_random and (traits.share is None or traits.share.value(args, named) != 0):
            self.refuse(f"{func} draws random numbers")
        for tensor in changed:
            if place_of(tensor) in self._guarded:
                self.refuse(f"the call changes {self._guarded[place_of(tensor)]} in place")
        if traits.trains is not None and traits.trains.value(args, named):
            self.refuse(f"{func} runs in training mode")
        if taint and traits.reads_data and not self._is_indexing(func, args, named):
            self.refuse(f"{func} makes numbers or shapes of what depends on the weights", taint)
        if taint and traits.reshapes_storage:
            self.refuse(f"{func} changes a tensor's storage", taint)

    def _is_indexing(self, func: Any, args: Any, named: Any) -> bool:
        """Tell whether this is indexing by numbers, or by masks that no target changes: its shape stays."""
        masks = (i for i in tensors_in((args[1:], named)) if i.dtype in (torch.bool, torch.uint8))
        return func is torch.ops.aten.index.Tensor and not any(self._place(mask).taint for mask in masks)

    def _hold(self, tensor: Tensor, taint: int) -> None:
        """Keep an operand for the targets that it does not depend on itself."""
        place = self._place(tensor)
        if self._keeper is not None and taint & ~place.taint:
            self._keeper.keep(place.content, tensor.untyped_storage())

    def _freeze(self, tensor: Tensor) -> None:
        place = self._place(tensor)
        if self._keeper is not None:
            self._keeper.freeze(place.content)
        place.content = Content()

    def _view(self, tensor: Tensor) -> View:
        return View.of(tensor, self._place(tensor).content)

    def _views(self, operands: Any) -> Any:
        """Put a view in the place of each tensor, the same for the same: attention asks whether query is key."""
        known: dict[int, View] = {}
        return mapped(operands, lambda tensor: known.setdefault(id(tensor), self._view(tensor)))

    def _note(self, func: Any, views: Any, changed: list[Tensor], result: Any, taint: int) -> None:
        outputs = list(tensors_in(result))
        if any(_is_strange(tensor) for tensor in outputs):
            self.refuse(f"{func} returns tensors of a kind that is not followed", taint)
            return
        is_view = not changed and all(place_of(tensor) in self._places for tensor in outputs)
        for tensor in (*changed, *outputs):
            self._place(tensor).taint |= taint
        if self._keeper is None or (is_view and outputs):
            return
        args, named = views
        places = frozenset(place_of(tensor) for tensor in changed)
        self.ops.append(Op(func, args, named, places, tuple(self._view(tensor) for tensor in outputs), taint))


def is_alive(reference: StorageWeakRef) -> bool:
    """Tell whether a storage is still there."""
    return not reference.expired()  # type: ignore[no-untyped-call]


def _reference(storage: torch.UntypedStorage) -> StorageWeakRef:
    return StorageWeakRef(storage)  # type: ignore[no-untyped-call]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in what an operation takes or returns, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested arguments with every tensor, or every view, changed."""
    if isinstance(value, (Tensor, View)):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([mapped(item, change) for item in value])
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def _is_strange(tensor: Tensor) -> bool:
    """Tell whether a tensor is more than a storage and a way to lie in it."""
    if tensor.layout is not torch.strided or not (type(tensor) is Tensor or isinstance(tensor, nn.Parameter)):
        return True
    return tensor.is_quantized or tensor.is_neg() or tensor.is_conj()


@dataclass(frozen=True)
class _Argument:
    """Where an operation takes an argument: its place and name, and what it is when it is not given."""

    number: int
    name: str
    default: Any

    def value(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        """Return the argument of one call."""
        return args[self.number] if self.number < len(args) else named.get(self.name, self.default)


@dataclass(frozen=True)
class _Traits:
    """What an operation's schema and tags say.

    written: arguments that it writes to. trains: whether it is in training mode. share: what it drops at random.
    """

    is_composite: bool
    is_random: bool
    reads_data: bool
    reshapes_storage: bool
    written: tuple[_Argument, ...]
    trains: _Argument | None
    share: _Argument | None


@cache
def _traits(func: Any) -> _Traits:
    arguments = [_Argument(n, a.name, a.default_value) for n, a in enumerate(func._schema.arguments)]
    writes = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    return _Traits(
        torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE),
        torch.Tag.nondeterministic_seeded in func.tags,
        torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags,
        func._schema.name in _RESHAPES_STORAGE,
        tuple(argument for argument, is_written in zip(arguments, writes, strict=True) if is_written),
        next((argument for argument in arguments if argument.name in _TRAINS), None),
        next((argument for argument in arguments if argument.name in _SHARES), None),
    )
