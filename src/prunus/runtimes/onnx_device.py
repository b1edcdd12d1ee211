"""ONNX Runtime as a device."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import copied, unwrapped
from prunus.errors import InputError
from prunus.runtimes.device import Args, Device, Kwargs
from prunus.runtimes.onnx import quiet, write


class OnnxRuntime(Device):
    """ONNX Runtime on the processor, all its graph optimisations on."""

    name = "onnxruntime"

    @property
    def version(self) -> str:
        """ONNX Runtime's."""
        return str(_runtime().__version__)

    def prepare(self, model: nn.Module, args: Args, kwargs: Kwargs = None) -> Callable[[], object]:
        """Return a session's run; the file is not kept."""
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        exported = _exported(copied(unwrapped(model)).eval(), args, dict(kwargs or {}))
        session = runtime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
        given = [
            x.detach().cpu().numpy() for x in pytree.tree_leaves((args, dict(kwargs or {}))) if isinstance(x, Tensor)
        ]
        slots = [slot.name for slot in session.get_inputs()]
        if len(slots) != len(given):
            raise InputError(
                f"{type(model).__name__} takes {len(given)} tensors, of which its ONNX file reads {len(slots)}; "
                "leave out those that change nothing"
            )
        feed = dict(zip(slots, given, strict=True))
        return lambda: session.run(None, feed)


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError("the device onnxruntime needs ONNX Runtime; pip install 'prunus[onnx]'") from error
    return onnxruntime


def _exported(module: nn.Module, args: Args, kwargs: dict[str, Any]) -> bytes:
    """Return the ONNX file, by the older exporter, which takes milliseconds; else by that of `export_onnx`."""
    buffer = io.BytesIO()
    try:
        with quiet(), torch.no_grad():
            given = (*args, kwargs) if kwargs else args
            torch.onnx.export(module, given, buffer, dynamo=False)  # type: ignore[arg-type]
        return buffer.getvalue()
    except Exception:  # whatever it does not know
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            write(module, args, kwargs, path)
            return path.read_bytes()
