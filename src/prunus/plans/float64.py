"""A model in float64, whatever dtypes its code names, and inputs for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from prunus.axes import Graph
from prunus.plans.stand_ins import grouped_mm
from prunus.plans.tensors import named_state

GROUPED = [getattr(torch, "_grouped_mm", None), getattr(torch.nn.functional, "grouped_mm", None)]


class _AllFloat64(TorchFunctionMode):
    """Give float64 to code that asks for another floating dtype by name, as many normalisations do.

    own: the model's dtype, whose epsilon RMSNorm takes where none is given.
    """

    def __init__(self, own: torch.dtype) -> None:
        super().__init__()
        # torch computes halves in float32
        self.epsilon = torch.finfo(own if own is torch.float64 else torch.float32).eps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one torch function with every floating dtype replaced."""
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            func = Tensor.double
        if func in (torch.rms_norm, functional.rms_norm) and _no_epsilon(args, kwargs or {}):
            args, kwargs = args[:3], {**(kwargs or {}), "eps": self.epsilon}
        if func in GROUPED:
            func = grouped_mm
        return func(*map(_as_float64, args), **{name: _as_float64(value) for name, value in (kwargs or {}).items()})


def _as_float64(argument: Any) -> Any:
    """Return the widest dtype of its kind, real or complex, in the place of one; anything else as it is."""
    if not isinstance(argument, torch.dtype):
        return argument
    return torch.float64 if argument.is_floating_point else torch.complex128 if argument.is_complex else argument


def _wide(tensor: Tensor) -> Tensor:
    """Return a floating tensor in float64, a complex one in complex128, any other as it is."""
    return tensor.to(_as_float64(tensor.dtype))


def _no_epsilon(args: Any, kwargs: Any) -> bool:
    return (args[3] if len(args) > 3 else kwargs.get("eps")) is None


@contextmanager
def float64_code(own: torch.dtype = torch.float32) -> Iterator[None]:
    """Let everything that runs inside compute in float64, whatever dtypes its code names; `own` is the model's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _AllFloat64(own):
            yield
    finally:
        torch.set_default_dtype(before)


def float64_inputs(model: nn.Module, graph: Graph, *, noise: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the example inputs on the model's device, floats in float64, with noise of their scale on request."""
    device = next((t.device for t in named_state(model).values()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)

    def cast(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not x.is_floating_point():
            return _wide(x).to(device)
        x = x.to("cpu", torch.float64)
        return (x + noise_like(x, generator) if noise else x).to(device)

    args, kwargs = pytree.tree_map(cast, (graph.trace.args, dict(graph.trace.kwargs)))
    return args, kwargs


def outputs(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], own: torch.dtype = torch.float32, *, seed: int = 0
) -> list[Tensor]:
    """Run a float64 model; return its outputs in order, integers and flags as numbers.

    own: as in `float64_code`. seed: of torch's own generator on the CPU, for models that draw numbers in eval mode too;
    its state is kept.
    """
    with torch.random.fork_rng(devices=[]), float64_code(own):
        torch.manual_seed(seed)
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [x if x.is_complex() else x.double() for x in leaves if isinstance(x, Tensor)]


def double_(model: nn.Module) -> nn.Module:
    """Turn a model to float64 in eval mode, with the tensors that it keeps in plain attributes."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                module.__dict__[name] = _wide(value)
    model = model.double().eval()
    for tensor in named_state(model).values():
        tensor.data = _wide(tensor.data)  # complex ones, which double() leaves as they are
    return model


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return normal noise of half the tensor's scale, 0.1 where all is zero."""
    scale = float(tensor.detach().square().mean().sqrt()) if tensor.numel() else 0.0
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)  # float64 takes four times as long
    return noise.to(tensor.device, tensor.dtype).mul_(0.5 * scale if scale else 0.1)
