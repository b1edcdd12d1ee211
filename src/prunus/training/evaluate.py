"""How good is it? Loss, top-1, top-5, or the user's own measure, on one split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.batches import batches, blame, forward
from prunus.errors import InputError, NameNotFound, TrainingError
from prunus.training.losses import Loss

NAMED_METRICS = ("top1", "top5", "loss")
Metric = str | Callable[[nn.Module, Any], Any]


def evaluate(
    model: nn.Module,
    loader: Any,
    loss: Loss,
    *,
    metrics: Sequence[Metric] = NAMED_METRICS,
    name: str = "data",
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Evaluate in eval mode without gradients, in float32; the model's mode is restored.

    metrics: names among top1, top5, loss, or functions (model, loader) -> float or dict of floats.
    Returns, in the order of `metrics`, fractions in [0, 1] for top1 and top5, the mean over samples for the loss.
    Raises TrainingError when data, model or metric fail or a value is not finite.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _evaluate(model, loader, loss, metrics, name, torch.device(device))
    finally:
        model.train(was_training)


def _evaluate(
    model: nn.Module, loader: Any, loss: Loss, metrics: Sequence[Metric], name: str, device: torch.device
) -> dict[str, float]:
    named = [check_metric_name(metric) for metric in metrics if isinstance(metric, str)]
    answers = _named_metrics(model, loader, loss, named, name, device) if named else {}
    found: dict[str, float] = {}
    for metric in metrics:
        if isinstance(metric, str):
            found[metric] = answers[metric]
        else:
            found.update(_own_metric(metric, model, loader, name))
    return found


def check_metric_name(name: str) -> str:
    """Raises NameNotFound for a metric that has no name here."""
    if name not in NAMED_METRICS:
        raise NameNotFound.of("metric", name, NAMED_METRICS)
    return name


class Tally:
    """Adds up named metrics, batch by batch."""

    def __init__(self, named: Sequence[str], loss: Loss, name: str) -> None:
        self._sums = dict.fromkeys(named, 0.0)
        self._ranks = [int(metric[3:]) for metric in named if metric != "loss"]
        self._loss, self._name = loss, name
        self._samples = self._answers = 0

    def add(self, output: Tensor, target: Any, size: int) -> None:
        """Count one batch of `size` samples."""
        self._samples += size
        if "loss" in self._sums:
            with blame(f"{self._name}: the loss"):
                self._sums["loss"] += float(self._loss(output, target)) * size
        if self._ranks:
            self._answers += target.numel() if isinstance(target, Tensor) else 0
            for rank, hits in correct_at(output, target, self._ranks).items():
                self._sums[f"top{rank}"] += hits

    def result(self) -> dict[str, float]:
        """Return the mean over samples for the loss, over answers for the others."""
        means = {key: value / (self._samples if key == "loss" else self._answers) for key, value in self._sums.items()}
        return {key: _finite(value, f"the metric {key} on {self._name}") for key, value in means.items()}


def _named_metrics(
    model: nn.Module, loader: Any, loss: Loss, named: Sequence[str], name: str, device: torch.device
) -> dict[str, float]:
    tally = Tally(named, loss, name)
    for inputs, target in batches(loader, name, device):
        tally.add(forward(model, inputs, name), target, len(inputs[0]))
    return tally.result()


@dataclass(frozen=True)
class Evaluation:
    """`evaluate` with all but the model given: the ready evaluation of a sensitivity analysis, which reads data once.

    metrics: the judged one first. data, loss, name, device: as in `evaluate`.
    """

    data: Any
    loss: Loss
    metrics: Sequence[Metric] = NAMED_METRICS
    name: str = "data"
    device: torch.device | str = "cpu"

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Evaluate a model."""
        return evaluate(model, self.data, self.loss, metrics=self.metrics, name=self.name, device=self.device)

    def tally(self) -> Tally | None:
        """Return an empty tally, or None where some metric is a function of the model."""
        named = [check_metric_name(metric) for metric in self.metrics if isinstance(metric, str)]
        return Tally(named, self.loss, self.name) if len(named) == len(self.metrics) else None

    def each(self, model: nn.Module, visit: Callable[[Tensor, Any, int], bool]) -> None:
        """Call the model on every batch in eval mode without gradients, until a visit of its output returns True."""
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                for inputs, target in batches(self.data, self.name, torch.device(self.device)):
                    if visit(forward(model, inputs, self.name), target, len(inputs[0])):
                        break
        finally:
            model.train(was_training)

    def examples(self, output: Tensor, target: Any) -> Tensor:
        """Return for each answer whether the judged metric counts it, (N,) float64.

        Raises InputError where the judged metric is not top1 or top5.
        """
        judged = self.metrics[0]
        if judged not in ("top1", "top5"):
            raise InputError(f"the judged metric is {judged!r}; only top1 and top5 have a value per example")
        correct_at(output, target, [int(judged[3:])])  # checks the shapes
        best = output.topk(min(int(judged[3:]), output.shape[1]), dim=1).indices
        right: Tensor = (best == target.unsqueeze(1)).any(dim=1).flatten().double()
        return right


def correct_at(output: Tensor, target: Any, ranks: Sequence[int]) -> dict[int, int]:
    """How often the right class is among the first 1, 5, … answers.

    output: (N, C, ...) logits; target: (N, ...) int64 classes. With fewer than k classes, top-k counts all.
    Raises InputError when the shapes do not say so.
    """
    fits = isinstance(target, Tensor) and output.dim() >= 2
    if not fits or target.shape != output.shape[:1] + output.shape[2:] or target.is_floating_point():
        got = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise InputError(
            f"top1 and top5 need logits (N, C, ...) and classes (N, ...), got "
            f"{tuple(output.shape)} and {got}; give a metric of your own as module:function"
        )
    best = output.topk(min(max(ranks), output.shape[1]), dim=1).indices
    hits = best == target.unsqueeze(1)
    return {rank: int(hits[:, :rank].sum()) for rank in ranks}


def _own_metric(metric: Callable[[nn.Module, Any], Any], model: nn.Module, loader: Any, name: str) -> dict[str, float]:
    label = getattr(metric, "__name__", type(metric).__name__)
    with blame(f"the metric {label} on {name}"):
        found = metric(model, loader)
    values = found if isinstance(found, Mapping) else {label: found}
    return {str(key): _finite(value, f"the metric {label} on {name}") for key, value in values.items()}


def _finite(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{what} returned {type(value).__name__}; want a float or a dict of floats") from error
    if not math.isfinite(number):
        raise TrainingError(f"{what} is {number}; want a finite number")
    return number
