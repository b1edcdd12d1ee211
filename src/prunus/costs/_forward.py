"""One careful forward pass: evaluation mode, no gradients, everything put back, and errors that say what is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunus.errors import InputError

Args = Tensor | tuple[Any, ...]
Kwargs = Mapping[str, Any] | None


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; every module's own training flag is restored after."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Let `nn.MultiheadAttention` and its encoder layers run as single operations instead of one fused one."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def as_args(args: Args) -> tuple[Any, ...]:
    """A tuple of positional arguments: a lone tensor is one argument."""
    if isinstance(args, Tensor):
        return (args,)
    if isinstance(args, tuple | list):
        return tuple(args)
    raise InputError(f"example inputs of type {type(args).__name__}; give a tensor or a tuple of arguments")


def run(model: nn.Module, args: Args, kwargs: Kwargs = None) -> Any:
    """Call the model as it stands.

    args: a tensor or a tuple of positional arguments.
    Raises InputError when the call fails or gives no tensor.
    """
    args = as_args(args)
    try:
        output = model(*args, **(kwargs or {}))
    except Exception as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{type(model).__name__} does not run on {describe(args, kwargs)}: {message}; give inputs that it accepts"
        ) from error
    if next(tensors(output), None) is None:
        raise InputError(
            f"{type(model).__name__} returns {type(output).__name__} without a tensor; return the tensor to be measured"
        )
    return output


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name))


def describe(args: tuple[Any, ...], kwargs: Kwargs = None) -> str:
    """The shapes and types of the arguments in one line: `(2x3x32x32 float32, mask=2x9 bool)`."""
    positional = [_describe_one(value) for value in args]
    named = [f"{name}={_describe_one(value)}" for name, value in (kwargs or {}).items()]
    return f"({', '.join(positional + named)})"


def _describe_one(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"{shape} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
