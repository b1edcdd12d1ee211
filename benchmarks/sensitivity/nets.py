"""The nets, their images, and where trained weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from benchmarks.five_models import lite0, photos
from torch import Tensor, nn

from prunus.zoo import build, fashion_mnist

STORE = Path(__file__).parent / "store"
Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Net:
    """build: the trained net, in eval mode. data: what judges it. about: what both are."""

    build: Callable[[], nn.Module]
    data: Callable[[], Batches]
    about: str


def fashion(part: str, count: int, size: int = 28) -> tuple[Tensor, Tensor]:
    """Return the first images of a part of Fashion-MNIST, with zeros around them up to a size, and their classes."""
    images, labels = getattr(fashion_mnist(), part)[:count]
    margin = (size - images.shape[-1]) // 2
    return nn.functional.pad(images, [margin] * 4), labels


def trained(name: str, count: int, epochs: int, size: int = 28) -> nn.Module:
    """Train a net of the zoo in bfloat16, Adam with one cycle, or load what was trained before."""
    torch.manual_seed(0)
    net, file = build(name, in_channels=1), STORE / f"{name}.pt"
    if file.is_file():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    images, labels = fashion("train", count, size)
    optimizer = torch.optim.Adam(net.to(memory_format=torch.channels_last).parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * len(labels.split(64)))
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            with torch.autocast("cpu"):
                output = net(images[chosen].contiguous(memory_format=torch.channels_last))
            nn.functional.cross_entropy(output.float(), labels[chosen]).backward()
            optimizer.step()
            rate.step()
    STORE.mkdir(exist_ok=True)
    torch.save(net.to(memory_format=torch.contiguous_format).state_dict(), file)
    return net.eval()


def batches(pair: tuple[Tensor, Tensor], size: int) -> Batches:
    """Cut images and classes into batches."""
    return list(zip(*(tensor.split(size) for tensor in pair), strict=True))


NETS = {
    "resnet20": Net(
        lambda: trained("resnet20", 20_000, 2),
        lambda: batches(fashion("validation", 2000), 50),
        "ResNet-20 (16-32-64, 272,186 parameters), trained 2 epochs on 20,000 images of Fashion-MNIST; judged on 2000 "
        "validation images in batches of 50",
    ),
    "vgg16_bn_cifar": Net(
        lambda: trained("vgg16_bn_cifar", 3000, 3, 32),
        lambda: batches(fashion("validation", 400, 32), 25),
        "VGG-16 for 32 × 32 (14,986,570 parameters), trained 3 epochs on 3000 images of Fashion-MNIST; judged on 400 "
        "validation images in batches of 25",
    ),
    "lite0": Net(
        lite0,
        lambda: batches(photos(), 10),
        "EfficientNet-Lite0 with its ImageNet weights; judged on foolbox's photos in batches of 10",
    ),
}
