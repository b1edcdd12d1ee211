"""Who runs it? Thinned models handed to other runtimes, and checked there."""

from prunus.runtimes.onnx import Exported, export_onnx

__all__ = ["Exported", "export_onnx"]
