"""The nets of `prunus quickstart`: small, wide enough to prune, with residual sums and concatenations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _unit(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions whose result is added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _unit(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        y: Tensor = self.relu(x + self.second(self.first(x)))
        return y


class Concat(nn.Module):
    """A 3x3 convolution whose result is put behind the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.unit = _unit(in_channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.unit(x)], 1)


class QuickstartNet(nn.Module):
    """A strided stem, a stage of `width` channels, a strided stage of `2 * width`, pooling, a linear layer.

    Each stage is a residual block and a concatenation that doubles its channels.
    """

    def __init__(self, *, in_channels: int, num_classes: int, width: int, stem_stride: int) -> None:
        super().__init__()
        self.stem = _unit(in_channels, width, stride=stem_stride)
        self.residual1 = Residual(width)
        self.concat1 = Concat(width, width)
        self.down = _unit(2 * width, 2 * width, stride=2)
        self.residual2 = Residual(2 * width)
        self.concat2 = Concat(2 * width, 2 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.concat1(self.residual1(self.stem(x)))
        x = self.concat2(self.residual2(self.down(x)))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def quickstart_net(*, in_channels: int = 1, num_classes: int = 10, width: int = 32) -> QuickstartNet:
    """Build the net for Fashion-MNIST's 28x28x1, in the channels_last memory format.

    The format trains faster on CPUs and changes no number that matters; images may come in either format.
    """
    net = QuickstartNet(in_channels=in_channels, num_classes=num_classes, width=width, stem_stride=2)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def quickstart_net_digits(*, in_channels: int = 1, num_classes: int = 10, width: int = 16) -> QuickstartNet:
    """Build the net for scikit-learn's 8x8x1 digits."""
    return QuickstartNet(in_channels=in_channels, num_classes=num_classes, width=width, stem_stride=1)
