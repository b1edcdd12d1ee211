"""One evaluation of the dense model, watched: its calls, what depends on which target, and what cannot be replayed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prunus.axes import unwrapped
from prunus.granularity import Target
from prunus.sensitivity.calls import flat, forward_as, held, mark, obstacle, set_meanwhile
from prunus.sensitivity.cells import Cell, Cutter
from prunus.sensitivity.contents import place_of
from prunus.sensitivity.naive import Evaluate, evaluated
from prunus.sensitivity.store import Metrics
from prunus.sensitivity.tape import Refused, Tape, is_alive, tensors_in
from prunus.statistics import restored

DENSE = Cell(None, 0.0)
_ESCAPES = ("numpy", "tolist", "data_ptr", "__dlpack__")


@dataclass
class Survey:
    """What an evaluation of the dense model showed.

    metrics: of the dense model, None where the evaluation did not come to its end. changed: parameters that it changed.
    calls: a mark of what each call took
    and of what it returned. refused: target to the reason why it is not replayed; `everything` is one for all.
    costs: seconds that a replay takes, by target. seconds: of the whole evaluation, and what the model took of them.
    """

    metrics: Metrics | None = None
    changed: set[str] = field(default_factory=set)
    calls: list[tuple[str, str]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    everything: str | None = None
    costs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    model_seconds: float = 0.0


def guarded(cutter: Cutter) -> dict[int, str]:
    """Return the places of the model's parameters and buffers, with their names."""
    return {place_of(tensor): name for name, tensor in cutter.tensors().items()}


def taints_of(cutter: Cutter, targets: Sequence[Target]) -> dict[int, int]:
    """Return the targets of each place, target i as bit i."""
    taints: dict[int, int] = {}
    for number, target in enumerate(targets):
        for place in cutter.places(target):
            taints[place] = taints.get(place, 0) | 1 << number
    return taints


def take_survey(model: nn.Module, evaluate: Evaluate, cutter: Cutter, targets: Sequence[Target]) -> Survey:
    """Evaluate the dense model once and watch it; the weights are held twice meanwhile."""
    watch = _Watched(model, cutter, targets)
    found = watch.survey
    found.everything = obstacle(model)
    if found.everything:
        return found
    weights = {name for name, _ in unwrapped(model).named_parameters()}
    begin = time.perf_counter()
    try:
        with (
            restored(model, weights) as changed,
            forward_as(model, watch.forward),
            watch.outside,
            _escapes(watch.escape),
        ):
            found.metrics = evaluated(model, evaluate, DENSE)
        found.changed = changed & weights
        if found.changed:
            found.everything = f"evaluate changes {min(found.changed)}"
    except Exception as error:
        found.everything = f"evaluate failed while it was watched ({error})"
    found.seconds = time.perf_counter() - begin
    if not found.calls and found.everything is None:
        found.everything = "evaluate does not call the model"
    return found


class _Watched:
    """Takes the place of the model's forward, and tapes what it does without keeping anything."""

    def __init__(self, model: nn.Module, cutter: Cutter, targets: Sequence[Target]) -> None:
        self.survey = Survey(costs={target.name: 0.0 for target in targets})
        self.outside = _Outside(guarded(cutter), self._refuse)
        self._model, self._original, self._targets = model, model.forward, targets
        self._taints, self._guarded = taints_of(cutter, targets), guarded(cutter)
        self._stale: dict[int, Any] = {}
        self._tape: Tape | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.survey.everything or self._tape is not None:
            return self._original(*args, **kwargs)
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self._model.parameters()):
            self._refuse("evaluate runs with gradients (torch.no_grad() is missing)")
        self._refuse(obstacle(self._model))  # evaluate may have set hooks
        taken = mark(*self._flat((args, kwargs), "takes"))
        if self.survey.everything:
            return self._original(*args, **kwargs)
        inputs = {place_of(tensor): "its input" for tensor in tensors_in((args, kwargs))}
        self._tape = tape = Tape(self._taints, {**inputs, **self._guarded}, self._stale, None)
        self.outside.is_inside = True
        before, begin = held(self._model), time.perf_counter()
        try:
            with tape:
                result = self._original(*args, **kwargs)
        finally:
            self._tape, self.outside.is_inside = None, False
        self.survey.model_seconds += time.perf_counter() - begin
        kept = set_meanwhile(before, held(self._model))
        self._refuse(kept and f"a call sets the model's {kept}, and a replay does not")
        outputs = self._flat(result, "returns")
        self.survey.calls.append((taken, mark(*outputs)))
        self._note(tape, {place_of(tensor) for tensor in outputs[0] if isinstance(tensor, Tensor)})
        return result

    def _flat(self, value: Any, what: str) -> tuple[list[Any], Any]:
        try:
            return flat(value, what)
        except Refused as reason:
            self._refuse(str(reason))
            return [], None

    def escape(self, tensor: Tensor, name: str) -> None:
        """Note that the bytes of a tensor are read past torch's operations."""
        if self._tape is not None:
            taint = self._tape.taint_of(tensor)
            if taint:
                self._tape.refuse(f"Tensor.{name} is called on what depends on the weights", taint)
        elif place_of(tensor) in self._guarded:
            self._refuse(f"evaluate itself reads {self._guarded[place_of(tensor)]}")

    def _note(self, tape: Tape, returned: set[int]) -> None:
        self._stale = tape.left()
        kept = self._stale.keys() - returned
        if kept:
            gc.collect()
            still = [taint for place, (alive, taint) in self._stale.items() if place in kept and is_alive(alive)]
            for taint in still:
                tape.refuse("the model keeps a tensor that depends on the weights after its call", taint)
        for reason, taint in tape.refused.items():
            for target in self._of(taint):
                self.survey.refused.setdefault(target.name, reason)
        if len(self.survey.refused) == len(self._targets):
            self._refuse(next(iter(self.survey.refused.values()), None))
        for taint, seconds in tape.seconds.items():
            for target in self._of(taint):
                self.survey.costs[target.name] += seconds

    def _of(self, taint: int) -> list[Target]:
        return [target for number, target in enumerate(self._targets) if taint >> number & 1]

    def _refuse(self, reason: str | None) -> None:
        self.survey.everything = self.survey.everything or reason


class _Outside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices where an evaluation reads the model's tensors other than by calling it."""

    def __init__(self, names: Mapping[int, str], refuse: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_inside = False
        self._names, self._refuse = names, refuse

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not self.is_inside:
            for tensor in tensors_in((args, dict(kwargs or {}))):
                if tensor.layout is torch.strided and place_of(tensor) in self._names:
                    self._refuse(f"evaluate itself reads {self._names[place_of(tensor)]}")
        return func(*args, **(kwargs or {}))


@contextmanager
def _escapes(told: Callable[[Tensor, str], None]) -> Iterator[None]:
    """Tell of calls that read a tensor's bytes without an operation; they are put back afterwards."""
    own = {name: Tensor.__dict__.get(name) for name in _ESCAPES}

    def watched(name: str) -> Callable[..., Any]:
        plain = getattr(Tensor, name)

        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.layout is torch.strided:
                told(self, name)
            return plain(self, *args, **kwargs)

        return method

    for name in _ESCAPES:
        setattr(Tensor, name, watched(name))
    try:
        yield
    finally:
        for name, method in own.items():
            if method is None:
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, method)
