"""When an optimizer step provably leaves a zero weight at zero, so that zeroing it again would change nothing.

Zero weight, zero gradient and zero state give a zero update in the element-wise optimizers named here: weight decay,
coupled or not, scales a zero, momentum and Nesterov add zeros, and a zero moment is divided by eps. Reading and
writing the weights again would cost 2.5 % of a LeNet-300-100 step for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

# By exact type: a subclass may do anything. The tests run each of them without the third action.
_AT_REST = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)
# In float16 the usual eps of 1e-8 rounds to zero, and 0 / 0 is nan. torch 2.13's fused SGD on a CPU mixes up the
# momentum of 16-bit parameters.
_TYPES = (torch.float32, torch.float64)


def rests(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of this optimizer keeps zero weights of zero gradient and zero state at exactly zero."""
    return type(optimizer) in _AT_REST and all(group.get("eps", 1.0) > 0 for group in optimizer.param_groups)


def can_rest(tensors: Iterable[Tensor]) -> bool:
    """Whether `rests` holds for tensors of these types."""
    return all(tensor.dtype in _TYPES for tensor in tensors)


def innermost(optimizer: Any, before: RemovableHandle, after: RemovableHandle) -> bool:
    """Whether no other hook runs between two step hooks of ours; it could write gradients or weights.

    before: our pre-hook, which then has to be the last one; after: our post-hook, the first one.
    """
    return (
        next(reversed(optimizer._optimizer_step_pre_hooks), None) == before.id
        and next(iter(optimizer._optimizer_step_post_hooks), None) == after.id
    )
