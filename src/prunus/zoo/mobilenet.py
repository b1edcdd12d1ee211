"""MobileNetV1 and V2: depthwise separable convolutions."""

from __future__ import annotations

from torch import Tensor, nn


def _unit(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:  # fmt: skip
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        activation(),
    )


def _scaled(channels: int, width: float) -> int:
    """Channels times width, to the nearest multiple of 8 but never below 90 % of it (V2's reference code)."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class MobileNetV1(nn.Module):
    """Thirteen depthwise separable convolutions on 224x224x3: 4,231,976 parameters with 1000 classes.

    width: multiplies every channel count, rounded to multiples of 8.
    Source: Howard et al. 2017, arXiv:1704.04861, table 1 (4.2M parameters, 569M MACs).
    """

    # (output channels, stride) of each separable convolution
    _CONFIG = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *((512, 1),) * 5,
        (1024, 2),
        (1024, 1),
    )

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = _scaled(32, width)
        layers = [_unit(in_channels, channels, 3, stride=2)]
        for planes, stride in self._CONFIG:
            wider = _scaled(planes, width)
            layers += [
                _unit(channels, channels, 3, stride=stride, groups=channels),
                _unit(channels, wider, 1),
            ]
            channels = wider
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise by 3x3, project by 1x1; the input is added where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expand: int) -> None:
        super().__init__()
        hidden = in_channels * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(_unit(in_channels, hidden, 1, activation=nn.ReLU6))
        layers.append(_unit(hidden, hidden, 3, stride=stride, groups=hidden, activation=nn.ReLU6))
        layers += [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H/stride, W/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Seventeen inverted residuals on 224x224x3: 3,504,872 parameters with 1000 classes.

    width: multiplies every channel count, rounded to multiples of 8; the last convolution never has
        fewer than 1280.
    Source: Sandler et al. 2018, arXiv:1801.04381, table 2; layers and names as torchvision's.
    """

    # (expansion, output channels, repeats, stride of the first)
    _CONFIG = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1000, width: float = 1.0, dropout: float = 0.2
    ) -> None:
        super().__init__()
        channels = _scaled(32, width)
        layers: list[nn.Module] = [_unit(in_channels, channels, 3, stride=2, activation=nn.ReLU6)]
        for expand, planes, repeats, first_stride in self._CONFIG:
            for i in range(repeats):
                stride, wider = first_stride if i == 0 else 1, _scaled(planes, width)
                layers.append(InvertedResidual(channels, wider, stride=stride, expand=expand))
                channels = wider
        last = _scaled(1280, max(1.0, width))
        self.features = nn.Sequential(*layers, _unit(channels, last, 1, activation=nn.ReLU6))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
