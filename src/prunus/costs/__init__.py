"""What a model is worth: size, work, memory, energy, time."""

from prunus.costs.compute import Work, effective_macs, macs, macs_by_module, work
from prunus.costs.energy import Energy, energy
from prunus.costs.measure import QUANTITIES, Costs, compare, environment, measure
from prunus.costs.memory import peak_activation_bytes
from prunus.costs.size import file_bytes, nonzeros, parameters, weight_bytes
from prunus.costs.structure import energies_of, energy_of_structure
from prunus.costs.timing import Latency, batch_of, check_rounds, latency, own_clock, timed

__all__ = [
    "QUANTITIES",
    "Costs",
    "Energy",
    "Latency",
    "Work",
    "batch_of",
    "check_rounds",
    "compare",
    "effective_macs",
    "energies_of",
    "energy",
    "energy_of_structure",
    "environment",
    "file_bytes",
    "latency",
    "macs",
    "macs_by_module",
    "measure",
    "nonzeros",
    "own_clock",
    "parameters",
    "peak_activation_bytes",
    "timed",
    "weight_bytes",
    "work",
]
