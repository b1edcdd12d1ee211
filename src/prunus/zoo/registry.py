"""The models by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError, NameNotFound
from prunus.zoo.alexnet import AlexNet, AlexNetCifar
from prunus.zoo.densenet import densenet121, densenet_cifar
from prunus.zoo.lenet import LeNet5, LeNet300
from prunus.zoo.mobilenet import MobileNetV1, MobileNetV2
from prunus.zoo.quickstart import quickstart_net, quickstart_net_digits
from prunus.zoo.resnet import resnet18, resnet20, resnet50, resnet56
from prunus.zoo.transformer import gpt2_small, gpt_tiny, vit_cifar, vit_small, vit_tiny
from prunus.zoo.vgg import VGG16BN, VGG16BNCifar


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    input_shape: of one example without the batch; images are (C, H, W), token ids are (T,).
    """

    factory: Callable[..., nn.Module]
    input_shape: tuple[int, ...]


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "lenet_300_100": Entry(LeNet300, (1, 28, 28)),
        "lenet5": Entry(LeNet5, (1, 28, 28)),
        "alexnet": Entry(AlexNet, (3, 224, 224)),
        "alexnet_cifar": Entry(AlexNetCifar, (3, 32, 32)),
        "vgg16_bn": Entry(VGG16BN, (3, 224, 224)),
        "vgg16_bn_cifar": Entry(VGG16BNCifar, (3, 32, 32)),
        "resnet20": Entry(resnet20, (3, 32, 32)),
        "resnet56": Entry(resnet56, (3, 32, 32)),
        "resnet18": Entry(resnet18, (3, 224, 224)),
        "resnet50": Entry(resnet50, (3, 224, 224)),
        "mobilenet_v1": Entry(MobileNetV1, (3, 224, 224)),
        "mobilenet_v2": Entry(MobileNetV2, (3, 224, 224)),
        "densenet121": Entry(densenet121, (3, 224, 224)),
        "densenet_cifar": Entry(densenet_cifar, (3, 32, 32)),
        "vit_tiny": Entry(vit_tiny, (3, 224, 224)),
        "vit_small": Entry(vit_small, (3, 224, 224)),
        "vit_cifar": Entry(vit_cifar, (3, 32, 32)),
        "gpt_tiny": Entry(gpt_tiny, (64,)),
        "gpt2_small": Entry(gpt2_small, (64,)),
        "quickstart_net": Entry(quickstart_net, (1, 28, 28)),
        "quickstart_net_digits": Entry(quickstart_net_digits, (1, 8, 8)),
    }
)


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise NameNotFound.of("zoo model", name, MODELS)
    return MODELS[name]


def build(name: str, **kwargs: Any) -> nn.Module:
    """Build an untrained model of the zoo.

    name: a key of `MODELS`.
    kwargs: the factory's own; image models have `in_channels` and `num_classes`, the GPTs have `vocab_size`.
    Raises NameNotFound for an unknown name or an unknown argument.
    """
    factory = _entry(name).factory
    known = list(inspect.signature(factory).parameters)
    for argument in kwargs:
        if argument not in known:
            raise NameNotFound.of(f"argument of {name}", argument, known)
    return factory(**kwargs)


def example_input(name: str, *, batch: int = 1, in_channels: int | None = None, seed: int = 0) -> Tensor:
    """Make a random input that a default model of the zoo accepts.

    batch: the number of examples, at least 1.
    in_channels: other than the default; only for image models.
    Returns float32 (batch, C, H, W) of a normal distribution, or int64 (batch, T) of token ids below 256.
    Raises NameNotFound for an unknown name, InputError for a batch below 1.
    """
    shape = _entry(name).input_shape
    if batch < 1:
        raise InputError(f"batch = {batch}; an example input needs at least 1")
    generator = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        return torch.randint(0, 256, (batch, *shape), generator=generator)
    channels = shape[0] if in_channels is None else in_channels
    return torch.randn(batch, channels, *shape[1:], generator=generator)
