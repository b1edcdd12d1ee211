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
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.sensitivity.contents import Content, Keeper, View, place_of

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
        named = dict(kwargs or {})
        key = torch._C.DispatchKey.CompositeImplicitAutograd
        if torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key):
            with self:  # inference mode hands over `linear` and the like whole
                return func._op_dk(key, *args, **named)
        operands = list(tensors_in((args, named)))
        if any(_is_strange(tensor) for tensor in operands):
            self.refuse(f"{func} reads tensors of a kind that is not followed")
            return func(*args, **named)
        taint = 0
        for tensor in operands:
            taint |= self._place(tensor).taint
        changed = [tensor for tensor in _written(func, args, named) if isinstance(tensor, Tensor)]
        self._check(func, args, named, changed, taint)
        for tensor in operands:
            self._hold(tensor, taint)
        views = mapped((args, named), self._view) if taint and self._keeper is not None else ((), {})
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

    def _check(self, func: Any, args: Any, named: Any, changed: list[Tensor], taint: int) -> None:
        tags = func.tags
        if torch.Tag.nondeterministic_seeded in tags and _argument(func, args, named, _SHARES, 1.0) != 0:
            self.refuse(f"{func} draws random numbers")
        for tensor in changed:
            if place_of(tensor) in self._guarded:
                self.refuse(f"the call changes {self._guarded[place_of(tensor)]} in place")
        if _argument(func, args, named, _TRAINS, False):
            self.refuse(f"{func} runs in training mode")
        if not taint:
            return
        if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
            self.refuse(f"{func} makes numbers or shapes of what depends on the weights", taint)
        if func._schema.name in _RESHAPES_STORAGE:
            self.refuse(f"{func} changes a tensor's storage", taint)

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


def _written(func: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments that an operation writes to, by its schema."""
    if not func._schema.is_mutable:
        return
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else named.get(argument.name)
            yield from value if isinstance(value, (list, tuple)) else (value,)


def _argument(func: Any, args: tuple[Any, ...], named: Mapping[str, Any], names: tuple[str, ...], other: Any) -> Any:
    """Return the first argument of one of these names, its default where it is not given; else the other value."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.name in names:
            return args[number] if number < len(args) else named.get(argument.name, argument.default_value)
    return other
