"""ONNX files, checked against torch in ONNX Runtime before they take their place."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from prunus.axes import copied, unwrapped
from prunus.errors import FileError, InputError, ProofError

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """An ONNX file and how far ONNX Runtime's outputs lie from torch's, each relative to its own largest number."""

    path: Path
    max_rel: float


def export_onnx(
    model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None = None, *, path: str | os.PathLike[str]
) -> Exported:
    """Export a model in eval mode and compare ONNX Runtime's outputs with torch's on the example inputs.

    args, kwargs: example inputs; the first dimension of every tensor input stays open where export allows it.
    Raises InputError without the `onnx` extra, FileError where the file cannot be written, ProofError where ONNX
    Runtime computes something else; then no file is left.
    """
    path = Path(path)
    args = args if isinstance(args, tuple) else (args,)
    module = copied(unwrapped(model)).eval()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial.onnx")
    try:
        write(module, args, dict(kwargs or {}), partial)
        max_rel = _difference(module, args, dict(kwargs or {}), partial)
        if not max_rel <= TOLERANCE:
            raise ProofError(f"ONNX Runtime and torch differ by {max_rel:.1e} (relative) on the example inputs")
        os.replace(partial, path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {error}; choose a folder that exists and can be written") from error
    finally:
        partial.unlink(missing_ok=True)
    return Exported(path, max_rel)


def write(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Export with torch's exporter, the batch open; raises InputError without the `onnx` extra."""
    try:
        import onnx  # noqa: F401 - torch's exporter needs both, and says so less clearly
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"export to ONNX needs {error.name}; pip install 'prunus[onnx]'") from error
    names = None
    if kwargs and any(p.kind is p.VAR_KEYWORD for p in inspect.signature(module.forward).parameters.values()):
        names = [*(f"input_{i}" for i in range(len(args))), *kwargs]  # the exporter cannot tell such keywords apart
        module, args, kwargs = _Positional(module, len(args), list(kwargs)), (*args, *kwargs.values()), {}
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    open_batch = {0: torch.export.Dim.AUTO}
    shapes = pytree.tree_map(lambda x: open_batch if isinstance(x, Tensor) and x.dim() else None, dict(bound))
    options: dict[str, Any] = {"dynamic_shapes": shapes, "input_names": names, "verbose": False}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(module, args, kwargs=kwargs, dynamo=True, **options)
        assert program is not None
        program.save(path)


class _Positional(nn.Module):
    """A module whose keyword arguments follow its positional ones."""

    def __init__(self, module: nn.Module, num_args: int, names: list[str]) -> None:
        super().__init__()
        self.module, self.num_args, self.names = module, num_args, names

    def forward(self, *inputs: Any) -> Any:
        """Take all arguments in order."""
        return self.module(*inputs[: self.num_args], **dict(zip(self.names, inputs[self.num_args :], strict=True)))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what exporters say of foldings that failed and packages they miss: the file is run and compared."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _difference(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    feed = {slot.name: x.cpu().numpy() for slot, x in zip(session.get_inputs(), inputs, strict=True)}
    with torch.no_grad():
        want = [x for x in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(x, Tensor)]
    got = [torch.from_numpy(x) for x in session.run(None, feed)]
    # each on its own: beside boxes in pixels, wrong scores would pass for rounding
    return max(_apart(a.cpu(), b) for a, b in zip(want, got, strict=True))


def _apart(want: Tensor, got: Tensor) -> float:
    largest = float(want.abs().max())
    apart = float((want - got).abs().max())
    return apart / largest if largest else apart
