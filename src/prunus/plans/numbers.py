"""The numbers that modules and their configs hold, as a plan changes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from prunus.axes import Surgery
from prunus.plans.attention import ThinnedMultiheadAttention
from prunus.plans.changes import Number
from prunus.plans.depth import Skipped
from prunus.plans.tensors import Cut, named_state

Shapes = Mapping[str, tuple[int, ...]]

# What tells the shape of a module's weight: itself, the tensor that torch computes it from, or a norm's statistics.
_WEIGHTS = (
    "weight",
    "parametrizations.weight.original",
    "parametrizations.weight.original1",
    "weight_orig",  # before weight_v, which spectral_norm has as well
    "weight_v",
    "running_mean",
    "weight_ih_l0",
    "weight_ih",
)
_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def new_numbers(model: nn.Module, surgery: Surgery) -> list[Number]:
    """Return the attributes that must change: those that operations read, and those that describe weights."""
    numbers = {path: after for path, (before, after) in surgery.attributes.items() if _holds(model, path, before)}
    shapes = {name: _shape_after(tensor, surgery.edits.get(name)) for name, tensor in named_state(model).items()}
    for owner in dict.fromkeys(map(_owner, surgery.edits)):
        prefix = f"{owner}." if owner else ""
        own = {name: shapes[prefix + name] for name in _WEIGHTS if prefix + name in shapes}
        module = model.get_submodule(owner)
        split = int(numbers.get(f"{prefix}groups", getattr(module, "groups", 1)))
        numbers.update({f"{prefix}{name}": value for name, value in _described(module, own, split).items()})
    skips: list[Number] = []
    for path, how in surgery.dropped.items():
        parent, _, child = path.rpartition(".")
        skips.append((model.get_submodule(parent), child, Skipped(*how)))
    return [*_settings(model, numbers), *_attentions(model, shapes), *skips]


def _settings(model: nn.Module, numbers: Mapping[str, Any]) -> list[Number]:
    """Turn paths into objects and attributes; numbers of one tuple make one new tuple."""
    out: dict[tuple[int, str], Number] = {}
    for path, value in numbers.items():
        owner, name, index = _place(model, path)
        key = (id(owner), name)
        if index is not None:
            whole = out[key][2] if key in out else getattr(owner, name)
            value = type(whole)(value if i == index else x for i, x in enumerate(whole))
        out[key] = (owner, name, value)
    return list(out.values())


def _holds(model: nn.Module, path: str, before: float) -> bool:
    """Tell whether `path` holds a number, or None for a default epsilon; raises AttributeError where no module is."""
    owner, name, index = _place(model, path)
    value = getattr(owner, name, math.nan)
    if isinstance(value, (tuple, list)) and index is not None and index < len(value):
        value = value[index]
    return value == before or (value is None and isinstance(before, float))


def _place(model: nn.Module, path: str) -> tuple[Any, str, int | None]:
    """Find the object that holds `blocks.0.attn.num_heads` or `config.sizes[1]`, the attribute, and its index."""
    head, _, index = path.partition("[")
    *parts, name = head.split(".")
    owner: Any = model
    for part in parts:
        owner = getattr(owner, part)
    return owner, name, int(index.rstrip("]")) if index else None


def _owner(name: str) -> str:
    """Return the path of the module that a tensor describes; a parametrization describes the one it belongs to."""
    outside, _, inside = name.partition("parametrizations.")
    return outside.rstrip(".") if inside else name.rpartition(".")[0]


def _shape_after(tensor: Tensor, edit: Cut | None) -> tuple[int, ...]:
    return tuple(len(edit[i]) if edit and i in edit else n for i, n in enumerate(tensor.shape))


def _attentions(model: nn.Module, shapes: Shapes) -> list[Number]:
    """Widths of torch's own attention, and another forward where its heads no longer fill the width."""
    out: list[Number] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            prefix = f"{path}." if path else ""
            packed = shapes.get(f"{prefix}in_proj_weight")
            weights = [packed or shapes[prefix + name] for name in _PROJECTIONS]
            rows = packed[0] // 3 if packed else weights[0][0]
            widths = [weight[1] for weight in weights]
            dense = (module.embed_dim, module.kdim, module.vdim)
            names = ("embed_dim", "kdim", "vdim")
            out += [(module, n, new) for n, new, old in zip(names, widths, dense, strict=True) if new != old]
            narrow = not rows == shapes[f"{prefix}out_proj.weight"][1] == widths[0]
            if narrow and type(module) is nn.MultiheadAttention:
                out.append((module, "__class__", ThinnedMultiheadAttention))
                # keeps torch's fused encoder layer, which knows dense shapes only, away
                out.append((module, "_qkv_same_embed_dim", False))
    narrowed = {id(module) for module, name, _ in out if name == "__class__"}
    for module in model.modules():  # nor may whole encoders hand nested tensors to it
        if isinstance(module, nn.TransformerEncoder) and any(id(m) in narrowed for m in module.modules()):
            out.append((module, "use_nested_tensor", False))
    return out


def _described(module: nn.Module, shapes: Shapes, groups: int) -> dict[str, Any]:
    """Return torch's own numbers about a module as they follow from the shapes of its tensors."""
    weight = next((shapes[name] for name in _WEIGHTS if name in shapes), ())
    if not weight:
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
        return {"num_features": weight[0]}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight)}
    if isinstance(module, nn.GroupNorm):
        return {"num_channels": weight[0]}
    if isinstance(module, nn.RNNBase):
        return {"input_size": weight[1], "hidden_size": weight[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)}
    if isinstance(module, nn.RNNCellBase):
        return {"input_size": weight[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight[0]}
    return {}
