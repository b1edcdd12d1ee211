"""What computes in the place of operations that torch has no float64 kernel for."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("prunus::grouped_mm", mutates_args=())
def row_by_row(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    """Return rows offs[e-1]:offs[e] of x times weight[e]; an operation of its own, since export cannot see the rows."""
    out = x.new_zeros(x.shape[0], weight.shape[2])
    start = 0
    for expert, end in enumerate(offs.tolist()):
        out[start:end] = x[start:end] @ weight[expert]
        start = end
    return out


@row_by_row.register_fake
def _(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


def grouped_mm(
    x: Tensor,
    weight: Tensor,
    *,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Return rows offs[e-1]:offs[e] of x times weight[e], one after the other, plus bias.

    x: (T, K). weight: (E, K, N). offs: (E,), ascending; rows behind the last give 0. Without it x is (E, T, K).
    Returns (T, N), or (E, T, N), as `torch.nn.functional.grouped_mm` does.
    """
    out = torch.bmm(x, weight) if offs is None else row_by_row(x, weight, offs)
    return (out if bias is None else out + bias).to(out_dtype or x.dtype)
