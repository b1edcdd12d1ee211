"""Multiply-accumulates of a real forward pass, dense and with the zero weights skipped.

`torch.utils.flop_counter` prices each operation; some operations of CPUs have no formula there and get one here.
What has no formula in either place (element-wise work, norms, pooling, look-ups) costs nothing, as usual in the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from prunus.costs._forward import Args, Kwargs, evaluating, plain_attention, run, tensors

aten = torch.ops.aten
Shape = tuple[int, ...]


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Query (B, H, T, K) times key (B, H', S, K), then times value (B, H', S, K); a causal mask saves nothing."""
    batch, heads, targets, width = query
    return 4 * batch * heads * targets * key[-2] * width


def _rnn_flops(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    """Input (T, B, I) or (B, T, I), weights (4H, I) and (4H, H): one LSTM layer in one direction."""
    steps = x[0] * x[1]
    return 2 * steps * (input_weight[0] * input_weight[1] + hidden_weight[0] * hidden_weight[1])


def _mv_flops(matrix: Shape, vector: Shape, *_: Any, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _addmv_flops(bias: Shape, matrix: Shape, vector: Shape, *_: Any, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _dot_flops(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    return 2 * left[0]


_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten.mkldnn_rnn_layer: _rnn_flops,
    aten.mv: _mv_flops,
    aten.addmv: _addmv_flops,
    aten.dot: _dot_flops,
}

# Where the operands of a product stand; a weight among them can be sparse. Attention multiplies activations only.
_OPERANDS: Mapping[Any, tuple[int, ...]] = {
    **dict.fromkeys((aten.mm, aten.bmm, aten.mv, aten.dot, aten.convolution, aten._convolution), (0, 1)),
    **dict.fromkeys((aten.addmm, aten.baddbmm, aten.addmv, aten.mkldnn_rnn_layer), (1, 2)),
}


@dataclass(frozen=True)
class Work:
    """What one forward pass computes.

    macs: multiply-accumulates, all weights counted.
    effective_macs: without those whose weight is zero.
    by_module: macs inside each called module, by its name in `named_modules`; the model itself is "".
    activation_bytes: read and written by the counted operations; each tensor once per operation.
    """

    macs: int
    effective_macs: int
    by_module: dict[str, int]
    activation_bytes: int


def work(model: nn.Module, args: Args, kwargs: Kwargs = None) -> Work:
    """Count the work of one forward pass in evaluation mode; the model is left as it was.

    args: a tensor or a tuple of positional arguments; the counts are for this batch.
    Raises InputError when the model does not run on them or returns no tensor.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    ledger = _Ledger(counter, model)
    with evaluating(model), plain_attention(), counter, ledger:
        run(model, args, kwargs)
    return Work(
        macs=counter.get_total_flops() // 2,
        effective_macs=ledger.effective_macs,
        by_module=_by_module(counter, type(model).__name__),
        activation_bytes=ledger.activation_bytes,
    )


def macs(model: nn.Module, args: Args, kwargs: Kwargs = None) -> int:
    """Count the multiply-accumulates of one forward pass: half the FLOPs of `torch.utils.flop_counter`.

    args: a tensor or a tuple of positional arguments; the count is for this batch.
    Raises InputError when the model does not run on them or returns no tensor.
    """
    return work(model, args, kwargs).macs


def effective_macs(model: nn.Module, args: Args, kwargs: Kwargs = None) -> int:
    """Count the multiply-accumulates whose weight is not zero: each operation's MACs times its weight's density.

    Products of two activations, such as attention's, count in full. args and errors as in `macs`.
    """
    return work(model, args, kwargs).effective_macs


def macs_by_module(model: nn.Module, args: Args, kwargs: Kwargs = None) -> dict[str, int]:
    """Count the multiply-accumulates inside each called module that has some, by name; the model itself is "".

    A module's count includes its children's. args and errors as in `macs`.
    """
    return work(model, args, kwargs).by_module


def _by_module(counter: FlopCounterMode, root: str) -> dict[str, int]:
    """The counter's names start with the class of the model; `named_modules` does not."""
    counts = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items() if name != "Global"}
    return {name.removeprefix(root).removeprefix("."): count for name, count in counts.items() if count}


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Attributes the counter's flops to each operation, and knows which of its operands are weights.

    A weight is a parameter, a view of one, or what is computed from weights alone (a cast, a parametrization). It
    has to be entered inside the counter, which then prices every operation before the call returns here.
    """

    def __init__(self, counter: FlopCounterMode, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.effective_macs = 0
        self.activation_bytes = 0
        self._counter = counter
        # Values keep the storages alive, so that no other tensor gets their address.
        self._weights = {_address(parameter): parameter.detach() for parameter in model.parameters()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self._counter.get_total_flops()
        output = func(*args, **(kwargs or {}))
        count = (self._counter.get_total_flops() - before) // 2
        if count:
            self._enter(func.overloadpacket, args, output, count)
        else:
            self._derive(args, output)
        return output

    def _enter(self, packet: Any, args: tuple[Any, ...], output: Any, count: int) -> None:
        operands = [args[position] for position in _OPERANDS.get(packet, ())]
        weights = [operand for operand in operands if self._is_weight(operand)]
        self.effective_macs += count * _nonzeros(weights) // _elements(weights) if weights else count
        moved = [tensor for tensor in tensors((args, output)) if not self._is_weight(tensor)]
        self.activation_bytes += sum(tensor.numel() * tensor.element_size() for tensor in moved)

    def _derive(self, args: tuple[Any, ...], output: Any) -> None:
        inputs = list(tensors(args))
        if inputs and all(self._is_weight(tensor) for tensor in inputs):
            self._weights.update((_address(tensor), tensor) for tensor in tensors(output))

    def _is_weight(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.numel() > 0 and _address(tensor) in self._weights


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _nonzeros(weights: Iterable[Tensor]) -> int:
    return sum(int(torch.count_nonzero(weight)) for weight in weights)


def _elements(weights: Iterable[Tensor]) -> int:
    return sum(weight.numel() for weight in weights)
