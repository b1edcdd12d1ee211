"""Batch norm's running statistics, measured anew after a structural change."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunus.errors import InputError
from prunus.statistics.calibration import Calibration


def recalibrate_(model: nn.Module, loader: Any, *, num_batches: int = 50, device: torch.device | str = "cpu") -> int:
    """Reset every running mean and variance, then average them over the first batches, each counted alike.

    Only the batch norms are in training mode meanwhile (dropout stays off); modes and momenta are restored.
    Returns the number of batch norms that were recalibrated; 0 leaves the model as it was.
    """
    if num_batches < 1:
        raise InputError(f"num_batches is {num_batches}; want at least 1")
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for the cumulative average
            norm.train()
        with torch.no_grad():
            for batch in Calibration(loader, batches=num_batches).read(torch.device(device)):
                batch.run(model)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return len(norms)
