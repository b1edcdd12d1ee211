"""One run under way: what its stages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from prunus.batches import Inputs, num_batches
from prunus.errors import FileError
from prunus.recipes.folder import RunFolder
from prunus.recipes.parts import Parts
from prunus.recipes.schema import Recipe
from prunus.training import Reporter, first_inputs

# Two samples: enough for batch norm and for the tracer to tell the batch from what is fixed.
TRACED = 2


@dataclass(frozen=True)
class Session:
    """A recipe, what it names, where the results go, and who is told; `prefix` sets its stages apart."""

    recipe: Recipe
    parts: Parts
    folder: RunFolder
    reporter: Reporter
    prefix: str = ""

    def control(self, criterion: str) -> Session:
        """The same run with another criterion; its checkpoints and log lines carry the criterion's name."""
        recipe = self.recipe.with_criterion(f"{criterion}(seed={self.recipe.seed})")
        return replace(self, recipe=recipe, prefix=f"{criterion}-")

    @cached_property
    def example(self) -> Inputs:
        """The first samples of the validation data, for tracing and the proof."""
        inputs = first_inputs(self.parts.data.validation, "data.validation", TRACED)
        return tuple(item.to(self.parts.device) for item in inputs)

    @property
    def one_example(self) -> Inputs:
        """One sample: for MACs, activations and latency."""
        return tuple(item[:1] for item in self.example)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Batches of the training data."""
        return num_batches(self.parts.data.train, "data.train")

    def dense_model(self) -> nn.Module:
        """The dense model with the weights that the first stage left."""
        model = self.parts.build_model()
        restore(model, self.folder.load("train")["model"], "train")
        return model


@dataclass(frozen=True)
class Costing:
    """How sparse a model is and what it costs, for the rows of the history.

    macs: of one sample, or None where nothing could be traced.
    """

    sparsity: Callable[[], float]
    macs: Callable[[], int | None]


def restore(model: nn.Module, state: dict[str, Any], stage: str) -> None:
    """Load a checkpoint's weights; raises FileError when they are of another model."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise FileError(
            f"the checkpoint of stage {stage} does not fit {type(model).__name__}: "
            f"{' '.join(str(error).split())[:200]}; the model function has changed: start anew with --fresh"
        ) from error
