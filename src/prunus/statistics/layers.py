"""How a weight reads its input: the columns that it multiplies, and the channels they come from.

Columns follow the weight's layout: a linear map's inputs; a convolution's (input channel of its group, kernel
position), as `torch.nn.functional.unfold` orders them, with one set of columns per group of channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 1 << 24
"""How many unfolded numbers are held at a time."""


@dataclass(frozen=True)
class Layer:
    """One weight's way of reading: y = x Wᵀ, y = x W (`is_transposed`), or a convolution of 1 to 3 dims.

    shape: the weight's. A transposed convolution, (in, out / groups, …), has one column per input channel.
    """

    name: str
    kind: Literal["linear", "conv", "conv_transpose"]
    shape: torch.Size
    is_transposed: bool = False
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()

    @property
    def num_columns(self) -> int:
        """Columns per group."""
        if self.kind == "linear":
            return self.shape[0 if self.is_transposed else 1]
        return self.shape[0] // self.groups if self.kind == "conv_transpose" else self.shape[1:].numel()

    @property
    def way(self) -> Layer:
        """How it reads, without its name and number of outputs: layers of one way see the same columns of a tensor."""
        return replace(self, name="", shape=torch.Size((0, self.num_columns, *self.shape[2:])))

    def channels(self, x: Tensor) -> Tensor:
        """View the input as (T, C): every position, sample and token is a row."""
        if self.kind == "linear":
            return x.reshape(-1, x.shape[-1])
        batched = x if x.dim() == len(self.shape) else x.unsqueeze(0)
        return batched.movedim(1, -1).reshape(-1, batched.shape[1])

    def columns(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the columns as (groups, t, num_columns), in chunks of samples that bound the memory."""
        if self.kind != "conv":
            rows = self.channels(x)
            yield rows.reshape(len(rows), self.groups, -1).movedim(1, 0)
            return
        batched = x if x.dim() == len(self.shape) else x.unsqueeze(0)
        per_sample = batched[0].numel() * math.prod(self.shape[2:]) // max(1, math.prod(self.stride))
        for chunk in torch.split(batched, max(1, CHUNK // max(1, per_sample))):
            yield self._unfolded(chunk)

    def per_weight(self, per_column: Tensor) -> Tensor:
        """Give every column's number, (groups, num_columns), a shape that broadcasts against the weight."""
        if self.kind == "linear":
            return per_column.reshape((-1, 1) if self.is_transposed else (1, -1))
        if self.kind == "conv_transpose":
            return per_column.reshape(-1, *[1] * (len(self.shape) - 1))
        each = per_column.reshape(self.groups, *self.shape[1:])
        return each.repeat_interleave(self.shape[0] // self.groups, dim=0) if self.groups > 1 else each

    def per_input(self, per_channel: Tensor) -> Tensor:
        """Give every input channel's number, (C,), a shape that broadcasts against the weight."""
        if self.kind != "conv":
            return self.per_weight(per_channel)
        each = per_channel.reshape(self.groups, self.shape[1], *[1] * (len(self.shape) - 2))
        return each.repeat_interleave(self.shape[0] // self.groups, dim=0) if self.groups > 1 else each

    def _unfolded(self, x: Tensor) -> Tensor:
        """(N, C, …) -> (groups, N · positions, C / groups · kernel)."""
        kernel = self.shape[2:]
        padded = functional.pad(x, self._pads(kernel))
        for dim, (size, step, spread) in enumerate(zip(kernel, self.stride, self.dilation, strict=True), start=2):
            padded = padded.unfold(dim, spread * (size - 1) + 1, step)[..., ::spread]
        num_dims = len(kernel)
        # (N, C, *positions, *kernel) -> (groups, N, *positions, C / groups, *kernel)
        split = padded.reshape(padded.shape[0], self.groups, -1, *padded.shape[2:])
        order = [1, 0, *range(3, 3 + num_dims), 2, *range(3 + num_dims, 3 + 2 * num_dims)]
        return split.permute(order).reshape(self.groups, -1, self.num_columns)

    def _pads(self, kernel: torch.Size) -> list[int]:
        """The padding as `functional.pad` takes it, last dim first; `same` puts the odd one behind, as torch does."""
        if self.padding == "valid":
            return [0, 0] * len(kernel)
        if isinstance(self.padding, str):
            totals = [spread * (size - 1) for size, spread in zip(kernel, self.dilation, strict=True)]
            return [n for total in reversed(totals) for n in (total // 2, total - total // 2)]
        return [n for pad in reversed(self.padding) for n in (pad, pad)]


def without_padding(layer: Layer, x: Tensor, is_real: Tensor | None) -> Tensor:
    """Return the rows of a linear map's input that are real tokens, (B, T) bool, or all where nothing says so."""
    if is_real is None or layer.kind != "linear":
        return x
    rows = layer.channels(x)
    return rows[is_real.reshape(-1)] if len(rows) == is_real.numel() else x
