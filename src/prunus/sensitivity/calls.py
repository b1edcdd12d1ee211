"""The calls of a model: put another function in the place of its forward, and tell calls and outputs apart exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils import _pytree as pytree

from prunus.axes import unwrapped
from prunus.sensitivity.tape import Refused

_PLAIN = (int, float, complex, str, bool, bytes, type(None), torch.dtype, torch.device, slice)


@contextmanager
def forward_as(model: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let the model's calls reach another function than its forward."""
    own = model.__dict__.get("forward")
    model.__dict__["forward"] = function
    try:
        yield
    finally:
        if own is None:
            model.__dict__.pop("forward", None)
        else:
            model.__dict__["forward"] = own


def obstacle(model: nn.Module) -> str | None:
    """Say what in a model hides its operations, or what goes on in it, from one who watches its forward."""
    if unwrapped(model) is not model:
        return f"the model is wrapped in a {type(model).__name__}"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "hooks on all modules are set"
    for name, module in model.named_modules():
        shown = name or "the model"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{shown} has forward hooks"
        if isinstance(module, torch.jit.ScriptModule):
            return f"{shown} is a script module"
        if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
            return f"{shown} is compiled"
    return None


def flat(value: Any, what: str) -> tuple[list[Any], Any]:
    """Flatten what a call takes or returns; raises Refused where it holds more than tensors and plain values."""
    leaves, tree = pytree.tree_flatten(value)
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *_PLAIN)):
            raise Refused(f"the model {what} a {type(leaf).__name__}, which is not followed")
        if isinstance(leaf, Tensor) and (leaf.layout is not torch.strided or leaf.is_quantized):
            raise Refused(f"the model {what} a tensor of layout {leaf.layout}, which is not followed")
    return leaves, tree


def mark(leaves: Sequence[Any], tree: Any) -> str:
    """Hash what a call takes or returns, bit for bit."""
    digest = hashlib.sha256(str(tree).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}{leaf.stride()}{leaf.device}".encode())
            digest.update(_bits(leaf).numpy().data)
        else:
            digest.update(f"{type(leaf).__name__}{leaf!r}".encode())
    return digest.hexdigest()


def _bits(tensor: Tensor) -> Tensor:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8) if plain.dtype is not torch.bool else plain
