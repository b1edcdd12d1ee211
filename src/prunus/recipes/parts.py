"""What a recipe names, found and built: model, data, loss, metrics, device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus.errors import InputError, naming
from prunus.recipes.resolve import call, resolve
from prunus.recipes.schema import Factory, Recipe
from prunus.training import Evaluation, check_loader, loss_by_name, reseed
from prunus.training.evaluate import Metric
from prunus.training.losses import Loss

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """The user's data: iterables of (x, y); `test` may be absent."""

    name: str
    train: Any
    validation: Any
    test: Any | None


@dataclass(frozen=True)
class Parts:
    """Everything that the recipe names, resolved.

    build_model: makes a fresh model on the device, the same at every call.
    """

    build_model: Callable[[], nn.Module]
    data: Splits
    loss: Loss
    metrics: tuple[Metric, ...]
    device: torch.device

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """All metrics, the judged one first, and the loss, on one split."""
        return self.evaluation(split)(model)

    def evaluation(self, split: str) -> Evaluation:
        """The same as a function of the model alone, which a sensitivity analysis reads the data of once."""
        wanted = (*self.metrics, *(() if "loss" in self.metrics else ("loss",)))
        return Evaluation(getattr(self.data, split), self.loss, wanted, f"data.{split}", self.device)


def find_parts(recipe: Recipe, folders: Sequence[Path]) -> Parts:
    """Resolve every name of the recipe and call the data function.

    Raises InputError or NameNotFound that name the key of the recipe and what failed.
    """
    device = torch.device(recipe.device)
    model = _function("model", recipe.model, folders)

    def build_model() -> nn.Module:
        reseed(recipe.seed, "model", 0)
        built = model()
        if not isinstance(built, nn.Module):
            raise InputError(f"model: {recipe.model.factory} returned {_kind(built)}; want a torch.nn.Module")
        return built.to(device)

    return Parts(build_model, _data(recipe, folders), _loss(recipe.loss, folders), _metrics(recipe, folders), device)


def _function(key: str, factory: Factory, folders: Sequence[Path]) -> Callable[[], Any]:
    function = _found(key, factory.factory, folders)

    def made() -> Any:
        with naming(key):
            return call(function, factory.factory, factory.args)

    return made


def _found(key: str, name: str, folders: Sequence[Path]) -> Callable[..., Any]:
    with naming(key):
        return resolve(name, folders)


def _data(recipe: Recipe, folders: Sequence[Path]) -> Splits:
    function = _function("data", recipe.data, folders)
    reseed(recipe.seed, "data", 0)
    found = function()
    splits = {split: _split(found, split) for split in SPLITS}
    for split, loader in splits.items():
        if loader is not None:
            check_loader(loader, f"data.{split}")
        elif split != "test":
            raise InputError(
                f"data: {recipe.data.factory} returned {_kind(found)} without {split}; want train, validation and test"
            )
    return Splits(str(_split(found, "name") or recipe.data.factory), **splits)


def _split(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def _loss(name: str, folders: Sequence[Path]) -> Loss:
    return _found("loss", name, folders) if ":" in name else loss_by_name(name)


def _metrics(recipe: Recipe, folders: Sequence[Path]) -> tuple[Metric, ...]:
    return tuple(_found("metrics", name, folders) if ":" in name else name for name in recipe.metrics)


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
