"""Losses by name: the functions of torch.nn.functional that take (output, target)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from prunus.errors import NameNotFound

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES = (
    "cross_entropy",
    "nll_loss",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "multilabel_soft_margin_loss",
)


def loss_by_name(name: str) -> Loss:
    """The loss function, averaged over the batch; raises NameNotFound with the near names."""
    if name not in LOSSES:
        raise NameNotFound.of("loss", name, LOSSES)
    function: Loss = getattr(functional, name)
    return function


def is_one_number(value: object) -> bool:
    """Tell whether a loss is a tensor of one floating-point number."""
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
