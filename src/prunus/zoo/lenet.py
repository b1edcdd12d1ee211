"""The two LeNets of the pruning literature."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet300(nn.Module):
    """LeNet-300-100: three linear layers on the flattened image.

    266,610 parameters on 28x28x1 with 10 classes.
    Source: LeCun et al. 1998, as pruned by Han et al. 2015, arXiv:1506.02626.
    """

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * image_size * image_size, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc3(self.relu(self.fc2(x)))
        return logits


class LeNet5(nn.Module):
    """LeNet-5 as Caffe ships it: two convolutions without nonlinearity, each pooled, then two linear layers.

    431,080 parameters on 28x28x1 with 10 classes: the network of Han et al. 2015,
    arXiv:1506.02626, not the 61,706 of LeCun et al. 1998.
    """

    def __init__(self, *, in_channels: int = 1, num_classes: int = 10, image_size: int = 28) -> None:
        super().__init__()
        pooled = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(50 * pooled * pooled, 500)
        self.fc2 = nn.Linear(500, num_classes)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        x = self.pool(self.conv2(self.pool(self.conv1(x))))
        logits: Tensor = self.fc2(self.relu(self.fc1(x.flatten(1))))
        return logits
