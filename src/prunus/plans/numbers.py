"""The numbers that modules and their configs hold: read, set, and derived from the shapes of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from prunus.axes import Surgery
from prunus.plans.tensors import Cut, named_state


def new_numbers(model: nn.Module, surgery: Surgery) -> dict[str, Any]:
    """Return the attributes that must change, by path: those that operations read, and those that describe weights."""
    out = {path: after for path, (before, after) in surgery.attributes.items() if number_at(model, path) == before}
    shapes = {name: _shape_after(tensor, surgery.edits.get(name)) for name, tensor in named_state(model).items()}
    for owner in _owners(surgery.edits):
        module = model.get_submodule(owner)
        own = {attribute: shapes[f"{owner}.{attribute}".lstrip(".")] for attribute in _tensor_attributes(module)}
        if "weight" not in own:
            made_of = [shape for name, shape in shapes.items() if _makes_weight(name, owner)]
            own["weight"] = max(made_of, key=math.prod, default=())
        split = int(out.get(f"{owner}.groups".lstrip("."), getattr(module, "groups", 1)))
        for attribute, value in _described(module, own, split).items():
            out[f"{owner}.{attribute}".lstrip(".")] = value
    return out


def number_at(model: nn.Module, path: str) -> Any:
    """Return what `path` holds, such as `blocks.0.attn.num_heads` or `config.sizes[1]`; None where nothing is there.

    Raises AttributeError where there is no such module.
    """
    owner, name, index = _place(model, path)
    value = getattr(owner, name, None)
    return value[index] if index is not None and isinstance(value, (tuple, list)) and index < len(value) else value


def set_number_(model: nn.Module, path: str, value: Any) -> None:
    """Put a number where `path` leads; within a tuple, a new tuple takes the old one's place."""
    owner, name, index = _place(model, path)
    if index is not None:
        whole = list(getattr(owner, name))
        whole[index] = value
        value = type(getattr(owner, name))(whole)
    if isinstance(owner, nn.Module):
        setattr(owner, name, value)
    else:
        vars(owner)[name] = value  # a config may be frozen, or check what it is given against what it was built with


def _place(model: nn.Module, path: str) -> tuple[Any, str, int | None]:
    head, _, index = path.partition("[")
    *parts, name = head.split(".")
    owner: Any = model
    for part in parts:
        owner = getattr(owner, part)
    return owner, name, int(index.rstrip("]")) if index else None


def _owners(names: Iterable[str]) -> list[str]:
    """Return the modules that hold tensors, or the parametrizations that make them, by path."""
    return list(dict.fromkeys(name.partition("parametrizations.")[0].rpartition(".")[0] for name in names))


def _makes_weight(name: str, owner: str) -> bool:
    """Tell whether a parametrization, or the old kind of weight norm, makes the weight of `owner` from a tensor."""
    prefix = f"{owner}." if owner else ""
    return name.startswith((f"{prefix}parametrizations.weight.", f"{prefix}weight_"))


def _tensor_attributes(module: nn.Module) -> list[str]:
    return [name for name, tensor in (*module._parameters.items(), *module._buffers.items()) if tensor is not None]


def _shape_after(tensor: Tensor, edit: Cut | None) -> tuple[int, ...]:
    return tuple(len(edit[i]) if edit and i in edit else n for i, n in enumerate(tensor.shape))


def _described(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], groups: int) -> dict[str, Any]:
    """Return torch's own numbers about a module as they follow from the shapes of its tensors."""
    weight = shapes["weight"]
    if not weight and isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)):
        return {}
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.transposed:
            return {"in_channels": weight[0], "out_channels": weight[1] * groups}
        return {"in_channels": weight[1] * groups, "out_channels": weight[0]}
    if isinstance(module, nn.Linear):
        return {"in_features": weight[1], "out_features": weight[0]}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        sizes = [shapes[name][0] for name in ("weight", "running_mean") if shapes.get(name)]
        return {"num_features": sizes[0]} if sizes else {}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight)}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": weight[0]}
    if isinstance(module, nn.MultiheadAttention):
        names = ("embed_dim", "kdim", "vdim")
        weights = [shapes.get(f"{name}_proj_weight", shapes.get("in_proj_weight", ())) for name in "qkv"]
        return {name: weight[1] for name, weight in zip(names, weights, strict=True)}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight[0]}
    return {}
