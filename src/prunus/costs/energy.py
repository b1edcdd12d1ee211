"""Energy of one forward pass on a 45 nm machine of the textbook: a model of data movement, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from prunus.costs._forward import Args, Kwargs
from prunus.costs.compute import Work, work
from prunus.costs.size import nonzeros, parameters, weight_bytes

# Picojoules per operation or per 32-bit word. Source: Horowitz 2014, "Computing's energy problem", ISSCC, 45 nm, 0.9 V.
MULTIPLY_PJ = 3.7
ADD_PJ = 0.9
SRAM_PJ = 5.0
DRAM_PJ = 640.0
_WORD_BYTES = 4

ASSUMPTION = (
    "45 nm (Horowitz 2014): 3.7 pJ per float multiply, 0.9 pJ per float add; every parameter comes from DRAM once per "
    "forward pass at 640 pJ per 32-bit word; inputs and outputs of convolutions, linear layers and attention pass SRAM "
    "once each at 5 pJ per word; element-wise work is free; "
)


@dataclass(frozen=True)
class Energy:
    """Joules of one forward pass of one batch, their parts, and what was assumed.

    breakdown: joules of `multiply`, `add`, `weights` (DRAM) and `activations` (SRAM); they add up to `joules`.
    """

    joules: float
    breakdown: dict[str, float]
    assumption: str


def energy(model: nn.Module, args: Args, kwargs: Kwargs = None, *, skip_zeros: bool = False) -> Energy:
    """Estimate the energy of one forward pass by the 45 nm table.

    args: a tensor or a tuple of positional arguments; the estimate is for this batch.
    skip_zeros: assume a machine that neither fetches nor multiplies zero weights (and finds them for nothing); by
        default zeros cost what other weights cost.
    Raises InputError when the model does not run on them or returns no tensor.
    """
    return energy_of(model, work(model, args, kwargs), skip_zeros=skip_zeros)


def energy_of(model: nn.Module, done: Work, *, skip_zeros: bool = False) -> Energy:
    """Estimate the energy of work that was counted already; arguments as in `energy`."""
    density = nonzeros(model) / max(1, parameters(model)) if skip_zeros else 1.0
    count = done.effective_macs if skip_zeros else done.macs
    breakdown = joules(count, weight_bytes(model) * density, done.activation_bytes)
    zeros = "zero weights are skipped" if skip_zeros else "zero weights cost as much as others"
    return Energy(sum(breakdown.values()), breakdown, ASSUMPTION + zeros)


def joules(macs: float, weights: float, activations: float) -> dict[str, float]:
    """Return the joules of `multiply`, `add`, `weights` and `activations`.

    weights, activations: bytes that are moved.
    """
    picojoules = {
        "multiply": macs * MULTIPLY_PJ,
        "add": macs * ADD_PJ,
        "weights": weights / _WORD_BYTES * DRAM_PJ,
        "activations": activations / _WORD_BYTES * SRAM_PJ,
    }
    return {name: value * 1e-12 for name, value in picojoules.items()}
