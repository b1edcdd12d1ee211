"""The calls of a model: put another function in the place of its forward, and tell calls and outputs apart exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils import _pytree as pytree

from prunus.axes import unwrapped
from prunus.sensitivity.tape import Refused

_OWN = {*nn.Module().__dict__, "forward"}
_MISSING = object()
_PLAIN = (int, float, complex, str, bool, bytes, type(None), torch.dtype, torch.device, slice)


@contextmanager
def forward_as(model: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let the model's calls reach another function than its forward.

    What that refuses is raised at the end once more: whoever calls the model may have caught it.
    """
    own = model.__dict__.get("forward")
    model.__dict__["forward"] = forward = _Forward(function)
    try:
        yield
    except Exception:
        if forward.refused is None:
            raise
    finally:
        if own is None:
            model.__dict__.pop("forward", None)
        else:
            model.__dict__["forward"] = own
    if forward.refused is not None:
        raise forward.refused


class _Forward:
    """A function that remembers what it refused; an object, so that a copy of the model calls a copy of it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.refused: Refused | None = None
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._function(*args, **kwargs)
        except Refused as reason:
            self.refused = reason
            raise


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


def held(model: nn.Module) -> dict[str, tuple[Any, int]]:
    """Return what modules hold besides weights, buffers and modules: a name to the thing, and a number of its state."""
    return {
        f"{name}.{key}".lstrip("."): (value, _state_of(value))
        for name, module in model.named_modules()
        for key, value in module.__dict__.items()
        if key not in _OWN
    }


def _state_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return 0 if value.is_inference() else value._version
    return len(value) if isinstance(value, (list, dict, set)) else 0


def set_meanwhile(before: Mapping[str, tuple[Any, int]], after: Mapping[str, tuple[Any, int]]) -> str | None:
    """Return the name of something that was set or changed between two looks at what modules hold; None if nothing."""
    for name, (value, state) in after.items():
        old, was = before.get(name, (_MISSING, 0))
        is_same = old is value or (isinstance(value, _PLAIN) and type(old) is type(value) and old == value)
        if not is_same or was != state:
            return name
    return None


def flat(value: Any, what: str) -> tuple[list[Any], Any]:
    """Flatten what a call takes or returns; raises Refused where it holds more than tensors and plain values."""
    leaves, tree = pytree.tree_flatten(value)
    for leaf in leaves:
        if not isinstance(leaf, (Tensor, *_PLAIN)):
            hint = "; evaluate with use_cache=False" if type(leaf).__name__.endswith("Cache") else ""
            raise Refused(f"the model {what} a {type(leaf).__name__}, which is not followed{hint}")
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
