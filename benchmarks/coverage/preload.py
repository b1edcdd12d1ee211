"""Everything that a case imports, for the process from which the sweep forks its cases."""

from __future__ import annotations

import importlib
from contextlib import suppress

from benchmarks.coverage import one
from benchmarks.coverage.cases import names

HEAVY = ("torch._dynamo", "torch.onnx", "onnxscript", "onnxruntime", "timm", "transformers.modeling_utils")

__all__ = ["names", "one"]

for module in ("torchvision_ops", *HEAVY):
    with suppress(ImportError):
        importlib.import_module(module)
