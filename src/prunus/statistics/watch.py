"""See what every weight reads while the model runs, wherever the weight lives and whichever module calls it."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from prunus.statistics.layers import Layer

See = Callable[[Layer, Tensor], None]

_MATMULS = (torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__)
_CONVS = (torch.conv1d, torch.conv2d, torch.conv3d)
_TRANSPOSED = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)


class Watch(TorchFunctionMode):
    """Call `see` with every watched weight's layer and the input that it reads, before it reads it.

    names: id of a parameter -> its name. Reading functions, not modules, finds bare parameters, weights of
    `nn.MultiheadAttention`, and those that several modules share.
    """

    def __init__(self, names: Mapping[int, str], see: See) -> None:
        super().__init__()
        self._names, self._see = names, see

    def __torch_function__(
        self, func: Callable[..., Any], types_: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            # Written in Python, with maps of its own inside: these shall be seen too.
            with self:
                return _opened(func)(*args, **kwargs)
        seen = self._reading(func, args, kwargs)
        if seen is not None:
            self._see(*seen)
        return func(*args, **kwargs)

    def _reading(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Layer, Tensor] | None:
        if func is functional.linear:
            return self._linear(*_named(args, kwargs, "input", "weight"), is_transposed=False)
        if func in _MATMULS:
            return self._product(*_named(args, kwargs, "input", "other"))
        if func in (torch.addmm, Tensor.addmm):
            return self._product(*_named(args[1:], kwargs, "mat1", "mat2"))
        if func in _CONVS or func in _TRANSPOSED:
            return self._convolution(func, args, kwargs)
        return None

    def _linear(self, x: Tensor, weight: Tensor, *, is_transposed: bool) -> tuple[Layer, Tensor] | None:
        name = self._names.get(id(weight))
        return None if name is None else (Layer(name, "linear", weight.shape, is_transposed), x)

    def _product(self, x: Tensor, weight: Tensor) -> tuple[Layer, Tensor] | None:
        """x @ W and x @ W.T; a view of W knows whose it is."""
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            return None
        base = weight._base
        if base is not None and weight.shape == base.shape[::-1] and weight.stride() == base.stride()[::-1]:
            return self._linear(x, base, is_transposed=False)
        return self._linear(x, weight, is_transposed=True)

    def _convolution(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Layer, Tensor] | None:
        x, weight = _named(args, kwargs, "input", "weight")
        name = self._names.get(id(weight))
        if name is None:
            return None
        num_dims = weight.dim() - 2
        if func in _TRANSPOSED:
            groups = _at(args, kwargs, 6, "groups", 1)
            return Layer(name, "conv_transpose", weight.shape, groups=groups), x
        padding = _at(args, kwargs, 4, "padding", 0)
        return (
            Layer(
                name,
                "conv",
                weight.shape,
                groups=_at(args, kwargs, 6, "groups", 1),
                stride=_tuple(_at(args, kwargs, 3, "stride", 1), num_dims),
                padding=padding if isinstance(padding, str) else _tuple(padding, num_dims),
                dilation=_tuple(_at(args, kwargs, 5, "dilation", 1), num_dims),
            ),
            x,
        )


def _opened(func: Any) -> Callable[..., Any]:
    """The same function without the look-up that would hand the call back to the mode."""
    blind = {name: lambda *_: False for name in func.__globals__ if name.startswith("has_torch_function")}
    return types.FunctionType(func.__code__, {**func.__globals__, **blind}, func.__name__, func.__defaults__)


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any], first: str, second: str) -> tuple[Any, Any]:
    return _at(args, kwargs, 0, first, None), _at(args, kwargs, 1, second, None)


def _at(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _tuple(value: int | tuple[int, ...], length: int) -> tuple[int, ...]:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * length if len(given) == 1 else given
