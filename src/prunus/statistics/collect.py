"""Collect what criteria and solvers need, in as few passes over the data as there are ways of observing."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import Kind, OfGradients, OfInputGradients, OfInputs, OfModel, statistic, word
from prunus.statistics.layers import Layer, without_padding
from prunus.statistics.modes import undisturbed
from prunus.statistics.store import Key, Statistics
from prunus.statistics.watch import Watch

Requests = Mapping[str, Sequence[Piece]]
"""Which tensors each statistic is wanted of."""


def collect(model: nn.Module, requests: Requests, calibration: Calibration | None) -> Statistics:
    """Observe a model on calibration data; it is run in eval mode and left as it was.

    Nothing of a batch is kept but what is added to the sums. Passes over the data: one for everything about inputs
    and mini-batches' gradients together, one with a backward pass per sample for statistics of samples, and those
    that a statistic makes of its own (see its docstring).
    Raises InputError where there is no calibration data, TrainingError where model, data or loss fail.
    """
    found = Statistics()
    kinds = {name: statistic(name) for name, pieces in requests.items() if pieces}
    if not kinds:
        return found
    if calibration is None:
        words = ", ".join(sorted(word(name) for name in kinds))
        raise InputError(f"calibration data is missing: {words} must be observed; give data=, and loss= for gradients")
    with undisturbed(model, gradients=any(not isinstance(kind, OfInputs) for kind in kinds.values())):
        _shared_passes(model, kinds, requests, calibration, found)
        for name, kind in kinds.items():
            if isinstance(kind, OfModel):
                kind.collect_(model, requests[name], calibration, found, name)
    return found


def _shared_passes(
    model: nn.Module, kinds: Mapping[str, Kind], requests: Requests, calibration: Calibration, found: Statistics
) -> None:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    watched = {name: kind for name, kind in kinds.items() if isinstance(kind, OfInputs | OfInputGradients)}
    by_batch = {n: k for n, k in kinds.items() if isinstance(k, OfGradients) and not k.by_sample}
    by_sample = {n: k for n, k in kinds.items() if isinstance(k, OfGradients) and k.by_sample}
    if watched or by_batch:
        inputs = _Inputs(model, watched, requests, found)
        needs_loss = bool(by_batch) or any(isinstance(kind, OfInputGradients) for kind in watched.values())
        for batch in calibration.read(device):
            with inputs.watching(batch), torch.set_grad_enabled(needs_loss):
                output = batch.run(model)
                if needs_loss:
                    _observe(model, calibration.loss_of(output, batch), by_batch, requests, found, inputs.followed)
    if by_sample:
        for batch in calibration.read(device):
            for sample in batch.samples():
                with torch.enable_grad():
                    loss = calibration.loss_of(sample.run(model), sample)
                _observe(model, loss, by_sample, requests, found)


def _observe(
    model: nn.Module,
    loss: Tensor,
    kinds: Mapping[str, OfGradients],
    requests: Requests,
    found: Statistics,
    followed: Sequence[Followed] = (),
) -> None:
    """Differentiate the loss once, and add what each statistic makes of the gradients."""
    named = dict(model.named_parameters(remove_duplicate=False))
    wanted = list(dict.fromkeys(piece.param for name in kinds for piece in requests[name] if piece.param in named))
    tensors = [named[name] for name in wanted] + [x for *_, x in followed]
    values = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
    for (seen, place, layer, x), value in zip(followed, values[len(wanted) :], strict=True):
        found.add_(place, *seen.observe(layer, x.detach(), value))
    gradients = dict(zip(wanted, values, strict=False))
    for name, kind in kinds.items():
        for piece in requests[name]:
            key: Key = (name, piece.param, piece.target) if kind.by_unit else (name, piece.param)
            if piece.param in gradients:
                found.add_(key, kind.observe(piece, gradients[piece.param]))


Followed = tuple[OfInputGradients, Key, Layer, Tensor]
"""An input whose gradient is wanted: by which statistic, under which key."""


class _Inputs:
    """One pass's view of what the weights read.

    followed: the inputs of the forward under way whose gradients are wanted.
    """

    def __init__(
        self, model: nn.Module, kinds: Mapping[str, OfInputs | OfInputGradients], requests: Requests, found: Statistics
    ) -> None:
        named = dict(model.named_parameters(remove_duplicate=False))
        self._kinds, self._found = kinds, found
        self._wanted: dict[str, list[str]] = {}
        for name in kinds:
            for param in dict.fromkeys(piece.param for piece in requests[name]):
                self._wanted.setdefault(param, []).append(name)
        self._names = {id(named[param]): param for param in self._wanted if param in named}
        self._sources: dict[str, str] = {}
        self._real: Tensor | None = None
        self._recent: dict[tuple[Any, ...], tuple[str, weakref.ref[Tensor]]] = {}
        self._calls: Counter[str] = Counter()
        self.followed: list[Followed] = []

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """See one forward pass, and what comes after it of the same batch."""
        self._real = batch.is_real
        with Watch(self._names, self._see) if self._names else nullcontext():
            yield
        self._recent.clear()
        self.followed.clear()
        for name, source in self._sources.items():
            if self._calls[name] != self._calls[source]:
                raise _torn(name, source)

    def _see(self, layer: Layer, x: Tensor) -> None:
        source = self._source(layer, x)
        self._calls[layer.name] += 1
        self._found.layers.setdefault(layer.name, layer)
        rows = without_padding(layer, x.detach(), self._real)
        for name in self._wanted[layer.name]:
            kind, key = self._kinds[name], (name, layer.name)
            if isinstance(kind, OfInputGradients):
                if x.requires_grad:
                    self.followed.append((kind, key, layer, x))
            elif source != layer.name and (name, source) in self._found:
                self._found.share_(key, (name, source))
            else:
                with torch.no_grad():
                    total = self._found.open_(key, partial(kind.start, layer, rows))
                    self._found.count_(key, kind.add_(total, layer, rows))

    def _source(self, layer: Layer, x: Tensor) -> str:
        """Return the layer that read this very tensor first, in the same way; it counts for all that do."""
        way = (id(x), x._version, layer.way)
        first, seen = self._recent.get(way, (layer.name, None))
        if seen is None or seen() is not x:
            self._recent[way], first = (layer.name, weakref.ref(x)), layer.name
        established = self._sources.setdefault(layer.name, first)
        if established not in (layer.name, first):
            raise _torn(layer.name, established)
        return established


def _torn(name: str, source: str) -> InputError:
    return InputError(f"{name} and {source} read one tensor at times and different ones at others; collect them apart")
