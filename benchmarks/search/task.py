"""The task: a ResNet on a part of Fashion-MNIST, trained with a seed; who judges, who trains further.

What is read: 10,000 training images; of the validation part the first 1,000 images judge candidates, and nothing else
chooses; the 10,000 test images are read once before and once after the fine-tuning of every final model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import prunus
from prunus import zoo
from prunus.axes import Graph
from prunus.training import (
    build_optimizer,
    build_rate,
    evaluate,
    load_checkpoint,
    recalibrate_,
    reseed,
    save_checkpoint,
    train_epoch,
)
from prunus.zoo import ResNetCifar

NUM_TRAIN, NUM_JUDGES = 10_000, 1_000
TRAIN_EPOCHS, TUNE_EPOCHS = 8, 3
SHORT_STEPS = 10
NUM_NORMS = 500
BATCH = 100  # larger batches leave the cache of one core
ABOUT = (
    f"trained {TRAIN_EPOCHS} epochs on {NUM_TRAIN:,} images of Fashion-MNIST with the seed; {NUM_JUDGES:,} validation "
    f"images judge candidates; every final model is fine-tuned {TUNE_EPOCHS} epochs in the same way; accuracy on the "
    f"10,000 test images. Batch norms are measured anew on {NUM_NORMS} training images before a candidate, or a final "
    "model, is judged: without that all of them are near chance and tell nothing."
)
NETS = {8: "ResNet-8 (77,754 parameters)", 20: "ResNet-20 (272,186 parameters)"}
"""By depth."""


@dataclass(frozen=True)
class Task:
    """One seed's dense net and data. folder: where trained weights are kept. depth: of the ResNet."""

    seed: int
    folder: Path
    depth: int = 8

    @cached_property
    def data(self) -> zoo.Data:
        """The images."""
        return zoo.fashion_mnist(limit=NUM_TRAIN)

    @cached_property
    def train(self) -> zoo.TensorLoader:
        """Batches to train on, shuffled."""
        return zoo.TensorLoader(self.data.train, batch_size=BATCH, shuffle=True)

    @cached_property
    def judges(self) -> list[tuple[Tensor, Tensor]]:
        """Batches that judge candidates."""
        return self._batches(self.data.validation, NUM_JUDGES)

    @cached_property
    def norms(self) -> list[tuple[Tensor, Tensor]]:
        """Batches on which batch norms are measured anew."""
        return self._batches(self.data.train, NUM_NORMS)

    @cached_property
    def tests(self) -> list[tuple[Tensor, Tensor]]:
        """Batches that judge final models."""
        return self._batches(self.data.test, len(self.data.test))

    @cached_property
    def model(self) -> nn.Module:
        """The dense net, trained, or read from the folder."""
        path = self.folder / f"dense-{self.seed}.safetensors"
        reseed(self.seed, "model", 0)
        model = ResNetCifar(self.depth, in_channels=1)
        if path.exists():
            model.load_state_dict(load_checkpoint(path))
        else:
            self._train(model, TRAIN_EPOCHS, 3e-3, "train", "one_cycle")
            save_checkpoint(path, dict(model.state_dict()))
        return model.eval()

    @cached_property
    def graph(self) -> Graph:
        """The traced net."""
        return prunus.trace(self.model, self.example)

    @property
    def example(self) -> Tensor:
        """Two images."""
        return self.judges[0][0][:2]

    def judge(self, model: nn.Module) -> float:
        """Return the accuracy on the judging images, batch norms measured anew."""
        recalibrate_(model, self.norms)
        return evaluate(model, self.judges, cross_entropy, metrics=["top1"])["top1"]

    def test(self, model: nn.Module) -> float:
        """Return the accuracy on the test images, the model as it is."""
        return evaluate(model, self.tests, cross_entropy, metrics=["top1"])["top1"]

    def short_tune(self, model: nn.Module) -> None:
        """Train for a moment, as NetAdapt asks for each candidate; the batches follow from torch's seed."""
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        train_epoch(model, _First(self.train, SHORT_STEPS), optimizer, cross_entropy)

    def fine_tune(self, model: nn.Module) -> None:
        """Train a final model, all in the same way."""
        self._train(model, TUNE_EPOCHS, 1e-3, "fine_tune", "cosine")

    def _train(self, model: nn.Module, epochs: int, lr: float, stage: str, shape: str) -> None:
        optimizer = build_optimizer("adam", model, {"lr": lr})
        rate = build_rate(shape, {}, optimizer, epochs=epochs, steps_per_epoch=len(self.train))
        for epoch in range(1, epochs + 1):
            reseed(self.seed, stage, epoch)
            train_epoch(model, self.train, optimizer, cross_entropy, after_step=lambda _: rate.step_end())
            rate.epoch_end()

    def _batches(self, data: Any, count: int) -> list[tuple[Tensor, Tensor]]:
        loader = zoo.TensorLoader(torch.utils.data.TensorDataset(*(t[:count] for t in data.tensors)), batch_size=BATCH)
        return [(x, y) for x, y in loader]


@dataclass(frozen=True)
class _First:
    """The first batches of a loader, drawn anew at every pass."""

    loader: Any
    count: int

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.count)
