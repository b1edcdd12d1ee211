"""All costs of a model at once, and two models side by side."""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunus._version import __version__
from prunus.axes import unwrapped
from prunus.costs._forward import Args, Kwargs
from prunus.costs.compute import work
from prunus.costs.energy import energy_of
from prunus.costs.memory import peak_activation_bytes
from prunus.costs.size import file_bytes, nonzeros, parameters, weight_bytes
from prunus.costs.timing import Latency


@dataclass(frozen=True)
class Costs:
    """What a model costs; MACs, activations, energy and latency are those of one pass of the example batch.

    energy_joules: by the 45 nm table, zero weights costing as much as others.
    energy_assumption: what that figure takes for granted.
    latency: None unless it was measured; see `latency`.
    """

    parameters: int
    nonzeros: int
    macs: int
    effective_macs: int
    weight_bytes: int
    file_bytes: int
    peak_activation_bytes: int
    energy_joules: float
    energy_assumption: str
    latency: Latency | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts, ready for JSON."""
        return dataclasses.asdict(self)


# What can be divided. The latency is not among them: its ratio is measured in pairs.
QUANTITIES = (
    "parameters",
    "nonzeros",
    "macs",
    "effective_macs",
    "weight_bytes",
    "file_bytes",
    "peak_activation_bytes",
    "energy_joules",
)


def measure(model: nn.Module, args: Args, kwargs: Kwargs = None) -> Costs:
    """Count all costs of a model but its latency, which is only worth something beside another model's.

    args: a tensor or a tuple of positional arguments.
    Raises InputError when the model does not run on them or returns no tensor.
    """
    model = unwrapped(model)
    done = work(model, args, kwargs)
    estimate = energy_of(model, done)
    return Costs(
        parameters=parameters(model),
        nonzeros=nonzeros(model),
        macs=done.macs,
        effective_macs=done.effective_macs,
        weight_bytes=weight_bytes(model),
        file_bytes=file_bytes(model),
        peak_activation_bytes=peak_activation_bytes(model, args, kwargs),
        energy_joules=estimate.joules,
        energy_assumption=estimate.assumption,
    )


def compare(dense: Costs, pruned: Costs) -> dict[str, float]:
    """Divide the dense model's costs by the pruned model's: 2.0 is half the cost.

    Returns a ratio per quantity; `latency` is in it where the pruned model's was measured against the dense one's.
    A cost of nothing beside a cost of something is infinitely many times less; nothing beside nothing is 1.
    """
    ratios = {name: _ratio(getattr(dense, name), getattr(pruned, name)) for name in QUANTITIES}
    if pruned.latency is not None:
        ratios["latency"] = pruned.latency.ratio_to_first
    return ratios


def _ratio(dense: float, pruned: float) -> float:
    if pruned == 0:
        return 1.0 if dense == 0 else math.inf
    return dense / pruned


def environment(*, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> dict[str, str | int]:
    """Describe where figures were measured: versions, platform, processor, threads.

    device: where the model ran; a GPU is named. dtype: of the model; torch's default when not given.
    """
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "prunus": __version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": name,
        "dtype": str(dtype or torch.get_default_dtype()).removeprefix("torch."),
    }


def _cpu() -> str:
    """The processor's name: `platform` knows only its architecture on Linux."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
