"""Residual networks: ResNet-18 and -50 for ImageNet, ResNet-20 and -56 for CIFAR.

Every shortcut between different shapes is a 1x1 convolution with batch norm (option B). The CIFAR networks of
the paper used option A, which pads the missing channels with zeros; a pad of a fixed number of channels would
tie the channel positions of two stages together and would not survive thinning.

ResNet-18 and -50 have torchvision's names, so its weights load into them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; `planes` output channels."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(in_channels, planes, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, planes, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        z: Tensor = self.relu(self.bn2(self.conv2(y)) + self.downsample(x))
        return z


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions beside a shortcut; 4 * `planes` output channels."""

    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: int) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.conv1 = _conv(in_channels, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv(planes, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * planes, H/stride, W/stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        z: Tensor = self.relu(self.bn3(self.conv3(y)) + self.downsample(x))
        return z


def _stage(
    block: type[BasicBlock] | type[Bottleneck], in_channels: int, planes: int, *, depth: int, stride: int
) -> nn.Sequential:
    blocks = [block(in_channels, planes, stride)]
    blocks += [block(planes * block.expansion, planes, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """Four stages after a strided 7x7 stem, for 224x224 images.

    width: channels of the stem and the first stage; 64 in the paper, 32 halves every layer.
    Source: He et al. 2016, arXiv:1512.03385; strides as in torchvision (v1.5: the 3x3 convolution
    has the stride).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        *,
        in_channels: int = 3,
        num_classes: int = 1000,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        planes = [width * 2**i for i in range(4)]
        inputs = [width, *(channels * block.expansion for channels in planes)]
        self.layer1 = _stage(block, inputs[0], planes[0], depth=depths[0], stride=1)
        self.layer2 = _stage(block, inputs[1], planes[1], depth=depths[1], stride=2)
        self.layer3 = _stage(block, inputs[2], planes[2], depth=depths[2], stride=2)
        self.layer4 = _stage(block, inputs[3], planes[3], depth=depths[3], stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs[4], num_classes)
        _initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


class ResNetCifar(nn.Module):
    """Three stages of (depth - 2) / 6 basic blocks after a 3x3 stem, for 32x32 images; option B shortcuts.

    width: channels of the first stage, 16 in the paper.
    Source: He et al. 2016, arXiv:1512.03385, section 4.2: 0.27M parameters at depth 20 and 0.85M at depth 56;
    the two projections of option B add 2,752 to the 269,722 and 853,018 of option A.
    """

    def __init__(self, depth: int, *, in_channels: int = 3, num_classes: int = 10, width: int = 16) -> None:
        super().__init__()
        per_stage = (depth - 2) // 6
        self.conv1 = _conv(in_channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = _stage(BasicBlock, width, width, depth=per_stage, stride=1)
        self.layer2 = _stage(BasicBlock, width, 2 * width, depth=per_stage, stride=2)
        self.layer3 = _stage(BasicBlock, 2 * width, 4 * width, depth=per_stage, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        _initialise_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.pool(x).flatten(1))
        return logits


def _initialise_(model: nn.Module) -> None:
    """He initialisation of every convolution, as in the paper."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet18(*, in_channels: int = 3, num_classes: int = 1000, width: int = 64) -> ResNet:
    """Build ResNet-18: 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), in_channels=in_channels, num_classes=num_classes, width=width)


def resnet50(*, in_channels: int = 3, num_classes: int = 1000, width: int = 64) -> ResNet:
    """Build ResNet-50: 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), in_channels=in_channels, num_classes=num_classes, width=width)


def resnet20(*, in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    """Build the CIFAR ResNet-20 with option B shortcuts: 272,474 parameters."""
    return ResNetCifar(20, in_channels=in_channels, num_classes=num_classes, width=width)


def resnet56(*, in_channels: int = 3, num_classes: int = 10, width: int = 16) -> ResNetCifar:
    """Build the CIFAR ResNet-56 with option B shortcuts: 855,770 parameters."""
    return ResNetCifar(56, in_channels=in_channels, num_classes=num_classes, width=width)
