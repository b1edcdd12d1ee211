"""The memory that activations need at peak, measured on the forward pass as it runs."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.costs._forward import Args, Kwargs, as_args, evaluating, run, tensors


def peak_activation_bytes(model: nn.Module, args: Args, kwargs: Kwargs = None) -> int:
    """Measure the most bytes of activations alive at once during one forward pass in evaluation mode.

    Counted are the example inputs, for the whole pass, and the storages of every tensor that an operation returns,
    from the end of that operation until Python and torch let it go; views count with their storage, once.
    Not counted are parameters and buffers, and what an operation allocates inside and frees again. The figure is
    that of eager execution: what the model's own code still holds is alive.

    args: a tensor or a tuple of positional arguments; the figure is for this batch.
    Raises InputError when the model does not run on them or returns no tensor.
    """
    args = as_args(args)
    tracker = _Tracker(model)
    tracker.add_inputs((args, kwargs))
    with evaluating(model), tracker:
        run(model, args, kwargs)
    return tracker.peak


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive; a storage's end takes its bytes away again."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in (*model.parameters(), *model.buffers()):
            self._known.add(tensor.untyped_storage())

    def add_inputs(self, values: Any) -> None:
        """Inputs count with their own bytes: an example is often a slice of a whole data set's storage."""
        for tensor in tensors(values):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._alive += min(storage.nbytes(), tensor.nbytes)
        self.peak = self._alive

    def add(self, values: Any) -> None:
        for tensor in tensors(values):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._known.add(storage)
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._remove, storage.nbytes())
        self.peak = max(self.peak, self._alive)

    def _remove(self, num_bytes: int) -> None:
        self._alive -= num_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self.add(output)
        return output
