"""Run a tape again with other weights: only what depends on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, UntypedStorage

from prunus.sensitivity.contents import View, copied
from prunus.sensitivity.tape import Op, Refused, mapped, tensors_in

Storages = dict[int, UntypedStorage]


class Player:
    """Replays what one call taped, as often as asked. outputs: views of what the call returned."""

    def __init__(self, ops: Sequence[Op], outputs: Sequence[View]) -> None:
        self._ops = ops
        self._outputs = outputs
        self._last: dict[int, list[int]] = {}
        last = {place: number for number, op in enumerate(ops) for place in _places(op)}
        for place in last.keys() - {view.place for view in outputs}:
            self._last.setdefault(last[place], []).append(place)

    def play(self, bit: int, weights: Mapping[int, UntypedStorage]) -> list[UntypedStorage | None]:
        """Return the storages of the outputs under other weights; None for one that does not depend on them.

        bit: the target's. weights: the target's pruned storages by place; they are not changed.
        Raises Refused when an operation lays its result out in another way than before.
        """
        storages: Storages = dict(weights)
        with torch.no_grad(), _without_autocast():
            for number, op in enumerate(self._ops):
                if op.taint & bit:
                    _run(op, storages)
                    for place in self._last.get(number, ()):
                        storages.pop(place, None)
        return [storages.get(view.place) for view in self._outputs]


def _places(op: Op) -> set[int]:
    found = {view.place for view in op.outputs}
    mapped((op.args, op.kwargs), lambda view: found.add(view.place))
    return found


def _run(op: Op, storages: Storages) -> None:
    known: dict[int, Tensor] = {}

    def tensor(view: View) -> Tensor:
        if id(view) in known:
            return known[id(view)]
        storage = storages.get(view.place)
        if storage is None:
            assert view.content.storage is not None, "an operand that no target changes was not kept"
            storage = view.content.storage
            if view.place in op.changed:  # its first change that depends on the target
                storage = storages[view.place] = copied(storage)
        known[id(view)] = view.on(storage)
        return known[id(view)]

    args, kwargs = mapped((op.args, op.kwargs), tensor)
    for view, result in zip(op.outputs, tensors_in(op.function(*args, **kwargs)), strict=True):
        if not view.fits(result):
            raise Refused(f"{op.function} laid its result out in another way")
        storages[view.place] = result.untyped_storage()


@contextmanager
def _without_autocast() -> Iterator[None]:
    """What is taped lies below autocast: its casts are operations of the tape."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
