"""torchvision: the smallest of each architecture for classification, segmentation and video, on small images."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import torch
from benchmarks.coverage.cases import Builder, Built
from torch import nn

# name -> (extents of the input after the channels, further arguments). Heads that run in training alone are left out:
# the examples of a capture in eval mode never reach them.
NO_AUX = {"aux_logits": False, "init_weights": False}
CLASSIFICATION: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "alexnet": ((96, 96), {}),
    "convnext_tiny": ((64, 64), {}),
    "densenet121": ((64, 64), {}),
    "efficientnet_b0": ((64, 64), {}),
    "efficientnet_v2_s": ((64, 64), {}),
    "googlenet": ((96, 96), NO_AUX),
    "inception_v3": ((128, 128), NO_AUX),
    "maxvit_t": ((224, 224), {}),
    "mnasnet0_5": ((64, 64), {}),
    "mobilenet_v2": ((64, 64), {}),
    "mobilenet_v3_small": ((64, 64), {}),
    "mobilenet_v3_large": ((64, 64), {}),
    "regnet_x_400mf": ((64, 64), {}),
    "regnet_y_400mf": ((64, 64), {}),
    "resnet18": ((64, 64), {}),
    "resnet50": ((64, 64), {}),
    "resnext50_32x4d": ((64, 64), {}),
    "shufflenet_v2_x0_5": ((64, 64), {}),
    "shufflenet_v2_x1_0": ((64, 64), {}),
    "squeezenet1_0": ((64, 64), {}),
    "squeezenet1_1": ((64, 64), {}),
    "swin_t": ((64, 64), {}),
    "swin_v2_t": ((64, 64), {}),
    "vgg11": ((64, 64), {}),
    "vgg11_bn": ((64, 64), {}),
    "vit_b_16": ((64, 64), {"image_size": 64}),
    "vit_b_32": ((64, 64), {"image_size": 64}),
    "wide_resnet50_2": ((64, 64), {}),
}
SEGMENTATION: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    name: ((64, 64), {"weights_backbone": None, "aux_loss": False})
    for name in ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50")
} | {"lraspp_mobilenet_v3_large": ((64, 64), {"weights_backbone": None})}
VIDEO: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mc3_18": ((4, 64, 64), {}),
    "mvit_v1_b": ((8, 64, 64), {}),
    "mvit_v2_s": ((8, 64, 64), {}),
    "r2plus1d_18": ((4, 64, 64), {}),
    "r3d_18": ((4, 64, 64), {}),
    "s3d": ((16, 224, 224), {}),
    "swin3d_t": ((4, 64, 64), {}),
}


def build(name: str, extents: tuple[int, ...], arguments: dict[str, Any]) -> Built:
    """Build a model without weights, of ten classes, and two random inputs."""
    from torchvision.models import get_model
    from torchvision.models.video import mvit

    def small_mvit(**settings: Any) -> nn.Module:  # its size of input is no argument of the functions that build it
        return plain(**{**settings, "spatial_size": extents[1:], "temporal_size": extents[0]})

    plain = mvit.MViT
    with mock.patch.object(mvit, "MViT", small_mvit):
        model = get_model(name, weights=None, num_classes=10, **arguments).eval()
    return model, (torch.randn(2, 3, *extents),), {}


CASES: dict[str, Builder] = {
    name: partial(build, name, *spec) for name, spec in {**CLASSIFICATION, **SEGMENTATION, **VIDEO}.items()
}
