"""Who runs it: devices that measure, and files for runtimes outside torch."""

from prunus.runtimes.device import Compiled, Device, Eager, device, register_device
from prunus.runtimes.elsewhere import Elsewhere
from prunus.runtimes.estimate import Estimate, estimate
from prunus.runtimes.given import GivenTable
from prunus.runtimes.onnx import Exported, export_onnx
from prunus.runtimes.onnx_device import OnnxRuntime
from prunus.runtimes.steps import STEPS, step_for
from prunus.runtimes.table import Check, LatencyTable, latency_table

for _device in (Eager, Compiled, OnnxRuntime):
    register_device(_device.name, _device)

__all__ = [
    "STEPS",
    "Check",
    "Compiled",
    "Device",
    "Eager",
    "Elsewhere",
    "Estimate",
    "Exported",
    "GivenTable",
    "LatencyTable",
    "OnnxRuntime",
    "device",
    "estimate",
    "export_onnx",
    "latency_table",
    "register_device",
    "step_for",
]
