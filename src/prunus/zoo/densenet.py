"""DenseNets: every layer reads the concatenation of all layers before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prunus.errors import InputError


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 to 4 * growth; norm, ReLU, 3x3 to growth; the input is kept in front."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + growth, H, W)."""
        y = self.conv1(self.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(self.relu(self.norm2(y)))], 1)


def _transition(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(in_channels, out_channels, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


def _dense_block(channels: int, growth: int, depth: int) -> nn.Sequential:
    layers = (DenseLayer(channels + i * growth, growth) for i in range(depth))
    return nn.Sequential(OrderedDict((f"denselayer{i + 1}", layer) for i, layer in enumerate(layers)))


def _stages(channels: int, growth: int, depths: Sequence[int]) -> tuple[dict[str, nn.Module], int]:
    """Dense blocks with halving transitions between them, by name; and the channels after the last."""
    stages: dict[str, nn.Module] = {}
    for i, depth in enumerate(depths, start=1):
        stages[f"denseblock{i}"] = _dense_block(channels, growth, depth)
        channels += depth * growth
        if i < len(depths):
            stages[f"transition{i}"] = _transition(channels, channels // 2)
            channels //= 2
    return stages, channels


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions, a last norm, global pooling and one linear layer.

    stem: the first layers by name; they give `channels` channels.
    depths: layers of each dense block; each layer adds `growth` channels.
    """

    def __init__(
        self,
        stem: Mapping[str, nn.Module],
        *,
        channels: int,
        growth: int,
        depths: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        stages, channels = _stages(channels, growth, depths)
        self.features = nn.Sequential(OrderedDict({**stem, **stages, "norm5": nn.BatchNorm2d(channels)}))
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.relu(self.features(x))).flatten(1))
        return logits


def densenet121(*, in_channels: int = 3, num_classes: int = 1000, growth: int = 32) -> DenseNet:
    """Build DenseNet-121 for 224x224 images: 7,978,856 parameters.

    Source: Huang et al. 2017, arXiv:1608.06993, table 1; layers and names as torchvision's.
    """
    channels = 2 * growth
    stem = {
        "conv0": nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False),
        "norm0": nn.BatchNorm2d(channels),
        "relu0": nn.ReLU(),
        "pool0": nn.MaxPool2d(3, 2, 1),
    }
    return DenseNet(stem, channels=channels, growth=growth, depths=(6, 12, 24, 16), num_classes=num_classes)


def densenet_cifar(*, in_channels: int = 3, num_classes: int = 10, depth: int = 40, growth: int = 12) -> DenseNet:
    """Build a DenseNet-BC for 32x32 images: 176,122 parameters at depth 40, 769,162 at depth 100 (growth 12).

    depth: 6 * n + 4 layers in all.
    Raises InputError for another depth.
    Source: Huang et al. 2017, arXiv:1608.06993, table 2 (0.8M at depth 100).
    """
    if depth < 10 or depth % 6 != 4:
        raise InputError(f"depth = {depth}; a DenseNet-BC of three blocks has 6 * n + 4 layers, such as 40 or 100")
    channels, per_block = 2 * growth, (depth - 4) // 6
    stem = {"conv0": nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)}
    return DenseNet(stem, channels=channels, growth=growth, depths=(per_block,) * 3, num_classes=num_classes)
