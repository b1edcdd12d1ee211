"""VGG-16 with batch norm, for ImageNet and for CIFAR."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# Output channels of the 3x3 convolutions; a 0 is a 2x2 max pooling.
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def _features(in_channels: int, config: Sequence[int], *, bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in config:
        if channels == 0:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers)


class VGG16BN(nn.Module):
    """VGG-16 with batch norm on 224x224x3: 138,365,992 parameters with 1000 classes.

    Source: Simonyan and Zisserman 2015, arXiv:1409.1556, configuration D; layers and names as
    torchvision's `vgg16_bn`.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = _features(in_channels, _VGG16, bias=True)
        self.pool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


class VGG16BNCifar(nn.Module):
    """VGG-16 with batch norm on 32x32x3 and two linear layers: 14,987,722 parameters with 10 classes.

    Convolutions have no bias, since batch norm follows each.
    Source: Li et al. 2017, arXiv:1608.08710, table 2 (1.5e7 parameters, 3.13e8 MACs).
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.features = _features(in_channels, _VGG16, bias=False)
        self.classifier = nn.Sequential(
            nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, 32, 32) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
