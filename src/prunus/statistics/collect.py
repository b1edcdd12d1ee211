"""Collect what criteria and solvers need, in as few passes over the data as there are ways of observing."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from prunus.errors import InputError
from prunus.granularity import Piece
from prunus.statistics.calibration import Batch, Calibration
from prunus.statistics.kinds import Kind, OfGradients, OfInputGradients, OfInputs, OfModel, OfTraining, statistic, word
from prunus.statistics.layers import Layer, without_padding
from prunus.statistics.modes import device_of, undisturbed
from prunus.statistics.store import Key, Statistics
from prunus.statistics.watch import Watch

Requests = Mapping[str, Sequence[Piece]]
"""Which tensors each statistic is wanted of."""

_K = TypeVar("_K", bound=Kind)


def collect(
    model: nn.Module, requests: Requests, calibration: Calibration | None, gathered: Statistics | None = None
) -> Statistics:
    """Observe a model on calibration data; it is run in eval mode and left as it was.

    gathered: what a training under way has observed, for statistics of its steps; the others are added to it.
    Nothing of a batch is kept but what is added to the sums. Passes over the data: one for everything about inputs
    and mini-batches' gradients together, one with a backward pass per sample for statistics of samples, and those
    that a statistic makes of its own (see its docstring).
    Raises InputError where there is no calibration data, or no training that it could be gathered in, TrainingError
    where model, data or loss fail.
    """
    kinds = {name: statistic(name) for name, pieces in requests.items() if pieces}
    found = _gathered(_only(OfTraining, kinds), gathered)
    kinds = {name: kind for name, kind in kinds.items() if not isinstance(kind, OfTraining)}
    if not kinds:
        return found
    if calibration is None:
        words = ", ".join(sorted(word(name) for name in kinds))
        raise InputError(f"calibration data is missing: {words} must be observed; give data=, and loss= for gradients")
    with undisturbed(model, gradients=any(not isinstance(kind, OfInputs) for kind in kinds.values())):
        _pass_by_batches(model, kinds, requests, calibration, found)
        _pass_by_samples(model, kinds, requests, calibration, found)
        for name, kind in kinds.items():
            if isinstance(kind, OfModel):
                kind.collect_(model, requests[name], calibration, found, name)
    return found


def _gathered(names: Mapping[str, OfTraining], gathered: Statistics | None) -> Statistics:
    if gathered is None and names:
        words = ", ".join(map(word, names))
        raise InputError(
            f"{words} is gathered while a model is trained; give the criterion to a policy of "
            "`prunus.PruningScheduler`, or choose one that observes the model as it is"
        )
    return Statistics() if gathered is None else gathered


def _pass_by_batches(
    model: nn.Module, kinds: Mapping[str, Kind], requests: Requests, calibration: Calibration, found: Statistics
) -> None:
    of_inputs = _only(OfInputs, kinds)
    by_batch = {name: kind for name, kind in _only(OfGradients, kinds).items() if not kind.by_sample}
    if not of_inputs and not by_batch:
        return
    inputs = _Inputs(model, of_inputs, requests, found)
    for batch in calibration.read(device_of(model)):
        with inputs.watching(batch), torch.set_grad_enabled(bool(by_batch)):
            output = batch.run(model)
            if by_batch:
                _observe(model, calibration.loss_of(output, batch), by_batch, requests, found)
    inputs.share_()


def _pass_by_samples(
    model: nn.Module, kinds: Mapping[str, Kind], requests: Requests, calibration: Calibration, found: Statistics
) -> None:
    at_inputs = _only(OfInputGradients, kinds)
    by_sample = {name: kind for name, kind in _only(OfGradients, kinds).items() if kind.by_sample}
    if not at_inputs and not by_sample:
        return
    names = _Names(model, (piece.param for name in at_inputs for piece in requests[name]))
    for batch in calibration.read(device_of(model)):
        for sample in batch.samples():
            loss, read = _forward(model, sample, calibration, names)
            slopes = _observe(model, loss, by_sample, requests, found, [x for _, x in read])
            for (layer, x), slope in zip(read, slopes, strict=True):
                found.layers.setdefault(layer.name, layer)
                rows = [layer.channels(without_padding(layer, t.detach(), sample.is_real)) for t in (x, slope)]
                for name, kind in at_inputs.items():
                    for piece in requests[name]:
                        if names.first.get(piece.param) == layer.name:
                            found.add_((name, piece.param, piece.target), kind.observe(piece, layer, *rows))


def _forward(
    model: nn.Module, sample: Batch, calibration: Calibration, names: _Names
) -> tuple[Tensor, list[tuple[Layer, Tensor]]]:
    """Return the loss, and what the named weights read, where the loss can be differentiated there."""
    read: list[tuple[Layer, Tensor]] = []
    watch = Watch(names.by_id, lambda layer, x: read.append((layer, x))) if names.by_id else nullcontext()
    with torch.enable_grad(), watch:
        loss = calibration.loss_of(sample.run(model), sample)
    return loss, [(layer, x) for layer, x in read if x.requires_grad]


def _observe(
    model: nn.Module,
    loss: Tensor,
    kinds: Mapping[str, OfGradients],
    requests: Requests,
    found: Statistics,
    inputs: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Differentiate the loss once, add what each statistic makes of it, and return the gradients at the inputs."""
    named = dict(model.named_parameters(remove_duplicate=False))
    own = (param for name in kinds for piece in requests[name] for param in piece.part.names)
    wanted = [param for param in dict.fromkeys(own) if param in named]
    tensors = [named[name] for name in wanted] + list(inputs)
    values = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True) if tensors else ()
    gradients = dict(zip(wanted, values, strict=False))
    for name, kind in kinds.items():
        for piece in requests[name] if kind.by_unit else _once(requests[name]):
            key: Key = (name, piece.param, piece.target) if kind.by_unit else (name, piece.param)
            if gradients.keys() >= set(piece.part.names):
                found.add_(key, kind.observe(piece, piece.part.read(gradients)))
    return values[len(wanted) :]


def _once(pieces: Sequence[Piece]) -> list[Piece]:
    """One piece per tensor: several targets may read one."""
    return list({piece.param: piece for piece in pieces}.values())


def _only(kind: type[_K], kinds: Mapping[str, Kind]) -> dict[str, _K]:
    return {name: each for name, each in kinds.items() if isinstance(each, kind)}


class _Names:
    """Parameters by identity: of tied ones, the first name that is asked for stands for all.

    by_id: id -> that name. first: every name -> that name.
    """

    def __init__(self, model: nn.Module, params: Iterable[str]) -> None:
        named = dict(model.named_parameters(remove_duplicate=False))
        self.by_id: dict[int, str] = {}
        self.first = {name: self.by_id.setdefault(id(named[name]), name) for name in params if name in named}


class _Inputs:
    """One pass's view of what the weights read."""

    def __init__(self, model: nn.Module, kinds: Mapping[str, OfInputs], requests: Requests, found: Statistics) -> None:
        self._kinds, self._found = kinds, found
        self._names = _Names(model, (piece.param for name in kinds for piece in requests[name]))
        self._wanted: dict[str, list[str]] = {}
        for name in kinds:
            for param in dict.fromkeys(self._names.first.get(piece.param) for piece in requests[name]):
                if param is not None:
                    self._wanted.setdefault(param, []).append(name)
        self._sources: dict[str, str] = {}
        self._real: Tensor | None = None
        self._recent: dict[tuple[Any, ...], tuple[str, weakref.ref[Tensor]]] = {}
        self._calls: Counter[str] = Counter()

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """See one forward pass, and what comes after it of the same batch."""
        self._real = batch.is_real
        with Watch(self._names.by_id, self._see) if self._wanted else nullcontext():
            yield
        self._recent.clear()
        for name, source in self._sources.items():
            if self._calls[name] != self._calls[source]:
                raise _torn(name, source)

    def share_(self) -> None:
        """Let every name of a tied weight read what was observed of it."""
        for alias, name in self._names.first.items():
            if alias != name and name in self._found.layers:
                self._found.layers[alias] = replace(self._found.layers[name], name=alias)
                for kind in self._wanted[name]:
                    source = (kind, self._sources[name])
                    self._found.share_((kind, alias), source if source in self._found else (kind, name))

    def _see(self, layer: Layer, x: Tensor) -> None:
        source = self._source(layer, x)
        self._calls[layer.name] += 1
        self._found.layers.setdefault(layer.name, layer)
        rows = without_padding(layer, x.detach(), self._real)
        for name in self._wanted[layer.name]:
            kind, key = self._kinds[name], (name, layer.name)
            if source != layer.name and (name, source) in self._found:
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
