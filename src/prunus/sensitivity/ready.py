"""What an evaluation offers so that its data need be read once for many cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class Tally(Protocol):
    """Adds up the metrics of one model, batch by batch."""

    def add(self, output: Any, target: Any, size: int) -> None:
        """Count one batch of `size` samples."""

    def result(self) -> dict[str, float]:
        """Return the metrics of what was counted, the judged one first."""


@runtime_checkable
class Ready(Protocol):
    """An evaluation that calls the model once per batch and takes its metrics from the outputs alone."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the metrics, the same that a tally of all batches gives."""

    def tally(self) -> Tally | None:
        """Return an empty tally, or None where some metric needs more than the outputs."""

    def each(self, model: nn.Module, visit: Callable[[Any, Any, int], bool]) -> None:
        """Call the model on batch after batch, in eval mode without gradients; (output, target, size) are visited.

        It stops early when a visit returns True.
        """

    def examples(self, output: Any, target: Any) -> Tensor:
        """Return the judged metric of each example, (N,) float; raises InputError where it has no such value."""


def tally_of(evaluate: object) -> Tally | None:
    """Return an empty tally of an evaluation that is ready, else None."""
    return evaluate.tally() if isinstance(evaluate, Ready) else None
