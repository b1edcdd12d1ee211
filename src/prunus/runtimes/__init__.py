"""Who runs it: devices that measure, and files for runtimes outside torch."""

from prunus.runtimes.device import Compiled, Device, Eager, device, register_device
from prunus.runtimes.elsewhere import Elsewhere
from prunus.runtimes.onnx import Exported, export_onnx
from prunus.runtimes.onnx_device import OnnxRuntime

for _device in (Eager, Compiled, OnnxRuntime):
    register_device(_device.name, _device)

__all__ = [
    "Compiled",
    "Device",
    "Eager",
    "Elsewhere",
    "Exported",
    "OnnxRuntime",
    "device",
    "export_onnx",
    "register_device",
]
