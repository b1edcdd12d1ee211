"""A cut tensor lies in memory as the dense one did: kernels choose their path by the strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prunus.plans.tensors import cut

LAST = torch.channels_last


@pytest.mark.parametrize(
    ("dense", "strides"),
    [
        (torch.randn(8, 1, 3, 3).to(memory_format=LAST), (9, 1, 3, 1)),  # contiguous in both formats: only strides tell
        (torch.randn(8, 1, 3, 3), (9, 9, 3, 1)),
        (torch.randn(8, 4, 3, 3).to(memory_format=LAST), (36, 1, 12, 4)),
        (torch.randn(8, 4, 3, 3), (36, 9, 3, 1)),
        (torch.randn(5, 8).t(), (1, 4)),
        (torch.randn(8), (1,)),
    ],
)
def test_half_the_rows_keep_the_order_of_the_strides(dense: Tensor, strides: tuple[int, ...]) -> None:
    rows = np.array([0, 3, 4, 7])
    small = cut(dense, {0: rows})
    assert small.stride() == strides
    assert torch.equal(small, dense[rows])
